namespace Wayleave.Host.Broker;

/// <summary>What one program may have of a host, over all of its connections.</summary>
public sealed record BrokerLimits
{
    /// <summary>Device memory that it allocated and that is not free again, quarantine among it.</summary>
    public ulong BytesMax { get; init; } = long.MaxValue;

    /// <summary>Buffers that it has by number.</summary>
    public int BuffersMax { get; init; } = 1024;

    /// <summary>Descriptors that it exported and of which a copy is left.</summary>
    public int DescriptorsMax { get; init; } = 1024;

    /// <summary>Mappings: pins that nobody can end.</summary>
    public int MappingsMax { get; init; } = 256;

    /// <summary>Connections.</summary>
    public int ConnectionsMax { get; init; } = 16;
}
