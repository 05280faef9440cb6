using System.Text.Json;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Nvme;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Leases;
using Wayleave.Host.Removal;

namespace Wayleave.Host.Control;

/// <summary>What the devices of a host say about themselves.</summary>
internal static class DeviceReports
{
    public static DevicesDocument Describe(WayleaveHost host)
    {
        IReadOnlyList<Lease> leases = host.Leases.List();
        return new DevicesDocument
        {
            Host = host.Config.Name,
            Gpus = [.. host.Gpus.Where(g => IsThere(g.Presence)).Select(g => Describe(host, g))],
            Nics = [.. host.Nics.Where(n => IsThere(n.Presence)).Select(n => Describe(n, leases))],
            Nvmes = [.. host.Nvmes.Where(d => IsThere(d.Presence)).Select(d => Describe(host, d))],
            Accelerators = [.. host.Accelerators.Where(a => IsThere(a.Presence)).Select(a => Describe(host, a))],
            Vfios = [.. host.Vfios.Where(v => IsThere(v.Presence)).Select(v => Describe(host, v))],
            Ethernets = [.. Present(host, EthernetReports.Describe)],
        };
    }

    public static StatsDocument Count(WayleaveHost host)
    {
        Dictionary<string, IReadOnlyDictionary<string, long>> devices = new(StringComparer.Ordinal);
        foreach (GpuHandle gpu in host.Gpus)
        {
            devices.Add(gpu.Name, Count(ReadStats(host, gpu)));
        }

        foreach (NicHandle nic in host.Nics)
        {
            devices.Add(nic.Name, Count(nic));
        }

        foreach ((string name, SortedDictionary<string, long> counters) in
            Present(host, e => (e.Name, EthernetReports.Count(e))))
        {
            devices.Add(name, counters);
        }

        return new StatsDocument
        {
            Host = host.Config.Name,
            UptimeUs = (long)host.Context.Now.TotalMicroseconds,
            Objects = host.Objects.List().Count,
            Leases = host.Leases.List().Count,
            Devices = devices,
        };
    }

    // One that is pulled out while it is asked is not there.
    private static List<T> Present<T>(WayleaveHost host, Func<EthernetHandle, T> describe)
    {
        List<T> described = [];
        foreach (EthernetHandle ethernet in host.Ethernets.Where(e => IsThere(e.Presence)))
        {
            try
            {
                described.Add(describe(ethernet));
            }
            catch (ObjectDisposedException) when (!ethernet.Presence.IsPresent)
            {
                host.Context.Trace("nic.left_while_described", ethernet.Name);
            }
        }

        return described;
    }

    private static bool IsThere(DevicePresence presence) => presence.State != DevicePresenceState.Gone;

    private static GpuDocument Describe(WayleaveHost host, GpuHandle gpu)
    {
        GpuStats stats = ReadStats(host, gpu);
        return new GpuDocument
        {
            Name = gpu.Name,
            PciAddress = gpu.Device.Function.Address.ToString(),
            VramTotalBytes = stats.VramTotalBytes,
            VramUsedBytes = stats.VramUsedBytes,
            VramFreeBytes = stats.VramFreeBytes,
            VramQuarantinedBytes = stats.VramQuarantinedBytes,
            HiddenVramTotalBytes = stats.HiddenVramTotalBytes,
            HiddenVramUsedBytes = stats.HiddenVramUsedBytes,
            SystemTotalBytes = stats.SystemTotalBytes,
            SystemUsedBytes = stats.SystemUsedBytes,
            SystemQuarantinedBytes = stats.SystemQuarantinedBytes,
            Buffers = stats.Buffers,
            Evictions = stats.Evictions,
            Restores = stats.Restores,
            MovedBytes = stats.MovedBytes,
            Failure = gpu.Failure?.Message,
        };
    }

