using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

// exit_mmap: mmu_notifier_release tells every mirror about everything, and none may refuse; then the entries go. Faults
// and migrations that were under way hold the lock to read, so they end first and find nothing afterwards.

/// <summary>A process ends, with whatever devices were doing to its memory.</summary>
public sealed class ExitOperation : SpaceOperation
{
    private readonly AddressSpace _space;

    internal ExitOperation(AddressSpace space, Activity? activity)
        : base(space.Memory, activity, $"{space.Name} exits") => _space = space;

    private protected override IEnumerable<Pause> Run()
    {
        _space.IsDead = true; // no new subscription, no new region
        InvalidationRound round =
            _space.StartRound(Activity, new InvalidateRange(AddressRange.All, InvalidateEvent.Release));
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

                yield return "clear every entry";
                List<SpaceRegion> taken = _space.CutOut(AddressRange.All);
                foreach (SpaceRegion region in taken)
                {
                    _space.Table.ClearRange(region.Addresses);
                }

                _space.EndPeers(taken);
            }
            finally
            {
                _space.Lock.Release(hold);
            }

            round.End();
        }
        finally
        {
            round.Abandon();
            Memory.HandleProgress();
        }
    }
}
