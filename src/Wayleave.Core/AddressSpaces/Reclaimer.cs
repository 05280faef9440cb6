using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

// vmscan.c and rmap.c, the part that notifiers see: the oldest page first; try its lock; tell the mirrors of each entry
// that shows it, one round per entry; the entry names a swap slot, or nothing when a file has the content; what nobody
// took hold of meanwhile is written out and free. A pinned page is passed over: whoever pinned it cannot be told.

/// <summary>Takes pages from those who have not used them longest.</summary>
internal static class Reclaimer
{
    /// <summary>Frees pages until that many are, or none is left that could be.</summary>
    public static IEnumerable<Pause> Reclaim(SpaceOperation operation, int count, MemoryZoneKind? zone = null)
    {
        MemorySystem memory = operation.Memory;
        operation.Activity.Touch(LockClass.Reclaim, memory.Name);
        int done = 0;
        List<(PageFrame Frame, ulong Generation)> candidates = Candidates(memory, zone);
        for (int i = 0; i < candidates.Count; i++)
        {
            if (done >= count)
            {
                yield break;
            }

            (PageFrame frame, ulong generation) = candidates[i];
            if (frame.IsFolio && frame.Generation == generation && CanTry(frame))
            {
                SplitInto(candidates, i, frame);
            }

            if (frame.Generation != generation || !CanTry(frame) || !frame.TryLock(operation.Activity))
            {
                continue;
            }

            operation.Activity.Acquire(memory.PageLock, frame.Label);
            try
            {
                foreach (Pause pause in TakeAway(operation, frame))
                {
                    yield return pause;
                }
            }
            finally
            {
                operation.Activity.Release(memory.PageLock);
                frame.Unlock(operation.Activity);
            }

            if (frame.Generation != generation)
            {
                done++;
                memory.Stats.Reclaimed++;
                memory.Host.Trace("memory.reclaim", frame.Label);
            }
        }
    }

    // Its pages are as old as it is. A swap slot holds one page.
    private static void SplitInto(List<(PageFrame Frame, ulong Generation)> candidates, int index, PageFrame folio)
    {
        int count = folio.PageCount;
        folio.Split();
        for (int i = 1; i < count; i++)
        {
            PageFrame page = folio.PartAt(i);
            candidates.Insert(index + i, (page, page.Generation));
        }
    }

    // A copy: the list changes between two steps.
    private static List<(PageFrame Frame, ulong Generation)> Candidates(MemorySystem memory, MemoryZoneKind? zone)
    {
        List<(PageFrame, ulong)> found = [];
        for (PageFrame? frame = memory.Oldest; frame is not null; frame = frame.NewerUsed)
        {
            if (CanTry(frame) && (zone is null || frame.Zone == zone))
            {
                found.Add((frame, frame.Generation));
            }
        }

        return found;
    }

    private static bool CanTry(PageFrame frame)
    {
        if (!frame.IsAllocated || frame.HolderCount > 0 || frame.IsLocked || frame.IsPoisoned)
        {
            return false;
        }

        return frame.IsAnonymous ? frame.MapCount > 0 : frame.File is not null;
    }

    private static IEnumerable<Pause> TakeAway(SpaceOperation operation, PageFrame frame)
    {
        MemorySystem memory = operation.Memory;
        bool needsSlot = frame.IsAnonymous || frame.File is { IsSwapBacked: true };
        if (needsSlot && frame.SwapSlot == 0)
        {
            frame.SwapSlot = memory.Swap.TryTake(frame);
            if (frame.SwapSlot == 0)
            {
                yield break;
            }
        }

        while (frame.MapCount > 0)
        {
            (AddressSpace space, ulong page) = frame.Mappings[0];
            AddressRange told = memory.Host.Has(CoreDefences.TellsBeforeReclaim) ? AddressRange.OfPage(page) : default;
            InvalidationRound round = space.StartRound(
                operation.Activity, new InvalidateRange(told, InvalidateEvent.Clear));
            try
            {
                foreach (Pause pause in round.WaitUntilStarted(memory))
                {
                    yield return pause;
                }

                if (round.State != InvalidationState.Started)
                {
                    operation.Cycle = round.Cycle ?? operation.Cycle;
                    break;
                }

                yield return "unmap a page for reclaim";
                PageEntry entry = space.Table.Peek(page);
                bool shows = entry.IsPresent || entry.State == EntryState.DeviceExclusive; // the device was told
                if (shows && ReferenceEquals(entry.Frame, frame))
                {
                    long slot = frame.IsAnonymous ? frame.SwapSlot : 0;
                    space.Table.ReplaceBySlot(page, slot);
                }
            }
            finally
            {
                round.Abandon();
            }
        }

        Leave(memory, frame);
    }

    // Whoever got hold of the page meanwhile keeps it: the slot stays its name, and the next touch finds it there.
    private static void Leave(MemorySystem memory, PageFrame frame)
    {
        bool isFree = frame.MapCount == 0 && frame.HolderCount == 0;
        if (frame.File is { } file && isFree)
        {
            file.Drop(frame);
            return;
        }

        if (frame.SwapSlot != 0 && isFree && frame.File is null && memory.Swap.EntryCountOf(frame.SwapSlot) > 0)
        {
            memory.Swap.WriteOut(frame.SwapSlot);
            memory.Stats.SwappedOut++;
            return;
        }

        if (frame.SwapSlot != 0)
        {
            memory.Swap.EndIfUnnamed(frame.SwapSlot);
        }
    }
}