    private static NvmeDocument Describe(WayleaveHost host, NvmeHandle drive)
    {
        NvmeDriverState state;
        using (host.Context.Enter())
        {
            state = drive.Driver.State;
        }

        DmaPort port = drive.Controller.Port;
        ReadOnlySpan<PeerRoute> peers = [PeerRoute.BusAddress, PeerRoute.ThroughHostBridge];
        long peerBytes = 0;
        foreach (PeerRoute route in peers)
        {
            peerBytes += port.BytesRead(route) + port.BytesWritten(route);
        }

        return new NvmeDocument
        {
            Name = drive.Name,
            PciAddress = drive.Function.Address.ToString(),
            State = state.ToString().ToLowerInvariant(),
            MemoryBufferBytes = drive.Function.Bars[NvmeController.MemoryBufferBar]?.Range.LengthBytes ?? 0,
            Namespaces = drive.Controller.Namespaces.Count,
            Completed = drive.Controller.Completed,
            Failed = drive.Controller.Failed,
            PeerBytes = peerBytes,
            HostBytes = port.BytesRead(PeerRoute.HostMemory) + port.BytesWritten(PeerRoute.HostMemory),
            Failure = drive.Failure?.Message,
        };
    }

    private static AcceleratorDocument Describe(WayleaveHost host, AcceleratorHandle accelerator)
    {
        using (host.Context.Enter())
        {
            return new AcceleratorDocument
            {
                Name = accelerator.Name,
                PciAddress = accelerator.Function.Address.ToString(),
                MemoryTotalBytes = accelerator.Device.MemoryBytes,
                VisibleBytes = Math.Min(accelerator.Device.MemoryBytes, accelerator.Device.Bar.Range.LengthBytes),
                MemoryUsedBytes = accelerator.Device.Memory.UsedBytes,
                MemoryFreeBytes = accelerator.Device.Memory.FreeBytes,
                MemoryQuarantinedBytes = accelerator.Quarantine.Bytes,
                Exports = accelerator.Device.Context?.ExportCount ?? 0,
                Failure = accelerator.Failure?.Message,
            };
        }
    }

    private static VfioDocument Describe(WayleaveHost host, VfioHandle vfio)
    {
        using (host.Context.Enter())
        {
            return new VfioDocument
            {
                Name = vfio.Name,
                PciAddress = vfio.Function.Address.ToString(),
                MemoryEnabled = vfio.Device.IsMemoryEnabled && vfio.Function.Root is not null,
                PowerState = vfio.Device.PowerState.ToString(),
                Transition = vfio.Device.Transition is { } change
                    ? $"{change}, {change.State.ToString().ToLowerInvariant()}"
                    : null,
                Resets = vfio.Resets,
                BarTotalBytes = vfio.TotalBytes,
                BarFreeBytes = vfio.FreeBytes,
                BarQuarantinedBytes = vfio.Quarantine.Bytes,
                Buffers = vfio.Device.Buffers.Count,
            };
        }
    }

    private static NicDocument Describe(NicHandle nic, IReadOnlyList<Lease> leases) => new()
    {
        Name = nic.Name,
        PciAddress = nic.Device.Function.Address.ToString(),
        Gid = nic.Gid.ToString(),
        UdpPort = nic.UdpPort,
        PathMtuBytes = nic.PathMtuBytes,
        Revoke = nic.Device.Options.Revocation,
        Ports = [.. nic.Ports.Select(Describe)],
        Peers =
        [
            .. leases.Where(l => ReferenceEquals(l.Nic, nic))
                .SelectMany(
                    l => l.QueuePairs.ToArray(), (l, q) => (l.Request.Peer.Gid, Mode: q.Attributes.AddressVector.Icrc))
                .Distinct()
                .Select(p => new NicPeerDocument(p.Gid.ToString(), ToWord(p.Mode))),
        ],
        Counters = Count(nic),
        Failure = nic.Driver.Failure?.Message,
    };

    private static NicPortDocument Describe(RdmaPortHandle port)
    {
        PortCounters counters = port.Link.Counters;
        return new NicPortDocument
        {
            Number = port.Number,
            Gid = port.Gid.ToString(),
            UdpPort = port.UdpPort,
            State = port.Link.State == PortState.Active ? "active" : "down",
            Interface = port.InterfaceName,
            Counters = new SortedDictionary<string, long>(StringComparer.Ordinal)
            {
                ["bytes_received"] = counters.BytesReceived,
                ["bytes_sent"] = counters.BytesSent,
                ["downs"] = counters.Downs,
                ["packets_dropped"] = counters.PacketsDropped,
                ["packets_received"] = counters.PacketsReceived,
                ["packets_sent"] = counters.PacketsSent,
                ["sends_discarded"] = counters.SendsDiscarded,
            },
        };
    }

