using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu.Compute;

// svm_range_restore_pages of amdkfd, drm_gpusvm. The GPU's page table for a range of a process, filled by faults and
// emptied by the notifier, while the queues run. Entries are single words that the engine reads without a lock; what
// makes a removal certain is the gate, which stands for the flush of the TLB:
//
//   engine:    enter the gate -> read entries, touch pages: at most one block -> exit
//   notifier:  clear entries; a new gate; close the old one; wait until nobody is inside any closed one
//
// Who enters the new gate finds the entries cleared, because they were before it was there. Who is in an old one may
// have seen an entry of any later time, so all closed gates are waited for and not only the last.

/// <summary>
/// A range of a process's memory that a GPU reaches by its own addresses and may fault on. Host lock held by the
/// caller, unless a member says otherwise.
/// </summary>
internal sealed class MirrorBinding : GpuBinding, IMirror
{
    private const ulong Valid = 1;
    private const ulong Writable = 2;

    // Never used: what is mapped here is translated page by page.
    private static readonly DmaAddressList s_none = new([]);

    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private readonly ulong[] _entries; // address | bits; written under the host lock, read by the engine
    private readonly MirrorDefences _defences;
    private volatile InFlightGate _gate;
    private IntervalNotifier? _notifier;
    private MirrorDrain? _inside;
    private int _undrained; // closed gates with somebody inside

    public MirrorBinding(GpuProcess process, uint handle, AddressSpace space, AddressRange range, GpuAccess access)
        : base(process, handle, $"{space.Name} {range}", access)
    {
        (_space, _range, _defences) = (space, range, process.Device.MirrorDefences);
        _entries = new ulong[range.LengthBytes / PageFrame.SizeBytes];
        _gate = new InFlightGate(HandleDrained);
        Reservation = new Reservation(Host, Name);
    }

    public override SharedBuffer? Buffer => null;

    public override ulong SizeBytes => _range.LengthBytes;

    public override bool IsGone => _notifier is null || _space.IsDead;

    /// <summary>Pages in the GPU's reach.</summary>
    public int MappedCount { get; private set; }

    internal override Reservation? Reservation { get; }

    internal override DmaAddressList? Addresses => s_none;

    public Errno Subscribe() => _space.Subscribe(_range, this, out _notifier);

    /// <summary>
    /// The engine starts a block: what it reads from here on stays the process's until <see cref="InFlightGate.Exit"/>.
    /// Callable without the lock.
    /// </summary>
    public InFlightGate Enter()
    {
        while (true)
        {
            InFlightGate gate = _gate;
            if (gate.TryEnter())
            {
                return gate;
            }
        }
    }

    /// <summary>
    /// Where a byte is, and how far from there on in one piece. Inside the gate; without the lock.
    /// </summary>
    /// <returns><see cref="Errno.EAGAIN"/> where a fault is needed first.</returns>
    public Errno TryTranslate(ulong offset, GpuAccess access, out DeviceAddress address, out ulong contiguousBytes)
    {
        ulong needed = (access & GpuAccess.Write) != 0 ? Valid | Writable : Valid;
        ulong page = offset / PageFrame.SizeBytes, within = offset % PageFrame.SizeBytes;
        ulong entry = Volatile.Read(ref _entries[page]);
        (address, contiguousBytes) = (default, 0);
        if ((entry & needed) != needed)
        {
            return Errno.EAGAIN;
        }

        address = new DeviceAddress((entry & ~(ulong)(PageFrame.SizeBytes - 1)) + within);
        contiguousBytes = PageFrame.SizeBytes - within;
        return Errno.Success;
    }

    public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
    {
        if (!range.IsBlockable)
        {
            return InvalidateAnswer.Refused;
        }

        if ((_defences & MirrorDefences.SetsSequence) != 0)
        {
            notifier.SetSequence(sequence);
        }

        if ((_defences & MirrorDefences.ClearsEntries) != 0 && TryClear(range.Addresses))
        {
            CloseGate();
        }

        return _undrained > 0 && (_defences & MirrorDefences.WaitsForBlock) != 0
            ? InvalidateAnswer.WaitFor(_inside!)
            : InvalidateAnswer.Done;
    }

