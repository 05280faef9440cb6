using System.Buffers;
using System.Globalization;
using System.Text;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Host.Configuration;

/// <summary>
/// A software Ethernet NIC with a TCP endpoint, linked to the kernel by a TAP interface: <c>{ "name": "nic0", "tap":
/// "wl0", "addresses": ["10.0.0.1/24"] }</c>.
/// </summary>
public sealed record EthernetConfig
{
    private const int InterfaceNameBytesMax = 15;
    private const int SplitThresholdMax = ushort.MaxValue;
    private const long ReceiveBufferBytesMin = 64 << 10;
    private const long ReceiveBufferBytesMax = 1L << 30;

    // dev_valid_name, and %d, by which the kernel chooses a number.
    private static readonly SearchValues<char> s_notInNames = SearchValues.Create("/: %\t\n\v\f\r\0");

    public string Name { get; init; } = "nic0";

    /// <summary>
    /// The TAP interface at the other end: one that exists and that this user may open, or one that the host makes and
    /// that goes with it. Null lets the kernel choose a name.
    /// </summary>
    public string? Tap { get; init; }

    /// <summary>The NIC's own; its peer on the TAP chooses another.</summary>
    public MacAddress Mac { get; init; } = new(0x02_57_4C_00_00_01);

    /// <summary>The NIC's own addresses with their networks; at least one. The default is of RFC 2544.</summary>
    public IReadOnlyList<InterfaceAddress> Addresses { get; init; } = [Parse("198.18.0.1/24")];

    /// <summary>
    /// What the host gives the TAP interface at the kernel's end, and switches it on with. None, of an interface that
    /// was there before: the host leaves it as it is.
    /// </summary>
    public IReadOnlyList<InterfaceAddress> PeerAddresses { get; init; } = [Parse("198.18.0.2/24")];

    /// <summary>Where packets to other IPv4 networks go; null for nowhere.</summary>
    public IpAddress? GatewayIPv4 { get; init; }

    /// <summary>As above, of IPv6.</summary>
    public IpAddress? GatewayIPv6 { get; init; }

    /// <summary>The largest IP packet that is not a super-packet: 1280 to 65535.</summary>
    public int MtuBytes { get; init; } = 1500;

    /// <summary>Receive queues at first (<c>ethtool -l</c>).</summary>
    public int Queues { get; init; } = 4;

    /// <summary>The most that there can be (<c>ethtool -L</c>).</summary>
    public int QueuesMax { get; init; } = 16;

    /// <summary>
    /// How many queues, from the first on, RSS spreads flows over (<c>ethtool -X equal N</c>): memory is bound to the
    /// others. Null for half of them.
    /// </summary>
    public int? RssQueues { get; init; }

    /// <summary>Whether payload is split from headers (<c>ethtool -G tcp-data-split</c>).</summary>
    public bool SplitsHeaders { get; init; } = true;

    /// <summary>Frames that are not longer stay whole (<c>ethtool -G hds-thresh</c>); a binding needs 0.</summary>
    public int SplitThresholdBytes { get; init; }

    /// <summary>Entries of each ring at first; a power of two up to 4096.</summary>
    public int RingEntries { get; init; } = 256;

    /// <summary>Unread and promised bytes of a connection.</summary>
    public long ReceiveBufferBytes { get; init; } = 4 << 20;

    /// <inheritdoc cref="NicConfig.Function"/>
    public string? Function { get; init; }

    /// <summary><see cref="RssQueues"/> as it will be.</summary>
    internal int RssQueuesInUse => RssQueues ?? Math.Max(1, Queues / 2);

    /// <summary>ADDRESS/BITS.</summary>
    internal static string ToText(InterfaceAddress address) =>
        string.Create(CultureInfo.InvariantCulture, $"{address.Address}/{address.PrefixLength}");

    internal NicOptions ToNicOptions() => new()
    {
        Address = Mac,
        MtuBytes = MtuBytes,
        Channels = Queues,
        ChannelsMax = QueuesMax,
        RingEntries = RingEntries,
    };

    internal IpHostOptions ToIpOptions() => new()
    {
        HardwareAddress = Mac,
        Addresses = Addresses,
        GatewayIPv4 = GatewayIPv4,
        GatewayIPv6 = GatewayIPv6,
        Tcp = new TcpEndpointOptions { ReceiveBufferBytes = ReceiveBufferBytes },
    };

