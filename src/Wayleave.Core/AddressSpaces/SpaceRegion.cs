using Wayleave.Core.PeerMemory;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// A range of addresses of one kind and one protection (<c>vm_area_struct</c>). Immutable: a change of an address space
/// replaces regions.
/// </summary>
public sealed record SpaceRegion
{
    internal SpaceRegion(AddressRange addresses, RegionRequest request) =>
        (Addresses, Request, Protection, FileOffset) = (addresses, request, request.Protection, request.FileOffset);

    public AddressRange Addresses { get; internal init; }

    public SpaceProtection Protection { get; internal init; }

    /// <summary>Of the first byte.</summary>
    public ulong FileOffset { get; internal init; }

    public RegionKind Kind => Request.Kind;

    public bool IsShared => Request.IsShared;

    public MemoryFile? File => Request.File;

    public PeerUserMapping? Peer => Request.Peer;

    public string Name => Request.Name;

    /// <summary>No pages are behind it that could be pinned or mirrored (<c>VM_IO</c>, <c>VM_PFNMAP</c>).</summary>
    public bool IsSpecial => Kind == RegionKind.Device;

    public bool IsReadable => (Protection & SpaceProtection.Read) != 0;

    public bool IsWritable => (Protection & SpaceProtection.Write) != 0;

    /// <summary>A store makes a page of one's own of what others see too.</summary>
    public bool IsCopyOnWrite => !IsShared;

    internal RegionRequest Request { get; }

    public override string ToString() => $"{(Name.Length > 0 ? Name : Kind.ToString())} {Addresses}";

    internal ulong FilePageOf(ulong page) => (FileOffset / PageFrame.SizeBytes) + page - Addresses.FirstPage;

    /// <summary>The part of it inside <paramref name="range"/>.</summary>
    internal SpaceRegion Cut(AddressRange range)
    {
        ulong start = Math.Max(Addresses.Start, range.Start);
        ulong end = Math.Min(Addresses.End, range.End);
        return this with
        {
            Addresses = new AddressRange(start, end - start),
            FileOffset = FileOffset + start - Addresses.Start,
        };
    }

    /// <summary>Whether one region could stand for both, as the kernel merges neighbours.</summary>
    internal bool CanMergeWith(SpaceRegion next) =>
        Addresses.End == next.Addresses.Start && ReferenceEquals(Request, next.Request)
            && Protection == next.Protection && FileOffset + Addresses.LengthBytes == next.FileOffset;
}
