using System.Globalization;
using System.Text.Json.Nodes;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Host.Configuration;

/// <summary>Reads and describes the Ethernet NICs of a configuration.</summary>
internal sealed class EthernetReader(ConfigurationReader reader)
{
    private const string On = "on";
    private const string Off = "off";

    public EthernetConfig Read(JsonObject ethernet, string path, int index)
    {
        EthernetConfig defaults = new();
        reader.CheckKeys(
            ethernet,
            path,
            "name",
            "tap",
            "mac",
            "addresses",
            "peer_addresses",
            "gateway_ipv4",
            "gateway_ipv6",
            "mtu_bytes",
            "queues",
            "queues_max",
            "rss_queues",
            "tcp_data_split",
            "hds_thresh_bytes",
            "ring_entries",
            "receive_buffer_bytes",
            "function");
        IReadOnlyList<InterfaceAddress>? addresses = ReadAddresses(ethernet, path, "addresses");
        int queues = reader.ReadInteger(ethernet, path, "queues") ?? defaults.Queues;
        return new EthernetConfig
        {
            Name = reader.ReadText(ethernet, path, "name")
                ?? string.Create(CultureInfo.InvariantCulture, $"nic{index}"),
            Tap = reader.ReadText(ethernet, path, "tap"),
            Mac = ReadMac(ethernet, path) ?? new MacAddress(defaults.Mac.Value + (ulong)index),
            Addresses = addresses ?? defaults.Addresses,

            // The default of one is of the default network of the other.
            PeerAddresses = ReadAddresses(ethernet, path, "peer_addresses")
                ?? (addresses is null ? defaults.PeerAddresses : []),
            GatewayIPv4 = ReadAddress(ethernet, path, "gateway_ipv4"),
            GatewayIPv6 = ReadAddress(ethernet, path, "gateway_ipv6"),
            MtuBytes = reader.ReadInteger(ethernet, path, "mtu_bytes") ?? defaults.MtuBytes,
            Queues = queues,
            QueuesMax = reader.ReadInteger(ethernet, path, "queues_max") ?? Math.Max(defaults.QueuesMax, queues),
            RssQueues = reader.ReadInteger(ethernet, path, "rss_queues"),
            SplitsHeaders = ReadSwitch(ethernet, path, "tcp_data_split") ?? defaults.SplitsHeaders,
            SplitThresholdBytes = reader.ReadInteger(ethernet, path, "hds_thresh_bytes")
                ?? defaults.SplitThresholdBytes,
            RingEntries = reader.ReadInteger(ethernet, path, "ring_entries") ?? defaults.RingEntries,
            ReceiveBufferBytes = reader.ReadSize(ethernet, path, "receive_buffer_bytes")
                ?? defaults.ReceiveBufferBytes,
            Function = reader.ReadText(ethernet, path, "function"),
        };
    }

    /// <summary>Every value, to <paramref name="add"/> with its path.</summary>
    public static void Describe(EthernetConfig ethernet, string path, Action<string, string> add)
    {
        add($"{path}.name", ethernet.Name);
        add($"{path}.tap", ethernet.Tap ?? "(made by the host)");
        add($"{path}.mac", ethernet.Mac.ToString());
        add($"{path}.addresses", ToText(ethernet.Addresses));
        add($"{path}.peer_addresses", ToText(ethernet.PeerAddresses));
        add($"{path}.gateway_ipv4", ethernet.GatewayIPv4?.ToString() ?? "(none)");
        add($"{path}.gateway_ipv6", ethernet.GatewayIPv6?.ToString() ?? "(none)");
        add($"{path}.mtu_bytes", ToText(ethernet.MtuBytes));
        add($"{path}.queues", ToText(ethernet.Queues));
        add($"{path}.queues_max", ToText(ethernet.QueuesMax));
        add($"{path}.rss_queues", ToText(ethernet.RssQueuesInUse));
        add($"{path}.tcp_data_split", ethernet.SplitsHeaders ? On : Off);
        add($"{path}.hds_thresh_bytes", ToText(ethernet.SplitThresholdBytes));
        add($"{path}.ring_entries", ToText(ethernet.RingEntries));
        add($"{path}.receive_buffer_bytes", ByteSize.ToText(ethernet.ReceiveBufferBytes));
    }

    private static string ToText(IReadOnlyList<InterfaceAddress> addresses) =>
        addresses.Count == 0 ? "(none)" : string.Join(", ", addresses.Select(EthernetConfig.ToText));

    private static string ToText(int number) => number.ToString(CultureInfo.InvariantCulture);

    private MacAddress? ReadMac(JsonObject ethernet, string path)
    {
        if (reader.ReadText(ethernet, path, "mac") is not { } text)
        {
            return null;
        }

        if (MacAddress.TryParse(text, out MacAddress mac))
        {
            return mac;
        }

        reader.Report($"{path}.mac", $"'{text}' is not an Ethernet address: 02:57:4c:00:00:01");
        return null;
    }

    private IpAddress? ReadAddress(JsonObject ethernet, string path, string key)
    {
        if (reader.ReadText(ethernet, path, key) is not { } text)
        {
            return null;
        }

        if (IpAddress.TryParse(text, out IpAddress address))
        {
            return address;
        }

        reader.Report($"{path}.{key}", $"'{text}' is not an IPv4 or IPv6 address");
        return null;
    }

    private List<InterfaceAddress>? ReadAddresses(JsonObject ethernet, string path, string key)
    {
        string listPath = path;
        if (!reader.TryGet(ethernet, ref listPath, key, out JsonNode? node))
        {
            return null;
        }

        if (node is not JsonArray array)
        {
            reader.Report(listPath, "must be a list: [ \"10.0.0.1/24\" ]");
            return null;
        }

        List<InterfaceAddress> addresses = [];
        for (int i = 0; i < array.Count; i++)
        {
            if (array[i] is JsonValue value
                && value.TryGetValue(out string? text)
                && InterfaceAddress.TryParse(text, out InterfaceAddress address))
            {
                addresses.Add(address);
                continue;
            }

            string here = string.Create(CultureInfo.InvariantCulture, $"{listPath}[{i}]");
            reader.Report(
                    here, $"{array[i]?.ToJsonString() ?? "null"} is not an address with its network: 10.0.0.1/24");
        }

        return addresses;
    }

    private bool? ReadSwitch(JsonObject ethernet, string path, string key)
    {
        string? text = reader.ReadText(ethernet, path, key);
        if (text is not (null or On or Off))
        {
            reader.Report($"{path}.{key}", $"'{text}' is neither {On} nor {Off}");
        }

        return text switch
        {
            On => true,
            Off => false,
            _ => null,
        };
    }
}
