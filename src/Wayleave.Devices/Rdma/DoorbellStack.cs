using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>Queue pairs that were posted to and have not been looked at: a stack, linked through themselves.</summary>
internal sealed class DoorbellStack
{
    private QueuePair? _top;

    /// <summary>Readable by any thread.</summary>
    public bool IsEmpty => Volatile.Read(ref _top) is null;

    /// <summary>A post happened. Any thread.</summary>
    public void Ring(QueuePair pair)
    {
        if (Interlocked.Exchange(ref pair.DoorbellRung, 1) != 0)
        {
            return;
        }

        QueuePair? top = Volatile.Read(ref _top);
        while (true)
        {
            pair.NextDoorbell = top;
            QueuePair? before = Interlocked.CompareExchange(ref _top, pair, top);
            if (ReferenceEquals(before, top))
            {
                return;
            }

            top = before;
        }
    }

    /// <summary>Takes all of them and wakes each. Port token held by the caller.</summary>
    public void Answer()
    {
        if (Volatile.Read(ref _top) is null)
        {
            return;
        }

        QueuePair? pair = Interlocked.Exchange(ref _top, null);
        while (pair is not null)
        {
            // The link is read before the bell is re-armed: from then on a poster may push this pair again.
            QueuePair? next = pair.NextDoorbell;
            pair.NextDoorbell = null;
            Interlocked.Exchange(ref pair.DoorbellRung, 0);
            pair.Wake();
            pair = next;
        }
    }
}
