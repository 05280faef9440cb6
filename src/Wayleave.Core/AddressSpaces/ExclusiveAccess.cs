using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// A device gets a page for itself, for atomics that the bus does not have (<c>make_device_exclusive</c>): the process
/// keeps the page, but its touch takes the access back first.
/// </summary>
public sealed class ExclusiveOperation : SpaceOperation
{
    private readonly AddressSpace _space;
    private readonly ulong _page;
    private readonly object _owner;
    private readonly Action<PageFrame> _program;

    internal ExclusiveOperation(
        AddressSpace space, ulong address, object owner, Action<PageFrame> program, Activity? activity)
        : base(space.Memory, activity, $"{space.Name} gives a page to a device")
    {
        (_space, _page, _owner, _program) = (space, address / PageFrame.SizeBytes, owner, program);
    }

    private protected override IEnumerable<Pause> Run()
    {
        SpaceLockHold hold = _space.Lock.Ask(Activity, isWrite: false);
        try
        {
            foreach (Pause pause in _space.Lock.WaitUntilGranted(hold))
            {
                yield return pause;
            }

            foreach (Pause pause in Make())
            {
                yield return pause;
            }
        }
        finally
        {
            _space.Lock.Release(hold);
            Memory.HandleProgress();
        }

        TakeStepErrno(out Errno errno);
        Errno = errno;
    }

    private IEnumerable<Pause> Make()
    {
        PageFrame? frame = null;
        while (frame is null && StepErrno == Errno.Success)
        {
            // As get_user_pages for writing: a page of one's own that is here.
            if (_space.FindRegion(_page * PageFrame.SizeBytes) is { IsWritable: false })
            {
                StepErrno = Errno.EPERM;
                yield break;
            }

            foreach (Pause pause in _space.Faults.Handle(this, _page, FaultFlags.Write))
            {
                yield return pause;
            }

            _space.Table.SplitWhole(_page);
            PageEntry entry = _space.Table.Peek(_page);
            if (StepErrno == Errno.Success && entry.IsPresent && entry.IsWritable && entry.Frame!.IsAnonymous)
            {
                if (entry.Frame.TryLock(Activity))
                {
                    frame = entry.Frame;
                }
                else
                {
                    foreach (Pause pause in entry.Frame.WaitUntilUnlocked())
                    {
                        yield return pause;
                    }
                }
            }
            else if (StepErrno == Errno.Success && entry.IsPresent)
            {
                StepErrno = Errno.EBUSY; // a file's page: only anonymous ones can be given
            }
        }

        if (frame is null)
        {
            yield break;
        }

        InvalidationRound round = _space.StartRound(
            Activity, new InvalidateRange(AddressRange.OfPage(_page), InvalidateEvent.Exclusive, Owner: _owner));
        try
        {
            foreach (Pause pause in round.WaitUntilStarted(Memory))
            {
                yield return pause;
            }

            if (round.State != InvalidationState.Started)
            {
                (StepErrno, Cycle) = (round.Errno, round.Cycle);
                yield break;
            }

            PageEntry entry = _space.Table.Peek(_page);
            if (entry.IsPresent && ReferenceEquals(entry.Frame, frame))
            {
                _space.Table[_page].State = EntryState.DeviceExclusive;
                _program(frame);
            }
            else
            {
                StepErrno = Errno.EBUSY;
            }

            round.End();
        }
        finally
        {
            round.Abandon();
            frame.Unlock(Activity);
        }
    }
}

/// <summary>The way back.</summary>
internal static class ExclusiveAccess
{
    /// <summary>
    /// The process touches a page that a device has for itself (<c>remove_device_exclusive_entry</c>).
    /// </summary>
    public static IEnumerable<Pause> TakeBack(
        SpaceOperation operation, AddressSpace space, ulong page, PageFrame frame)
    {
        if (!frame.TryLock(operation.Activity))
        {
            yield break;
        }

        InvalidationRound round = space.StartRound(
            operation.Activity, new InvalidateRange(AddressRange.OfPage(page), InvalidateEvent.Clear));
        try
        {
            foreach (Pause pause in round.WaitUntilStarted(operation.Memory))
            {
                yield return pause;
            }

            if (round.State != InvalidationState.Started)
            {
                (operation.StepErrno, operation.Cycle) = (round.Errno, round.Cycle);
                yield break;
            }

            if (space.Table.Peek(page).State == EntryState.DeviceExclusive)
            {
                space.Table[page].State = EntryState.Present;
            }

            round.End();
        }
        finally
        {
            round.Abandon();
            frame.Unlock(operation.Activity);
        }
    }
}
