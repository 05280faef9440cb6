using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Completions that are not visible yet, in order: a fault that is legal, for nothing promises when one comes. A fixed
/// number; when there is no room the oldest becomes visible early. Port token held by the caller.
/// </summary>
internal sealed class LateCompletions(TimeSpan delay)
{
    private const int Slots = 4096;

    private readonly Entry[] _ring = new Entry[Slots];
    private uint _head;
    private uint _tail;

    /// <summary>When the oldest becomes visible.</summary>
    public TimeSpan Deadline => _head == _tail ? TimeSpan.MaxValue : _ring[_head % Slots].Time;

    public bool IsFull => _tail - _head == Slots;

    public void Add(
        CompletionQueue completions,
        in WorkCompletion completion,
        WorkQueue queue,
        uint freed,
        bool isSolicited,
        QueuePair pair,
        TimeSpan now) =>
        _ring[_tail++ % Slots] = new Entry(completions, completion, queue, freed, isSolicited, pair, now + delay);

    /// <summary>The queue pair was reset: what it had coming nobody sees.</summary>
    public void Forget(QueuePair pair)
    {
        for (uint at = _head; at != _tail; at++)
        {
            ref Entry entry = ref _ring[at % Slots];
            entry = ReferenceEquals(entry.Pair, pair) ? entry with { Pair = null } : entry;
        }
    }

    /// <summary>The oldest, due or not; there is one.</summary>
    public Entry Take()
    {
        ref Entry slot = ref _ring[_head++ % Slots];
        Entry entry = slot;
        slot = default;
        return entry;
    }

    public readonly record struct Entry(
        CompletionQueue Completions,
        WorkCompletion Completion,
        WorkQueue Queue,
        uint Freed,
        bool IsSolicited,
        QueuePair? Pair,
        TimeSpan Time);
}
