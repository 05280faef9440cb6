using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

/// <summary>What becomes of a range.</summary>
public enum ChangeKind
{
    /// <summary><c>munmap</c>.</summary>
    Unmap,

    /// <summary><c>mprotect</c>.</summary>
    Protect,

    /// <summary><c>MADV_DONTNEED</c>.</summary>
    Discard,
}

/// <summary>
/// Unmaps, protects or discards a range: lock, tell the mirrors, change the entries, end the round. While it waits for
/// a mirror it holds the lock, as the kernel does.
/// </summary>
/// <remarks>
/// <see cref="Errno.EDEADLK"/> when a mirror's wait would never end: then nothing has changed, and
/// <see cref="SpaceOperation.Cycle"/> says why. The kernel hangs there.
/// </remarks>
public sealed class ChangeOperation : SpaceOperation
{
    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private readonly SpaceProtection _protection;

    internal ChangeOperation(
        AddressSpace space, AddressRange range, ChangeKind kind, SpaceProtection protection, Activity? activity)
        : base(space.Memory, activity, $"{space.Name} {kind}")
    {
        (_space, _range, Kind, _protection) = (space, range, kind, protection);
    }

    public ChangeKind Kind { get; }

    private protected override IEnumerable<Pause> Run()
    {
        if (!_range.IsPageAligned || _range.LengthBytes == 0 || _range.End < _range.Start)
        {
            Errno = Errno.EINVAL;
            yield break;
        }

        SpaceLockHold hold = _space.Lock.Ask(Activity, isWrite: Kind != ChangeKind.Discard);
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

            if (Kind != ChangeKind.Unmap && !_space.IsCovered(_range))
            {
                Errno = Errno.ENOMEM;
                yield break;
            }

            if (Kind != ChangeKind.Protect && _space.IsHeld(_range))
            {
                Errno = Errno.EBUSY;
                yield break;
            }

            foreach (Pause pause in Change())
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

    private IEnumerable<Pause> Change()
    {
        InvalidationRound round = _space.StartRound(Activity, new InvalidateRange(_range, EventOf(Kind)));
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

            yield return "change the entries";
            switch (Kind)
            {
                case ChangeKind.Unmap:
                    Unmap();
                    break;
                case ChangeKind.Protect:
                    Protect();
                    break;
                default:
                    _space.Table.ClearRange(_range);
                    break;
            }

            yield return "end the round";
            round.End();
        }
        finally
        {
            round.Abandon();
        }
    }

    private void Unmap()
    {
        List<SpaceRegion> taken = _space.CutOut(_range);
        _space.Table.ClearRange(_range);
        _space.EndPeers(taken);
    }

    private void Protect()
    {
        foreach (SpaceRegion region in _space.CutOut(_range))
        {
            _space.AddRegion(region with { Protection = _protection });
        }

        _space.Table.RestrictRange(_range, _protection);
    }

    private static InvalidateEvent EventOf(ChangeKind kind) => kind switch
    {
        ChangeKind.Unmap => InvalidateEvent.Unmap,
        ChangeKind.Protect => InvalidateEvent.ProtectionRegion,
        _ => InvalidateEvent.Clear,
    };
}