    /// <summary>The loop of the driver for a fault, with some pages behind it that are there anyway.</summary>
    /// <param name="offset">That was touched.</param>
    /// <param name="isWrite">For writing.</param>
    /// <param name="activity">Who serves it.</param>
    /// <param name="unreachable">Called when the page is there, and at no address that a device has.</param>
    /// <returns>Null when the memory is no longer the GPU's.</returns>
    public SpaceOperation? Fault(ulong offset, bool isWrite, Activity activity, Action unreachable)
    {
        if (IsGone)
        {
            return null;
        }

        ulong first = offset / PageFrame.SizeBytes;
        ulong count = Math.Min((ulong)Process.Device.FaultAheadPages + 1, (ulong)_entries.Length - first);
        AddressRange pages = new(
            _range.Start + (first * PageFrame.SizeBytes), count * PageFrame.SizeBytes);
        MirrorRange look = new(_space, _notifier!, pages)
        {
            RequestMask = MirrorBits.Fault | MirrorBits.FaultWrite,
            NeedsAddresses = true,
            Owner = Process.Device,
            Preferred = Process.Device.ProcessMemory is { } own && ReferenceEquals(own.System, _space.Memory)
                ? own.Pages
                : null,
            AllowsPeerToPeer = Process.Device.ReachesPrivatePages,
            Client = Process.Device.Function,
        };
        look.Requests[0] = isWrite ? MirrorBits.Fault | MirrorBits.FaultWrite : MirrorBits.Fault;
        return look.Update(
            seen =>
            {
                if (seen.Pages[0] is { IsValid: true, Frame.Address.Value: 0 })
                {
                    unreachable();
                }

                Program(seen);
            },
            activity);
    }

    // The address-space lock is nobody's to wait for here, and nothing has to be there before the queues run.
    internal override MapOutcome MapLocked(AcquireTicket ticket) =>
        IsGone ? MapOutcome.Refused(Errno.EFAULT) : MapOutcome.Mapped(s_none);

    private protected override void HandleIdle()
    {
    }

    private protected override void ReleaseNow()
    {
        if (TryClear(_range))
        {
            CloseGate();
        }

        _notifier?.Remove();
        _notifier = null;
    }

    // With the host lock held, and the pages certain.
    private void Program(MirrorRange look)
    {
        if (IsGone)
        {
            return;
        }

        ulong first = (look.Addresses.Start - _range.Start) / PageFrame.SizeBytes;
        for (int i = 0; i < look.Pages.Count; i++)
        {
            MirrorPage page = look.Pages[i];
            if (page is not { IsValid: true, Frame.Address.Value: not 0 })
            {
                continue;
            }

            bool isWritable = page.IsWritable && (Access & GpuAccess.Write) != 0;
            if (isWritable)
            {
                page.Frame.MarkDirty(); // the queue writes when it likes
            }

            ref ulong entry = ref _entries[first + (ulong)i];
            MappedCount += entry == 0 ? 1 : 0;
            bool isForeign = (page.Bits & MirrorBits.PeerToPeer) != 0;
            ulong address = isForeign ? page.Address.Value : page.Frame.Address.Value;
            Volatile.Write(ref entry, address | Valid | (isWritable ? Writable : 0));
        }
    }

    private bool TryClear(AddressRange range)
    {
        ulong start = Math.Max(range.Start, _range.Start), end = Math.Min(range.End, _range.End);
        int before = MappedCount;
        for (ulong at = start; at < end; at += PageFrame.SizeBytes)
        {
            ref ulong entry = ref _entries[(at - _range.Start) / PageFrame.SizeBytes];
            MappedCount -= entry == 0 ? 0 : 1;
            Volatile.Write(ref entry, 0);
        }

        return MappedCount != before;
    }

    private void CloseGate()
    {
        InFlightGate old = _gate;
        _gate = new InFlightGate(HandleDrained);
        if (!old.Close(out _))
        {
            _undrained++;
            _inside ??= new MirrorDrain(Host);
        }
    }

    // On the engine's thread, without any lock, as it leaves a block.
    private void HandleDrained()
    {
        using (Host.Enter())
        {
            if (--_undrained == 0)
            {
                (MirrorDrain? inside, _inside) = (_inside, null);
                inside?.Complete();
            }
        }
    }
}

/// <summary>Broken twins of a <see cref="MirrorBinding"/>, for the tests that must notice.</summary>
[Flags]
internal enum MirrorDefences
{
    None = 0,

    /// <summary>The callback says that what was read before is stale.</summary>
    SetsSequence = 1,

    /// <summary>The callback takes the entries out.</summary>
    ClearsEntries = 2,

    /// <summary>The callback waits for the block under way.</summary>
    WaitsForBlock = 4,

    All = SetsSequence | ClearsEntries | WaitsForBlock,
}
