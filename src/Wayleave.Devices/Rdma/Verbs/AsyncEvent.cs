namespace Wayleave.Devices.Rdma.Verbs;

/// <summary><c>enum ibv_event_type</c>, same numbers; those that can happen here.</summary>
public enum AsyncEventType
{
    CompletionQueueError = 0,
    QueuePairFatal = 1,
    QueuePairRequestError = 2,
    QueuePairAccessError = 3,
    SendQueueDrained = 5,

    /// <summary>A port that was down sends and receives again.</summary>
    PortActive = 9,

    /// <summary>A port went down: what its queue pairs send is lost until it is active again.</summary>
    PortError = 10,

    /// <summary>Fewer receives are left in a shared queue than its limit.</summary>
    SharedReceiveQueueLimit = 15,

    /// <summary>A queue pair in ERR takes no more receives from its shared queue.</summary>
    LastReceiveReached = 16,

    /// <summary>
    /// The owner took the memory of a legacy peer's region, whose key is dead. The verbs have no such event, as nobody
    /// who used PeerDirect was told.
    /// </summary>
    MemoryRegionLost = 1024,
}

/// <summary>Something that no completion tells (<c>struct ibv_async_event</c>).</summary>
/// <param name="Type">What happened.</param>
/// <param name="QpNumber">Which queue pair; for a completion queue error, one that uses it.</param>
/// <param name="Key">For an access error the key that the peer used; for a lost region its own.</param>
/// <param name="SrqNumber">Which shared receive queue, for its limit.</param>
/// <param name="Port">Which port, for its state; 0 otherwise.</param>
/// <param name="Completions">Which completion queue, for its error: the queue pair may be gone.</param>
public readonly record struct AsyncEvent(
    AsyncEventType Type, uint QpNumber, uint Key = 0, uint SrqNumber = 0, int Port = 0,
    CompletionQueue? Completions = null);