    internal void Validate(List<ConfigProblem> problems, string path)
    {
        if (Tap is { } tap && DescribeProblemOfTap(tap) is { } problem)
        {
            Report("tap", problem);
        }

        if (Mac.IsMulticast || Mac.Value == 0)
        {
            Report("mac", $"{Mac} is not the address of one station");
        }

        if (Addresses.Count == 0)
        {
            Report("addresses", "a NIC needs at least one: [\"10.0.0.1/24\"]");
        }

        CheckAddresses(problems, path + ".addresses", Addresses);
        CheckAddresses(problems, path + ".peer_addresses", PeerAddresses);
        CheckPeers(problems, path);
        CheckGateway(problems, path + ".gateway_ipv4", GatewayIPv4, isIPv4: true);
        CheckGateway(problems, path + ".gateway_ipv6", GatewayIPv6, isIPv4: false);
        CheckRange("mtu_bytes", MtuBytes, 1280, ushort.MaxValue);
        CheckRange("queues_max", QueuesMax, 1, 1024);
        CheckRange("queues", Queues, 1, Math.Max(QueuesMax, 1));
        CheckRange("rss_queues", RssQueuesInUse, 1, Math.Max(Queues, 1));
        CheckRange("hds_thresh_bytes", SplitThresholdBytes, 0, SplitThresholdMax);
        CheckRange("receive_buffer_bytes", ReceiveBufferBytes, ReceiveBufferBytesMin, ReceiveBufferBytesMax);
        if (RingEntries is < 1 or > 4096 || !int.IsPow2(RingEntries))
        {
            Report("ring_entries", $"{RingEntries} is not a power of two of 1 to 4096");
        }

        void CheckRange(string key, long value, long least, long most)
        {
            if (value < least || value > most)
            {
                Report(key, $"{value} is out of range; allowed are {least} to {most}");
            }
        }

        void Report(string key, string message) => problems.Add(new ConfigProblem($"{path}.{key}", message));
    }

    private static InterfaceAddress Parse(string text) =>
        InterfaceAddress.TryParse(text, out InterfaceAddress address) ? address : throw new FormatException(text);

    private static string? DescribeProblemOfTap(string name) =>
        name.Length == 0 || Encoding.UTF8.GetByteCount(name) > InterfaceNameBytesMax
            ? $"'{name}' is not the name of an interface: 1 to {InterfaceNameBytesMax} bytes"
            : name is "." or ".." || name.AsSpan().ContainsAny(s_notInNames)
                ? $"'{name}' is not the name of an interface: no blanks, slashes, colons or per cent signs"
                : null;

    private static void CheckAddresses(
        List<ConfigProblem> problems, string path, IReadOnlyList<InterfaceAddress> addresses)
    {
        for (int i = 0; i < addresses.Count; i++)
        {
            IpAddress address = addresses[i].Address;
            string here = string.Create(CultureInfo.InvariantCulture, $"{path}[{i}]");
            if (address.IsUnspecified || !address.CanBeSource)
            {
                problems.Add(new ConfigProblem(here, $"{address} is not the address of one machine"));
            }
            else if (addresses.Take(i).Any(a => a.Address == address))
            {
                problems.Add(new ConfigProblem(here, $"{address} is there twice"));
            }
        }
    }

    private void CheckPeers(List<ConfigProblem> problems, string path)
    {
        for (int i = 0; i < PeerAddresses.Count; i++)
        {
            IpAddress peer = PeerAddresses[i].Address;
            string here = string.Create(CultureInfo.InvariantCulture, $"{path}.peer_addresses[{i}]");
            if (Addresses.Any(a => a.Address == peer))
            {
                problems.Add(new ConfigProblem(here, $"{peer} is the NIC's own; the kernel's end needs another"));
            }
            else if (!Addresses.Any(a => a.Contains(peer)) && !peer.IsLinkLocal)
            {
                string networks = string.Join(", ", Addresses.Select(ToText));
                problems.Add(new ConfigProblem(here, $"{peer} is in no network of the NIC; it has {networks}"));
            }
        }
    }

    private void CheckGateway(List<ConfigProblem> problems, string path, IpAddress? gateway, bool isIPv4)
    {
        if (gateway is not { } address)
        {
            return;
        }

        if (address.IsIPv4 != isIPv4)
        {
            problems.Add(new ConfigProblem(path, $"{address} is of the other family"));
        }
        else if (!Addresses.Any(a => a.Contains(address)) && !address.IsLinkLocal)
        {
            problems.Add(new ConfigProblem(path, $"{address} is in no network of the NIC"));
        }
    }
}