    private static string ToWord(IcrcMode mode) => mode switch
    {
        IcrcMode.Full => "full",
        IcrcMode.OwnIdentification => "own_identification",
        _ => "16_bits",
    };

    private static GpuStats ReadStats(WayleaveHost host, GpuHandle gpu)
    {
        using (host.Context.Enter())
        {
            return gpu.Device.Stats;
        }
    }

    private static SortedDictionary<string, long> Count(in GpuStats stats) => new(StringComparer.Ordinal)
    {
        ["buffers"] = stats.Buffers,
        ["cleared_bytes"] = (long)stats.ClearedBytes,
        ["copy_jobs"] = stats.CopyJobs,
        ["evictions"] = stats.Evictions,
        ["moved_bytes"] = (long)stats.MovedBytes,
        ["moves"] = stats.Moves,
        ["restores"] = stats.Restores,
        ["system_free_bytes"] = (long)stats.SystemFreeBytes,
        ["system_quarantined_bytes"] = (long)stats.SystemQuarantinedBytes,
        ["system_used_bytes"] = (long)stats.SystemUsedBytes,
        ["vram_free_bytes"] = (long)stats.VramFreeBytes,
        ["vram_quarantined_bytes"] = (long)stats.VramQuarantinedBytes,
        ["vram_used_bytes"] = (long)stats.VramUsedBytes,
    };

    private static SortedDictionary<string, long> Count(NicHandle nic)
    {
        RdmaStats stats = nic.Device.Port.Stats;
        SortedDictionary<string, long> counters = new(StringComparer.Ordinal)
        {
            ["acknowledges_sent"] = stats.AcknowledgesSent,
            ["bytes_placed"] = stats.BytesPlaced,
            ["congestion_marks"] = stats.CongestionMarks,
            ["cnps_sent"] = stats.NotificationsSent,
            ["cnps_received"] = stats.NotificationsReceived,
            ["bytes_received"] = stats.BytesReceived,
            ["bytes_rejected"] = stats.BytesRejected,
            ["bytes_sent"] = stats.BytesSent,
            ["duplicates"] = stats.Duplicates,
            ["events_lost"] = stats.EventsLost,
            ["faults"] = stats.Faults,
            ["quiesces"] = stats.Quiesces,
            ["icrc_checks_full"] = stats.IcrcChecksFull,
            ["icrc_checks_solved"] = stats.IcrcChecksSolved,
            ["naks_invalid_request_sent"] = stats.NaksInvalidRequestSent,
            ["naks_psn_sequence_sent"] = stats.NaksPsnSequenceSent,
            ["naks_received"] = stats.NaksReceived,
            ["naks_remote_access_sent"] = stats.NaksRemoteAccessSent,
            ["naks_remote_operation_sent"] = stats.NaksRemoteOperationSent,
            ["packets_dropped"] = stats.PacketsDropped,
            ["packets_received"] = stats.PacketsReceived,
            ["packets_sent"] = stats.PacketsSent,
            ["replays_capped"] = stats.ReplaysCapped,
            ["retransmits"] = stats.Retransmits,
            ["rnr_naks_received"] = stats.RnrNaksReceived,
            ["rnr_naks_sent"] = stats.RnrNaksSent,
            ["send_stalls"] = nic.Driver.SendStalls,
            ["super_packets_sent"] = stats.SuperPacketsSent,
            ["timeouts"] = stats.Timeouts,
        };
        foreach (DropReason reason in Enum.GetValues<DropReason>().Where(r => r != DropReason.None))
        {
            string name = JsonNamingPolicy.SnakeCaseLower.ConvertName(reason.ToString());
            counters["dropped_" + name] = stats.Drops(reason);
        }

        return counters;
    }
}
