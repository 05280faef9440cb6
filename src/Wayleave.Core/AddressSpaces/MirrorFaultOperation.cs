using Wayleave.Core.Checking;
using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

// hmm.c. Each page is looked at in one step with its entry; where a fault is asked for and needed, the process's own
// fault handler runs, and the page is looked at again. Before each look the sequence is compared: what was invalidated
// meanwhile is not worth going on with.

/// <summary>Looks at a range for a device: <see cref="MirrorRange.Fault"/>.</summary>
public sealed class MirrorFaultOperation : SpaceOperation
{
    private readonly MirrorRange _range;

    internal MirrorFaultOperation(MirrorRange range, Activity? activity)
        : base(range.Space.Memory, activity, $"{range.Notifier.Mirror.Name} faults") => _range = range;

    private protected override IEnumerable<Pause> Run()
    {
        foreach (Pause pause in Walk(this, _range))
        {
            yield return pause;
        }

        TakeStepErrno(out Errno errno);
        Errno = errno;
    }

    /// <summary>With the address-space lock taken around it; the outcome is in the operation's step errno.</summary>
    internal static IEnumerable<Pause> Walk(SpaceOperation operation, MirrorRange range)
    {
        SpaceLock spaceLock = range.Space.Lock;
        SpaceLockHold hold = spaceLock.Ask(operation.Activity, isWrite: false);
        try
        {
            foreach (Pause pause in spaceLock.WaitUntilGranted(hold))
            {
                yield return pause;
            }

            for (int i = 0; i < range.Pages.Count && operation.StepErrno == Errno.Success;)
            {
                if (range.Notifier.CheckRetry(range.Sequence))
                {
                    operation.StepErrno = Errno.EBUSY;
                    break;
                }

                ulong page = range.Addresses.FirstPage + (ulong)i;
                if (Look(range, i, page, out Errno errno, out FaultFlags flags))
                {
                    operation.StepErrno = errno;
                    i++;
                    continue;
                }

                if (!range.Space.Faults.TryHandleNow(page, flags, out errno))
                {
                    foreach (Pause pause in range.Space.Faults.Handle(operation, page, flags))
                    {
                        yield return pause;
                    }
                }
                else
                {
                    operation.StepErrno = errno;
                }
            }
        }
        finally
        {
            spaceLock.Release(hold);
            operation.Memory.HandleProgress();
        }
    }

    // True: the page is answered, or the walk failed. False: a fault is needed first.
    private static bool Look(MirrorRange range, int index, ulong page, out Errno errno, out FaultFlags flags)
    {
        (errno, flags) = (Errno.Success, FaultFlags.None);
        MirrorBits request = range.RequestOf(index);
        bool mustFault = (request & MirrorBits.Fault) != 0;
        bool mustWrite = mustFault && (request & MirrorBits.FaultWrite) != 0;
        SpaceRegion? region = range.Space.FindRegion(page * PageFrame.SizeBytes);
        if (region is null || region.IsSpecial || !region.IsReadable || region.Peer is { IsGone: true })
        {
            errno = mustFault ? Errno.EFAULT : Errno.Success;
            range.Set(index, new MirrorPage(MirrorBits.Error));
            return true;
        }

        MirrorPage seen = See(range, page);
        bool isEnough = !mustFault || (seen.IsValid && (!mustWrite || seen.IsWritable));
        if (isEnough)
        {
            range.Set(index, seen);
            return true;
        }

        if ((seen.Bits & MirrorBits.Error) != 0)
        {
            errno = Errno.EFAULT;
            return true;
        }

        if (mustWrite && !region.IsWritable)
        {
            errno = Errno.EPERM;
            return true;
        }

        flags = mustWrite ? FaultFlags.Write
            : range.NeedsAddresses && ShowsZeroes(region, range.Space, page) ? FaultFlags.Unshare
            : FaultFlags.None;
        return false;
    }

    // Whether a fault to read would show the page of zeroes, or has.
    private static bool ShowsZeroes(SpaceRegion region, AddressSpace space, ulong page)
    {
        PageEntry entry = space.Table.Peek(page);
        return region.File is null && entry.State switch
        {
            EntryState.None => true,
            EntryState.Present => entry.Frame!.IsZeroPage,
            _ => false,
        };
    }

