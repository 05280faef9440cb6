using Wayleave.Host.Configuration;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>Ethernet NICs of a configuration: what may be said, and what is wrong with it.</summary>
public sealed class EthernetConfigurationTests : IDisposable
{
    private readonly string _file = Path.GetTempFileName();

    [Fact]
    public void A_host_has_no_ethernet_nic_unless_it_is_given_one_and_the_default_one_is_valid()
    {
        Assert.Empty(new HostConfig().Ethernets);
        EthernetConfig nic = Assert.Single(Load("""{ "ethernets": [ {} ] }""").Config.Ethernets);
        Assert.Equal("nic0", nic.Name);
        Assert.Equal("198.18.0.1/24", EthernetConfig.ToText(Assert.Single(nic.Addresses)));
        Assert.Equal("198.18.0.2/24", EthernetConfig.ToText(Assert.Single(nic.PeerAddresses)));
        Assert.Equal((4, 2, true, 0), (nic.Queues, nic.RssQueuesInUse, nic.SplitsHeaders, nic.SplitThresholdBytes));
    }

    [Fact]
    public void Everything_can_be_set_and_is_shown_with_where_it_came_from()
    {
        LoadedConfiguration loaded = Load(
            """
            {
              "ethernets": [
                {},
                {
                  "name": "lan", "tap": "wl7", "mac": "02:00:00:00:00:09",
                  "addresses": [ "10.1.0.1/16", "fd00::1/64" ], "peer_addresses": [ "10.1.0.2/16" ],
                  "gateway_ipv4": "10.1.0.254", "gateway_ipv6": "fe80::1", "mtu_bytes": 9000,
                  "queues": 8, "queues_max": 32, "rss_queues": 3, "tcp_data_split": "off", "hds_thresh_bytes": 256,
                  "ring_entries": 1024, "receive_buffer_bytes": "8MiB"
                }
              ]
            }
            """);
        EthernetConfig nic = loaded.Config.Ethernets[1];
        Assert.Equal(("lan", "wl7", "02:00:00:00:00:09"), (nic.Name, nic.Tap, nic.Mac.ToString()));
        Assert.Equal(["10.1.0.1/16", "fd00::1/64"], nic.Addresses.Select(EthernetConfig.ToText));
        Assert.Equal(("10.1.0.254", "fe80::1"), (nic.GatewayIPv4.ToString(), nic.GatewayIPv6.ToString()));
        Assert.Equal((9000, 8, 32, 3), (nic.MtuBytes, nic.Queues, nic.QueuesMax, nic.RssQueuesInUse));
        Assert.Equal((false, 256, 1024, 8L << 20), (
            nic.SplitsHeaders, nic.SplitThresholdBytes, nic.RingEntries, nic.ReceiveBufferBytes));
        Assert.Equal("02:57:4c:00:00:01", loaded.Config.Ethernets[0].Mac.ToString());
        ConfigValue[] values =
            [.. loaded.Values.Where(v => v.Path.StartsWith("ethernets[1].", StringComparison.Ordinal))];
        Assert.Equal(15, values.Length);
        Assert.All(values, v => Assert.Equal(_file, v.Origin));
        Assert.Contains(values, v => v is { Path: "ethernets[1].tcp_data_split", Value: "off" });
    }

    [Fact]
    public void Addresses_of_ones_own_come_without_the_defaults_peer() =>
        Assert.Empty(Load("""{ "ethernets": [ { "addresses": [ "10.0.0.1/24" ] } ] }""")
            .Config.Ethernets[0].PeerAddresses);

    [Fact]
    public void NICs_of_the_kernel_are_named_by_their_interface_unless_they_have_a_name()
    {
        LoadedConfiguration loaded = Load(
            """{ "linux_nics": [ { "interface": "eth0" }, { "name": "fast", "interface": "ens7np0" } ] }""");
        Assert.Equal(
            [("eth0", "eth0"), ("fast", "ens7np0")], loaded.Config.LinuxNics.Select(n => (n.Name, n.Interface)));
        Assert.Contains(loaded.Values, v => v is { Path: "linux_nics[1].interface", Value: "ens7np0" });
        Assert.Empty(new HostConfig().LinuxNics);
    }

