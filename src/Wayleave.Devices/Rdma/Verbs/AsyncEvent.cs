namespace Wayleave.Devices.Rdma.Verbs;

/// <summary><c>enum ibv_event_type</c>, same numbers; those that can happen here.</summary>
public enum AsyncEventType
{
    CompletionQueueError = 0,
    QueuePairFatal = 1,
    QueuePairRequestError = 2,
    QueuePairAccessError = 3,
    SendQueueDrained = 5,
}

/// <summary>Something that no completion tells (<c>struct ibv_async_event</c>).</summary>
/// <param name="Type">What happened.</param>
/// <param name="QpNumber">Which queue pair; for a completion queue error, one that uses it.</param>
/// <param name="Key">For an access error the key that the peer used.</param>
public readonly record struct AsyncEvent(AsyncEventType Type, uint QpNumber, uint Key = 0);
