namespace Wayleave.Devices.Ethernet;

public enum NicEventType
{
    /// <summary>The owner of a binding's memory has taken it back.</summary>
    BindingRevoked,

    /// <summary>What was in the ring of a queue is lost.</summary>
    QueueReset,

    /// <summary>The device was switched on or off.</summary>
    StateChanged,
}

/// <summary>Something that a port did by itself.</summary>
/// <param name="Type">What.</param>
/// <param name="Binding">Of a revoke.</param>
/// <param name="Queue">Of a reset; otherwise -1.</param>
public readonly record struct NicEvent(NicEventType Type, MemoryBinding? Binding = null, int Queue = -1);