    private static MirrorPage See(MirrorRange range, ulong page)
    {
        PageEntry entry = range.Space.Table.Peek(page);
        PageFrame? frame = entry.Frame;
        MirrorBits write = entry.IsWritable ? MirrorBits.Write : MirrorBits.None;
        switch (entry.State)
        {
            case EntryState.Present when frame!.IsPoisoned:
            case EntryState.Poison:
                return new MirrorPage(MirrorBits.Error);
            case EntryState.Present when frame!.IsZeroPage && range.NeedsAddresses:
                return default;
            case EntryState.Present:
                return new MirrorPage(MirrorBits.Valid | write, frame, entry.Order);
            case EntryState.DevicePrivate when ReferenceEquals(frame!.Device!.Driver.Owner, range.Owner):
                return new MirrorPage(MirrorBits.Valid | write, frame, entry.Order);
            case EntryState.DevicePrivate when CanReach(range, frame!, out DeviceAddress address):
                return new MirrorPage(MirrorBits.Valid | MirrorBits.PeerToPeer | write, frame, 0, address);
            default:
                return default;
        }
    }

    // A page that is locked is on its way: its address would be stale before it is used.
    private static bool CanReach(MirrorRange range, PageFrame frame, out DeviceAddress address)
    {
        address = default;
        return range is { AllowsPeerToPeer: true, Client: { } client } && !frame.IsLocked
            && frame.Device!.Driver is IPeerReachableMemory driver
            && driver.TryGetPeerAddress(frame, client, out address);
    }
}

/// <summary>The loop of a driver: <see cref="MirrorRange.Update"/>.</summary>
public sealed class MirrorUpdateOperation : SpaceOperation
{
    private readonly MirrorRange _range;
    private readonly Action<MirrorRange> _program;

    internal MirrorUpdateOperation(MirrorRange range, Action<MirrorRange> program, Activity? activity)
        : base(range.Space.Memory, activity, $"{range.Notifier.Mirror.Name} faults") =>
        (_range, _program) = (range, program);

    /// <summary>How often it began.</summary>
    public int Tries { get; private set; }

    private protected override IEnumerable<Pause> Run()
    {
        if (_range.Preferred is { } preferred && HasPageFor(preferred))
        {
            // What it comes to is not asked: pages that could not go are looked at where they are.
            MigrateOperation migrate = _range.Space.MigrateToDevice(_range.Addresses, preferred, Activity);
            foreach (Pause pause in migrate.RunInside())
            {
                yield return pause;
            }
        }

        TimeSpan deadline = Memory.Host.Now + MirrorRange.DefaultTimeout;
        while (true)
        {
            Tries++;
            ulong sequence = _range.Notifier.BeginRead(out bool mustWait);
            if (mustWait)
            {
                yield return new Pause("wait for the invalidation", () => _range.Notifier.IsOver(sequence));
            }

            _range.Sequence = sequence;
            foreach (Pause pause in MirrorFaultOperation.Walk(this, _range))
            {
                yield return pause;
            }

            TakeStepErrno(out Errno errno);
            if (errno is not (Errno.Success or Errno.EBUSY))
            {
                Errno = errno;
                yield break;
            }

            // The driver lets the address-space lock go before it takes its own: what comes between is found below.
            yield return "take the device's lock";
            bool isStale = _range.Notifier.ReadRetry(sequence) && Memory.Host.Has(CoreDefences.RetriesMirrors);
            if (errno == Errno.Success && !isStale)
            {
                _program(_range);
                yield break;
            }

            if (Memory.Host.Now >= deadline)
            {
                Errno = Errno.EBUSY;
                yield break;
            }
        }
    }

    private bool HasPageFor(DeviceMemory preferred)
    {
        for (int i = 0; i < _range.Pages.Count && preferred.FreePages > 0; i++)
        {
            PageEntry entry = _range.Space.Table.Peek(_range.Addresses.FirstPage + (ulong)i);
            if (entry.State != EntryState.DevicePrivate || !ReferenceEquals(entry.Frame!.Device, preferred))
            {
                return true;
            }
        }

        return false;
    }
}
