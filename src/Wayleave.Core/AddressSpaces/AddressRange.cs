namespace Wayleave.Core.AddressSpaces;

/// <summary>A range of virtual addresses of a process, in bytes. It does not wrap.</summary>
public readonly record struct AddressRange(ulong Start, ulong LengthBytes)
{
    /// <summary>All of an address space.</summary>
    public static AddressRange All { get; } = new(0, ulong.MaxValue);

    /// <summary>The first address behind it.</summary>
    public ulong End => Start + LengthBytes;

    /// <summary>Whether it starts and ends on page boundaries.</summary>
    public bool IsPageAligned => ((Start | LengthBytes) & (PageFrame.SizeBytes - 1)) == 0;

    internal ulong FirstPage => Start / PageFrame.SizeBytes;

    /// <summary>Behind the last page that it touches.</summary>
    internal ulong EndPage => (End / PageFrame.SizeBytes) + (End % PageFrame.SizeBytes == 0 ? 0UL : 1UL);

    public bool Contains(ulong address) => address >= Start && address - Start < LengthBytes;

    /// <summary>Whether the whole of <paramref name="other"/> lies inside.</summary>
    public bool Contains(AddressRange other) => other.Start >= Start && other.End <= End;

    /// <summary>Whether the two share a byte.</summary>
    public bool Overlaps(AddressRange other) =>
        LengthBytes != 0 && other.LengthBytes != 0 && Start < other.End && other.Start < End;

    public override string ToString() => $"0x{Start:x}+0x{LengthBytes:x}";

    internal static AddressRange OfPage(ulong page) => new(page * PageFrame.SizeBytes, PageFrame.SizeBytes);

    internal static AddressRange OfPages(ulong first, ulong end) =>
        new(first * PageFrame.SizeBytes, (end - first) * PageFrame.SizeBytes);
}
