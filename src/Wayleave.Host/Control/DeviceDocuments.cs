using System.Text.Json.Serialization;
using Wayleave.Devices.Rdma;

namespace Wayleave.Host.Control;

/// <summary><c>GET /v1/devices</c>.</summary>
public sealed record DevicesDocument
{
    public string Schema { get; set; } = "wayleave.devices.v1";

    public required string Host { get; init; }

    public required IReadOnlyList<GpuDocument> Gpus { get; init; }

    public required IReadOnlyList<NicDocument> Nics { get; init; }

    public required IReadOnlyList<NvmeDocument> Nvmes { get; init; }

    public IReadOnlyList<AcceleratorDocument> Accelerators { get; init; } = [];

    public IReadOnlyList<VfioDocument> Vfios { get; init; } = [];

    public IReadOnlyList<EthernetDocument> Ethernets { get; init; } = [];
}

/// <summary>
/// An accelerator. Used and free bytes add up to the total; what the host keeps back is among the used.
/// </summary>
public sealed record AcceleratorDocument
{
    public required string Name { get; init; }

    public required string PciAddress { get; init; }

    public required ulong MemoryTotalBytes { get; init; }

    /// <summary>What the BAR shows: only that is lent.</summary>
    public required ulong VisibleBytes { get; init; }

    public required ulong MemoryUsedBytes { get; init; }

    public required ulong MemoryFreeBytes { get; init; }

    /// <summary>Taken back without sufficient proof so far, and part of the used.</summary>
    public required ulong MemoryQuarantinedBytes { get; init; }

    /// <summary>Ranges that are exported: each keeps its memory until its last user has let go.</summary>
    public required int Exports { get; init; }

    /// <summary>What stopped the engine, if anything did.</summary>
    public string? Failure { get; init; }
}

/// <summary>A function in the hands of VFIO.</summary>
public sealed record VfioDocument
{
    public required string Name { get; init; }

    public required string PciAddress { get; init; }

    /// <summary>Whether the BARs answer; off during a reset and after a removal.</summary>
    public required bool MemoryEnabled { get; init; }

    /// <summary><c>D0</c> to <c>D3Cold</c>.</summary>
    public required string PowerState { get; init; }

    /// <summary>The change under way and what it waits for, or null: <c>reset of vfio0, stopping</c>.</summary>
    public string? Transition { get; init; }

    public required int Resets { get; init; }

    public required ulong BarTotalBytes { get; init; }

    public required ulong BarFreeBytes { get; init; }

    /// <summary>Taken back without sufficient proof so far.</summary>
    public required ulong BarQuarantinedBytes { get; init; }

    public required int Buffers { get; init; }
}

/// <summary>An NVMe drive.</summary>
public sealed record NvmeDocument
{
    public required string Name { get; init; }

    public required string PciAddress { get; init; }

    /// <summary>What the driver makes of it: ready, failed and so on.</summary>
    public required string State { get; init; }

    public required ulong MemoryBufferBytes { get; init; }

    public required int Namespaces { get; init; }

    /// <summary>Commands that ended with success, admin commands included.</summary>
    public required long Completed { get; init; }

    public required long Failed { get; init; }

    /// <summary>Bytes moved from and to memory of other devices.</summary>
    public required long PeerBytes { get; init; }

    /// <summary>Bytes moved from and to system memory, queues included.</summary>
    public required long HostBytes { get; init; }

    /// <summary>What stopped the drive, if anything did.</summary>
    public string? Failure { get; init; }
}

/// <summary>A GPU. Used, free and quarantined bytes add up to the total.</summary>
public sealed record GpuDocument
{
    public required string Name { get; init; }

    public required string PciAddress { get; init; }

    public required ulong VramTotalBytes { get; init; }

    public required ulong VramUsedBytes { get; init; }

    public required ulong VramFreeBytes { get; init; }

    /// <summary>Taken back without sufficient proof, so neither in use nor free.</summary>
    public required ulong VramQuarantinedBytes { get; init; }

    /// <summary>Memory beyond what the BAR shows, which peers do not reach; not part of the total.</summary>
    public required ulong HiddenVramTotalBytes { get; init; }

    public required ulong HiddenVramUsedBytes { get; init; }

    public required ulong SystemTotalBytes { get; init; }

    public required ulong SystemUsedBytes { get; init; }

    public required ulong SystemQuarantinedBytes { get; init; }

    public required int Buffers { get; init; }

    public required long Evictions { get; init; }

    public required long Restores { get; init; }

    public required ulong MovedBytes { get; init; }

    /// <summary>What stopped the copy engine, if anything did.</summary>
    public string? Failure { get; init; }
}

/// <summary>An RDMA NIC. Its GID and UDP port are those of port 1.</summary>
public sealed record NicDocument
{
    public required string Name { get; init; }

    public required string PciAddress { get; init; }

    public required string Gid { get; init; }

    public required int UdpPort { get; init; }

    public required int PathMtuBytes { get; init; }

    /// <summary>What becomes of a key whose memory its owner wants back.</summary>
    public required RegionRevocation Revoke { get; init; }

    /// <summary>All its ports, port 1 first.</summary>
    public IReadOnlyList<NicPortDocument> Ports { get; set; } = [];

    /// <summary>How much of the ICRC is checked for each peer that was heard.</summary>
    public IReadOnlyList<NicPeerDocument> Peers { get; set; } = [];

    /// <summary>Counters of the device by name, sums over its ports; they only grow.</summary>
    public required IReadOnlyDictionary<string, long> Counters { get; init; }

    /// <summary>What stopped the port, if anything did.</summary>
    public string? Failure { get; init; }
}

/// <summary>A port of an RDMA NIC.</summary>
public sealed record NicPortDocument
{
    /// <summary>From 1.</summary>
    public required int Number { get; init; }

    public required string Gid { get; init; }

    public required int UdpPort { get; init; }

    /// <summary><c>active</c> or <c>down</c>.</summary>
    public required string State { get; init; }

    /// <summary>The interface of its address; null when none has it.</summary>
    public string? Interface { get; init; }

    /// <summary>Counters of this port by name; they only grow.</summary>
    public required IReadOnlyDictionary<string, long> Counters { get; init; }
}

/// <summary>A peer of a port.</summary>
/// <param name="Gid">Its address.</param>
/// <param name="Icrc">How the checksum of its packets is checked: <c>full</c> or <c>16_bits</c> (wire.md A3.2).</param>
public sealed record NicPeerDocument(string Gid, string Icrc);

/// <summary><c>GET /v1/stats</c>: every counter of the host, one object per device.</summary>
public sealed record StatsDocument
{
    public string Schema { get; set; } = "wayleave.stats.v1";

    public required string Host { get; init; }

    /// <summary>When it was taken, on the host's clock.</summary>
    public required long UptimeUs { get; init; }

    public required int Objects { get; init; }

    public required int Leases { get; init; }

    /// <summary>By device, then by counter.</summary>
    [JsonPropertyName("devices")]
    public required IReadOnlyDictionary<string, IReadOnlyDictionary<string, long>> Devices { get; init; }
}
