using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

/// <summary>Moves a range to free addresses (<c>mremap</c>).</summary>
public sealed class MoveRangeOperation : SpaceOperation
{
    private readonly AddressSpace _space;
    private readonly AddressRange _from;
    private readonly ulong _to;

    internal MoveRangeOperation(AddressSpace space, AddressRange from, ulong to, Activity? activity)
        : base(space.Memory, activity, $"{space.Name} mremap") =>
        (_space, _from, _to) = (space, from, to);

    private protected override IEnumerable<Pause> Run()
    {
        AddressRange target = new(_to, _from.LengthBytes);
        if (!_from.IsPageAligned || !target.IsPageAligned || _from.LengthBytes == 0 || _from.Overlaps(target))
        {
            Errno = Errno.EINVAL;
            yield break;
        }

        SpaceLockHold hold = _space.Lock.Ask(Activity, isWrite: true);
        try
        {
            foreach (Pause pause in _space.Lock.WaitUntilGranted(hold))
            {
                yield return pause;
            }

            if (TakeStepErrno(out Errno refused))
            {
                Errno = refused;
                yield break;
            }

            if (_space.FindRegion(_from.Start) is not { } region || !region.Addresses.Contains(_from))
            {
                Errno = Errno.EFAULT;
                yield break;
            }

            if (!_space.IsUnmapped(target))
            {
                Errno = Errno.EEXIST;
                yield break;
            }

            if (_space.IsHeld(_from))
            {
                Errno = Errno.EBUSY;
                yield break;
            }

            foreach (Pause pause in Move(target))
            {
                yield return pause;
            }
        }
        finally
        {
            _space.Lock.Release(hold);
            Memory.HandleProgress();
        }
    }

    private IEnumerable<Pause> Move(AddressRange target)
    {
        InvalidationRound round =
            _space.StartRound(Activity, new InvalidateRange(_from, InvalidateEvent.Unmap));
        try
        {
            foreach (Pause pause in round.WaitUntilStarted(Memory))
            {
                yield return pause;
            }

            if (round.State != InvalidationState.Started)
            {
                (Errno, Cycle) = (round.Errno, round.Cycle);
                yield break;
            }

            yield return "move the entries";
            SpaceRegion region = _space.CutOut(_from)[0];
            _space.AddRegion(region with { Addresses = target });
            for (ulong page = _from.FirstPage; page < _from.EndPage; page++)
            {
                ulong to = target.FirstPage + page - _from.FirstPage;
                if (_space.Table.TryMoveWhole(page, _from.EndPage, to) is var moved and > 0)
                {
                    page += moved - 1;
                }
                else if (_space.Table.Peek(page).State != EntryState.None)
                {
                    _space.Table.MoveEntry(page, to);
                }
            }

            yield return "end the round";
            round.End();
        }
        finally
        {
            round.Abandon();
        }
    }
}
