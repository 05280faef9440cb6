using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Regions;

// Where this library lives in the process whose memory it is, a page that is not in memory is brought in by the
// processor's own fault, and the only thing to find out is whether there is a page at all. So nothing is mirrored: the
// list of addresses is one hole, and every access that meets it asks the kernel to copy, which answers EFAULT where a
// load would have ended the process.

/// <summary>
/// A region that is paged on demand, over the process that this code is in (<c>IBV_ACCESS_ON_DEMAND</c>). A range that
/// is not mapped refuses the access that needs it; the next may find it mapped. Members take the port token.
/// </summary>
internal sealed class UnpinnedBacking : RegionBacking
{
    private const int BlockBytes = 64 << 10;

    private readonly MemoryRegion _region;
    private readonly HostContext _host;
    private readonly IUnpinnedMemory _memory;
    private readonly Translation _translation;
    private readonly Timeline _timeline;
    private byte[]? _block; // what a run reads from
    private Fence? _drain;

    /// <summary>Host lock held.</summary>
    public UnpinnedBacking(MemoryRegion region, HostContext host, IUnpinnedMemory memory, ulong address)
    {
        (_region, _host, _memory, Address) = (region, host, memory, address);
        _timeline = new Timeline(host, region.Name);
        DmaAddressList nothing = new([new DeviceRange(PageHole.Address, region.LengthBytes)]);
        _translation = new Translation(nothing, new InFlightGate(HandleDrained));
        region.PublishBacked(_translation);
    }

    /// <summary>Of the region's first byte.</summary>
    public ulong Address { get; }

    /// <summary>Copies bytes there. Inside the gate.</summary>
    public AccessOutcome Write(ulong offset, ReadOnlySpan<byte> bytes) =>
        OutcomeOf(_memory.TryWrite(Address + offset, bytes));

    /// <summary>Copies bytes from there. Inside the gate.</summary>
    public AccessOutcome Read(ulong offset, Span<byte> bytes) => OutcomeOf(_memory.TryRead(Address + offset, bytes));

    /// <summary>As <see cref="RegionMemory.TryOpen"/>: a copy, good until the next. Inside the gate.</summary>
    public AccessOutcome TryOpen(ulong offset, int lengthBytes, out ReadOnlySpan<byte> bytes)
    {
        _block ??= new byte[BlockBytes];
        Span<byte> block = _block.AsSpan(0, Math.Min(lengthBytes, BlockBytes));
        AccessOutcome outcome = Read(offset, block);
        bytes = outcome == AccessOutcome.Done ? block : default;
        return outcome;
    }

    /// <summary>Nothing is ever waited for.</summary>
    public override void ServeFault(Action<Errno>? completed)
    {
        if (completed is not null)
        {
            _host.Defer(() => completed(Errno.Success));
        }
    }

    public override Fence? Release()
    {
        _region.KillBacked();
        if (_drain is null && !_translation.Gate.IsClosed && !_translation.Gate.Close(out _))
        {
            _drain = _timeline.CreateFence(); // signalled by the last one out
        }

        return _drain is { HasEnded: false } drain ? drain : null;
    }

    private static AccessOutcome OutcomeOf(Errno errno) =>
        errno == Errno.Success ? AccessOutcome.Done : AccessOutcome.Refused;

    private void HandleDrained()
    {
        using (_host.Enter())
        {
            using SignalingSection section = new(_region.Name, "drain");
            _drain?.Signal();
        }
    }
}
