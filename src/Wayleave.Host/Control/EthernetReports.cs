using System.Globalization;
using System.Text.Json;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Host.Configuration;

namespace Wayleave.Host.Control;

/// <summary>What Ethernet NICs say about themselves. Called with no token and no lock.</summary>
internal static class EthernetReports
{
    public static EthernetDocument Describe(EthernetHandle nic) => nic.Nic.Driver.WithToken(() => new EthernetDocument
    {
        Name = nic.Name,
        PciAddress = nic.Function.Address.ToString(),
        Interface = nic.Interface,
        Mac = nic.Config.Mac.ToString(),
        Addresses = [.. nic.Config.Addresses.Select(EthernetConfig.ToText)],
        MtuBytes = nic.Config.MtuBytes,
        Queues = nic.Nic.Device.Port.Queues.Count,
        Connections = nic.Nic.Protocols.Tcp.ConnectionCount,
        Bindings = [.. nic.Nic.Device.Bindings.Where(b => b.State != BindingState.Released).Select(Describe)],
        Counters = CountHeld(nic),
        Failure = nic.Failure,
    });

    /// <summary>Every counter: of the NIC, of each queue, of IP and of TCP.</summary>
    public static SortedDictionary<string, long> Count(EthernetHandle nic) =>
        nic.Nic.Driver.WithToken(() => CountHeld(nic));

    private static EthernetBindingDocument Describe(MemoryBinding binding) => new()
    {
        Id = binding.Id,
        Buffer = binding.BufferName,
        Queues = [.. binding.Queues],
        Kind = ToWord(binding.Kind),
        Route = ToWord(binding.Route),
        State = ToWord(binding.State),
        LengthBytes = binding.LengthBytes,
        ChunkBytes = binding.Pool.ChunkBytes,
        FreeChunks = binding.Pool.FreeChunks,
        TokensOut = binding.OutstandingTokens,
        PlacedBytes = binding.BytesPlaced,
        ScatteredBytes = binding.BytesScattered,
        CopiedBytes = binding.BytesCopied,
        ScattersRepaired = binding.ScattersRepaired,
        LinearBytes = binding.BytesLinear,
    };

    internal static string ToWord<T>(T value)
        where T : struct, Enum => JsonNamingPolicy.SnakeCaseLower.ConvertName(value.ToString());

    private static SortedDictionary<string, long> CountHeld(EthernetHandle nic)
    {
        NicPort port = nic.Nic.Device.Port;
        NicStats stats = port.Stats;
        SortedDictionary<string, long> counters = new(StringComparer.Ordinal)
        {
            ["rx_packets"] = stats.FramesReceived,
            ["rx_bytes"] = stats.BytesReceived,
            ["rx_dropped"] = stats.FramesDropped,
            ["rx_csum_trusted"] = stats.ChecksumsTrusted,
            ["rx_csum_verified"] = stats.ChecksumsVerified,
            ["rx_gso_packets"] = stats.SuperFramesReceived,
            ["tx_packets"] = stats.FramesSent,
            ["tx_bytes"] = stats.BytesSent,
            ["tx_gso_packets"] = stats.SuperFramesSent,
            ["tx_errors"] = nic.Nic.Driver.SendErrors,
            ["tx_stalls"] = nic.Nic.Driver.SendStalls,
        };
        foreach (FrameDrop reason in Enum.GetValues<FrameDrop>().Where(r => r != FrameDrop.None))
        {
            counters["rx_dropped_" + ToWord(reason)] = stats.Drops(reason);
        }

        foreach (RxQueue queue in port.Queues)
        {
            Add(counters, queue);
        }

        Add(counters, nic.Nic.Protocols.Stats);
        Add(counters, nic.Nic.Protocols.Tcp.Stats);
        return counters;
    }

    private static void Add(SortedDictionary<string, long> counters, RxQueue queue)
    {
        RxQueueStats stats = queue.Stats;
        string prefix = string.Create(CultureInfo.InvariantCulture, $"rx{queue.Index}_");
        counters[prefix + "packets"] = stats.Frames;
        counters[prefix + "segments"] = stats.Segments;
        counters[prefix + "bytes"] = stats.Bytes;
        counters[prefix + "hds_packets"] = stats.SplitFrames;
        counters[prefix + "device_bytes"] = stats.DeviceBytes;
        counters[prefix + "host_bytes"] = stats.HostBytes;
        counters[prefix + "fallback_bytes"] = stats.FallbackBytes;
        counters[prefix + "ring_full"] = stats.RingFull;
        counters[prefix + "alloc_fail"] = stats.AllocationFailures;
        counters[prefix + "resets"] = stats.Resets;
        counters[prefix + "reset_drops"] = stats.ResetDrops;
    }

    private static void Add(SortedDictionary<string, long> counters, IpStats stats)
    {
        counters["ip_not_ours"] = stats.NotOurs;
        counters["ip_ignored"] = stats.Ignored;
        counters["ip_neighbour_answers"] = stats.NeighbourAnswers;
        counters["ip_neighbour_questions"] = stats.NeighbourQuestions;
        counters["ip_neighbour_errors"] = stats.NeighbourErrors;
        counters["ip_neighbours_failed"] = stats.NeighboursFailed;
        counters["ip_address_conflicts"] = stats.AddressConflicts;
        counters["ip_echo_replies"] = stats.EchoReplies;
        counters["ip_icmp_errors_sent"] = stats.ErrorsSent;
        counters["ip_icmp_errors_taken"] = stats.ErrorsTaken;
        counters["ip_icmp_errors_ignored"] = stats.ErrorsIgnored;
        counters["ip_martians"] = stats.Martians;
        counters["ip_answers_withheld"] = stats.AnswersWithheld;
        counters["ip_segments_unsent"] = stats.SegmentsUnsent;
    }

    private static void Add(SortedDictionary<string, long> counters, TcpStats stats)
    {
        counters["tcp_segments_received"] = stats.SegmentsReceived;
        counters["tcp_segments_sent"] = stats.SegmentsSent;
        counters["tcp_bytes_delivered"] = stats.BytesDelivered;
        counters["tcp_bytes_sent"] = stats.BytesSent;
        counters["tcp_retransmits"] = stats.Retransmits;
        counters["tcp_timeouts"] = stats.Timeouts;
        counters["tcp_fast_recoveries"] = stats.FastRecoveries;
        counters["tcp_out_of_order"] = stats.OutOfOrderSegments;
        counters["tcp_duplicates"] = stats.DuplicateSegments;
        counters["tcp_resets_sent"] = stats.ResetsSent;
        counters["tcp_resets_received"] = stats.ResetsReceived;
        counters["tcp_active_opens"] = stats.ActiveOpens;
        counters["tcp_passive_opens"] = stats.PassiveOpens;
        counters["tcp_syns_dropped"] = stats.SynsDropped;
        counters["tcp_accept_overflows"] = stats.AcceptOverflows;
        counters["tcp_cookies_sent"] = stats.CookiesSent;
        counters["tcp_revoked"] = stats.Revoked;
        counters["tcp_window_probes"] = stats.WindowProbes;
    }
}
