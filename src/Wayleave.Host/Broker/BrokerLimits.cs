namespace Wayleave.Host.Broker;

/// <summary>What one program may have of a host, over all of its connections.</summary>
public sealed record BrokerLimits
{
    /// <summary>Device memory that it allocated and that is not free again, quarantine among it.</summary>
    public ulong BytesMax { get; init; } = long.MaxValue;

    /// <summary>
    /// Memory that it allocated, that was taken back, and that somebody may still use: with as much as that it gets no
    /// more.
    /// </summary>
    public ulong QuarantinedBytesMax { get; init; } = long.MaxValue;

    /// <summary>Buffers that it has by number.</summary>
    public int BuffersMax { get; init; } = 1024;

    /// <summary>Descriptors that it was given, of buffers and of fences, and of which a copy is left.</summary>
    public int DescriptorsMax { get; init; } = 1024;

    /// <summary>Mappings: pins that nobody can end.</summary>
    public int MappingsMax { get; init; } = 256;

    /// <summary>Connections.</summary>
    public int ConnectionsMax { get; init; } = 16;

    /// <summary>Keys of memory that is registered with NICs.</summary>
    public int KeysMax { get; init; } = 256;

    /// <summary>Queue pairs of NICs.</summary>
    public int QueuePairsMax { get; init; } = 64;

    /// <summary>Queues of engines, the use of a GPU's engine by a connection, and timelines.</summary>
    public int QueuesMax { get; init; } = 16;

    /// <summary>Work of engines that has not ended.</summary>
    public int JobsMax { get; init; } = 256;

    internal long MaxOf(BrokerAccount account) => account switch
    {
        BrokerAccount.Bytes => (long)BytesMax,
        BrokerAccount.QuarantinedBytes => (long)QuarantinedBytesMax,
        BrokerAccount.Buffers => BuffersMax,
        BrokerAccount.Descriptors => DescriptorsMax,
        BrokerAccount.Mappings => MappingsMax,
        BrokerAccount.Connections => ConnectionsMax,
        BrokerAccount.Keys => KeysMax,
        BrokerAccount.QueuePairs => QueuePairsMax,
        BrokerAccount.Queues => QueuesMax,
        _ => JobsMax,
    };
}
