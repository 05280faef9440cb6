using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

// mmu_notifier.c, struct mmu_notifier_subscriptions. The sequence is even when nothing is invalidated that anybody
// mirrors, and odd from the first round that meets a subscription until the last round of all has ended; meanwhile the
// set of subscriptions stays as it is, and what is inserted or removed waits in a list.

/// <summary>
/// The subscriptions of one address space and its sequence. Host lock held by the caller.
/// </summary>
internal sealed class NotifierTree(HostContext host, Action progress)
{
    private readonly List<IntervalNotifier> _byStart = [];
    private readonly List<IntervalNotifier> _deferred = [];
    private ulong _sequence = 2;
    private int _active;

    public HostContext Host => host;

    /// <summary>Readable without the lock.</summary>
    public ulong Sequence => Volatile.Read(ref _sequence);

    /// <summary>Rounds that have started and not ended.</summary>
    public int ActiveCount => _active;

    public bool IsInvalidating => (_sequence & 1) != 0;

    public int Count => _byStart.Count;

    /// <summary>The subscription whose callback runs now, or null.</summary>
    public IntervalNotifier? Calling { get; set; }

    public IntervalNotifier Insert(AddressRange range, IMirror mirror, bool mayWaitForFences)
    {
        IntervalNotifier notifier = new(this, range, mirror, mayWaitForFences);
        if (_active == 0)
        {
            notifier.Sequence = _sequence - 1;
            AddToTree(notifier);
            return notifier;
        }

        if (IsInvalidating)
        {
            notifier.Place = NotifierPlace.InsertDeferred;
            _deferred.Add(notifier);
        }
        else
        {
            // Rounds are under way that met nobody: they count for this one, whose first read waits for their end.
            Volatile.Write(ref _sequence, _sequence | 1);
            AddToTree(notifier);
        }

        notifier.Sequence = _sequence;
        return notifier;
    }

    public NotifierRemoval Remove(IntervalNotifier notifier)
    {
        if (Calling is not null)
        {
            host.Checker.Report(
                ViolationKind.Notifier, notifier.ToString(),
                $"is removed from the callback of {Calling}: the removal would wait for the round that it is part of");
            return new NotifierRemoval(notifier, Errno.EDEADLK);
        }

        switch (notifier.Place)
        {
            case NotifierPlace.InsertDeferred:
                _deferred.Remove(notifier);
                SetOut(notifier);
                break;
            case NotifierPlace.InTree when IsInvalidating:
                notifier.Place = NotifierPlace.RemoveDeferred;
                _deferred.Add(notifier);
                break;
            case NotifierPlace.InTree:
                _byStart.Remove(notifier);
                SetOut(notifier);
                break;
            default: // removed before, or about to be
                break;
        }

        return new NotifierRemoval(notifier);
    }

    /// <summary>A round starts: who must be called, in the order of their ranges.</summary>
    public IReadOnlyList<IntervalNotifier> Start(AddressRange range, out ulong sequence)
    {
        _active++;
        List<IntervalNotifier>? met = null;
        foreach (IntervalNotifier notifier in _byStart)
        {
            if (notifier.Range.Start >= range.End)
            {
                break;
            }

            if (notifier.Range.Overlaps(range))
            {
                (met ??= []).Add(notifier);
            }
        }

        if (met is not null)
        {
            Volatile.Write(ref _sequence, _sequence | 1);
        }

        sequence = _sequence;
        return met ?? (IReadOnlyList<IntervalNotifier>)[];
    }

    public void End()
    {
        if (--_active > 0 || !IsInvalidating)
        {
            return;
        }

        Volatile.Write(ref _sequence, _sequence + 1);
        foreach (IntervalNotifier notifier in _deferred)
        {
            if (notifier.Place == NotifierPlace.InsertDeferred)
            {
                AddToTree(notifier);
            }
            else
            {
                _byStart.Remove(notifier);
                SetOut(notifier);
            }
        }

        _deferred.Clear();
        progress();
    }

    /// <summary>Whether a round over that range would call somebody.</summary>
    public bool Meets(AddressRange range)
    {
        foreach (IntervalNotifier notifier in _byStart)
        {
            if (notifier.Range.Overlaps(range))
            {
                return true;
            }
        }

        return false;
    }

    private void AddToTree(IntervalNotifier notifier)
    {
        int at = _byStart.FindIndex(n => n.Range.Start > notifier.Range.Start);
        _byStart.Insert(at < 0 ? _byStart.Count : at, notifier);
        notifier.Place = NotifierPlace.InTree;
    }

    private static void SetOut(IntervalNotifier notifier)
    {
        notifier.Place = NotifierPlace.Out;
        notifier.IsRemoved = true;
    }
}