    [Theory]
    [InlineData("""{ "interface": "a/b" }""", "linux_nics[0].interface")]
    [InlineData("""{ "interface": "a-name-that-is-too-long" }""", "linux_nics[0].interface")]
    [InlineData("{}", "linux_nics[0].interface")]
    [InlineData("""{ "interface": "eth0", "queue": 3 }""", "linux_nics[0].queue")]
    [InlineData("""{ "interface": "gpu0" }""", "linux_nics[0].name")]
    public void What_is_wrong_with_a_NIC_of_the_kernel_is_told_by_its_path(string nic, string path)
    {
        ConfigurationException e = Assert.Throws<ConfigurationException>(
            () => Load("{ \"linux_nics\": [ " + nic + " ] }"));
        Assert.Contains(path, e.Problems.Select(p => p.Where));
    }

    [Fact]
    public void Every_problem_is_told_at_once_by_its_path()
    {
        ConfigurationException e = Assert.Throws<ConfigurationException>(() => Load(
            """
            {
              "ethernets": [
                {
                  "tap": "a/b", "mac": "01:00:00:00:00:00", "addresses": [], "mtu_bytes": 1000, "queues": 0,
                  "tcp_data_split": "maybe", "ring_entries": 100, "speed": 1
                },
                {
                  "name": "gpu0", "tap": "wl0", "mac": "2:3",
                  "addresses": [ "10.0.0.1", "224.0.0.1/4", "10.0.0.1/24", "10.0.0.1/24" ],
                  "peer_addresses": [ "10.0.0.1/24", "10.9.0.2/24" ], "gateway_ipv4": "fd00::1"
                },
                { "tap": "wl0", "queues": 2, "rss_queues": 3, "addresses": "10.0.0.1/24" }
              ]
            }
            """));
        Assert.Equal(
            [
                "ethernets[0].speed: unknown key; known are name, tap, mac, addresses, peer_addresses, gateway_ipv4, "
                    + "gateway_ipv6, mtu_bytes, queues, queues_max, rss_queues, tcp_data_split, hds_thresh_bytes, "
                    + "ring_entries, receive_buffer_bytes, function",
                "ethernets[0].tcp_data_split: 'maybe' is neither on nor off",
                "ethernets[1].addresses[0]: \"10.0.0.1\" is not an address with its network: 10.0.0.1/24",
                "ethernets[1].mac: '2:3' is not an Ethernet address: 02:57:4c:00:00:01",
                "ethernets[2].addresses: must be a list: [ \"10.0.0.1/24\" ]",
                "ethernets[0].tap: 'a/b' is not the name of an interface: no blanks, slashes, colons or per cent signs",
                "ethernets[0].mac: 01:00:00:00:00:00 is not the address of one station",
                "ethernets[0].addresses: a NIC needs at least one: [\"10.0.0.1/24\"]",
                "ethernets[0].mtu_bytes: 1000 is out of range; allowed are 1280 to 65535",
                "ethernets[0].queues: 0 is out of range; allowed are 1 to 16",
                "ethernets[0].ring_entries: 100 is not a power of two of 1 to 4096",
                "ethernets[1].name: 'gpu0' is also the name of gpus[0]",
                "ethernets[1].addresses[0]: 224.0.0.1 is not the address of one machine",
                "ethernets[1].addresses[2]: 10.0.0.1 is there twice",
                "ethernets[1].peer_addresses[0]: 10.0.0.1 is the NIC's own; the kernel's end needs another",
                "ethernets[1].peer_addresses[1]: 10.9.0.2 is in no network of the NIC; it has 224.0.0.1/4, "
                    + "10.0.0.1/24, 10.0.0.1/24",
                "ethernets[1].gateway_ipv4: fd00::1 is of the other family",
                "ethernets[2].rss_queues: 3 is out of range; allowed are 1 to 2",
                "ethernets[2].tap: 'wl0' is also that of ethernets[1]",
            ],
            e.Problems.Select(p => p.ToString()));
    }

    [Fact]
    public void A_nic_takes_the_function_of_the_topology_that_it_names()
    {
        ConfigurationException e = Assert.Throws<ConfigurationException>(
            () => Load("""{ "ethernets": [ { "function": "slot9" } ] }"""));
        Assert.Equal("ethernets[0].function: there is no function 'slot9' in the topology", e.Problems[0].ToString());
    }

    public void Dispose() => File.Delete(_file);

    private LoadedConfiguration Load(string json)
    {
        File.WriteAllText(_file, json);
        return ConfigurationLoader.Load(_file, new Dictionary<string, string>(), _ => null);
    }
}
