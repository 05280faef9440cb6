using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Rdma.Regions;

/// <summary>
/// What is behind a region over the memory of a process. Host lock held by the caller, unless a member says otherwise.
/// </summary>
internal abstract class RegionBacking
{
    private PageMiss? _miss;
    private PageMiss? _refusal;

    /// <summary>The port met a page that is not there: port token held, no lock. The last one counts.</summary>
    public void NoteMiss(PageMiss miss) => Volatile.Write(ref _miss, miss);

    /// <summary>
    /// Brings in what was missed. <paramref name="completed"/> runs once, after the lock was released.
    /// </summary>
    public abstract void ServeFault(Action<Errno>? completed);

    /// <summary>
    /// Kills the key and lets the memory go. A fence when the port is inside: call again when it has ended.
    /// </summary>
    public abstract Fence? Release();

    /// <summary>
    /// Whether the fault of that place could not be served and nobody was told yet. Another place's refusal is not
    /// this one's: it faults, and is refused itself if need be. Port token held.
    /// </summary>
    public bool TryTakeRefusal(ulong offset) =>
        Volatile.Read(ref _refusal) is { } refusal
        && refusal.Offset / PageFrame.SizeBytes == offset / PageFrame.SizeBytes
        && ReferenceEquals(Interlocked.CompareExchange(ref _refusal, null, refusal), refusal);

    /// <summary>A miss that will never be served. Host lock held.</summary>
    protected void Refuse(PageMiss miss) => Volatile.Write(ref _refusal, miss);

    protected PageMiss? TakeMiss() => Interlocked.Exchange(ref _miss, null);
}

/// <summary>Where a packet wanted to go.</summary>
/// <param name="Offset">As the translation counts.</param>
/// <param name="LengthBytes">Of the access.</param>
/// <param name="IsWrite">Whether the page must be writable.</param>
internal sealed record PageMiss(ulong Offset, int LengthBytes, bool IsWrite);

/// <summary>
/// The address of a page that is not there: no bus has it, wherever in a range of up to 2^63 bytes one looks.
/// </summary>
internal static class PageHole
{
    private const ulong Bit = 1UL << 63;

    public static DeviceAddress Address { get; } = new(Bit);

    public static bool Is(DeviceAddress address) => (address.Value & Bit) != 0;
}
