using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Host.Ethernet;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>Changes of a NIC in ethtool's words.</summary>
public sealed class EthtoolCommandTests
{
    [Fact]
    public void A_rule_is_read_as_ethtool_reads_it_with_masks_of_what_is_ignored()
    {
        FlowRule rule = Assert.IsType<EthtoolCommand.InsertRule>(Parse(
            "-N",
            "flow-type tcp4 src-ip 10.0.0.0 m 0.0.0.255 dst-ip 10.0.0.1 "
                + "src-port 0x50 dst-port 80 m 0xff action 3 loc 7"))
            .Rule;
        Assert.Equal((FlowType.TcpIPv4, 3UL, 7U), (rule.Type, rule.RingCookie, rule.Location));
        Assert.Equal("255.255.255.0", IpAddress.FromIPv4(rule.SourceMask.IPv4).ToString());
        Assert.Equal(FlowRule.Exactly, rule.DestinationMask);
        Assert.Equal((80, 0xFFFF, 80, 0xFF00), (
            rule.SourcePort, rule.SourcePortMask, rule.DestinationPort, rule.DestinationPortMask));
    }

    [Theory]
    [InlineData("flow-type ether dst-mac 02:00:00:00:00:01 action -1", FlowRule.Drop)]
    [InlineData("flow-type udp6 dst-port 53 action -2", FlowRule.Wake)]
    [InlineData("flow-type ip4 vlan 5 vf 1 queue 2", (2UL << 32) | 2)]
    public void An_action_is_a_queue_of_a_function_or_one_of_two_below_zero(string words, ulong cookie) =>
        Assert.Equal(cookie, Assert.IsType<EthtoolCommand.InsertRule>(Parse("-N", words)).Rule.RingCookie);

    [Fact]
    public void Other_options_have_their_words()
    {
        Assert.Equal(new EthtoolCommand.DeleteRule(7), Parse("-N", "delete 7"));
        Assert.Equal(new EthtoolCommand.SetChannels(3), Parse("-L", "rx 3"));
        Assert.Equal(new EthtoolCommand.SetRing(512, true, 0), Parse("-G", "rx 512 tcp-data-split on hds-thresh 0"));
        Assert.Equal(new EthtoolCommand.SetNtuple(false), Parse("-K", "ntuple off"));
        EthtoolCommand.SetRxfh rss = Assert.IsType<EthtoolCommand.SetRxfh>(Parse("-X", "weight 1 0 3 start 1"));
        Assert.Equal([1, 0, 3], rss.Weights!);
        Assert.Equal((1, 0), (rss.Start, rss.Context));
        Assert.Null(Assert.IsType<EthtoolCommand.SetRxfh>(Parse("-X", "context new equal 2")).Context);
        Assert.True(Assert.IsType<EthtoolCommand.SetRxfh>(Parse("-X", "context 1 delete")).Deletes);
        Assert.Equal(2, Assert.IsType<EthtoolCommand.SetRxfh>(Parse("-X", "hkey 6d:5a")).Key!.Value.Length);
    }

    [Theory]
    [InlineData("-N", "", "say: flow-type ether|ip4|tcp4|udp4|ip6|tcp6|udp6 ... action N, or: delete N")]
    [InlineData("-N", "flow-type tcp4 dst-port 80", "say where it goes: action N, and -1 to drop")]
    [InlineData("-N", "flow-type tcp4 dst-prot 80 action 1",
        "'dst-prot' is none of src-ip, dst-ip, src-port, dst-port, vlan, dst-mac, action, queue, context, loc")]
    [InlineData("-N", "flow-type tcp4 dst-port 70000 action 1", "dst-port: '70000' is not a number that it takes")]
    [InlineData("-N", "flow-type tcp4 src-ip x action 1", "src-ip: 'x' is not an IPv4 or IPv6 address")]
    [InlineData("-N", "delete 7 8", "'8' is not expected there")]
    [InlineData("-L", "tx 3", "'tx' cannot be set; say: rx N")]
    [InlineData("-G", "", "nothing to set was named")]
    [InlineData("-X", "equal 2 default", "equal, weight, default and delete exclude each other")]
    [InlineData("-X", "hkey 6d:5", "hkey: bytes in hexadecimal with colons between them")]
    [InlineData("-X", "hfunc xor", "hfunc xor: the device has toeplitz")]
    [InlineData("-K", "tso on", "say: ntuple on|off")]
    [InlineData("-Q", "x", "there is no option -Q that changes something")]
    public void Words_that_mean_nothing_are_named(string option, string words, string expected)
    {
        Assert.Null(EthtoolCommand.TryParse(option, Split(words), out string problem));
        Assert.Equal(expected, problem);
    }

    private static EthtoolCommand Parse(string option, string words)
    {
        EthtoolCommand? command = EthtoolCommand.TryParse(option, Split(words), out string problem);
        Assert.Equal("", problem);
        return command!;
    }

    private static string[] Split(string words) => words.Split(' ', StringSplitOptions.RemoveEmptyEntries);
}
