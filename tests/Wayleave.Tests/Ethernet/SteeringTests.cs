using Wayleave.Core;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet;

public sealed class SteeringTests
{
    private static readonly FlowType[] s_types =
        [FlowType.TcpIPv4, FlowType.TcpIPv6, FlowType.UdpIPv4, FlowType.UdpIPv6];

    public static TheoryData<string, ushort, string, ushort, uint, uint> Vectors => new()
    {
        { "66.9.149.187", 2794, "161.142.100.80", 1766, 0x323e8fc2, 0x51ccc178 },
        { "199.92.111.2", 14230, "65.69.140.83", 4739, 0xd718262a, 0xc626b0ea },
        { "24.19.198.95", 12898, "12.22.207.184", 38024, 0xd2d0a5de, 0x5c2b394a },
        { "38.27.205.30", 48228, "209.142.163.6", 2217, 0x82989176, 0xafc7327f },
        { "153.39.163.191", 44251, "202.188.127.2", 1303, 0x5d1809c5, 0x10e828a2 },
        { "3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2cc18cd5, 0x40207d3d },
        { "3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0f0c461c, 0xdde51bbf },
        { "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x4b61e985, 0x02d1feef },
    };

    [Theory]
    [MemberData(nameof(Vectors))]
    public void RSS_01_TCP_64_The_published_hashes_come_out(
        string from, ushort fromPort, string to, ushort toPort, uint twoTuple, uint fourTuple)
    {
        (IpAddress source, IpAddress destination) = (TestFrame.Address(from), TestFrame.Address(to));
        ToeplitzKey key = ToeplitzKey.Default;
        Assert.Equal(twoTuple, key.Hash(source, destination, fromPort, toPort, hasPorts: false, RssTransform.None));
        Assert.Equal(fourTuple, key.Hash(source, destination, fromPort, toPort, hasPorts: true, RssTransform.None));
    }

    [Fact]
    public void RSS_02_Both_directions_hash_alike_under_the_symmetric_transforms_only()
    {
        IpAddress a = TestFrame.Address("66.9.149.187"), b = TestFrame.Address("161.142.100.80");
        uint Hash(bool forth, RssTransform transform) => forth
            ? ToeplitzKey.Default.Hash(a, b, 2794, 1766, hasPorts: true, transform)
            : ToeplitzKey.Default.Hash(b, a, 1766, 2794, hasPorts: true, transform);

        Assert.NotEqual(Hash(true, RssTransform.None), Hash(false, RssTransform.None));
        Assert.Equal(0xac2b58cau, Hash(true, RssTransform.SymmetricXor));
        Assert.Equal(0xac2b58cau, Hash(false, RssTransform.SymmetricXor));
        Assert.Equal(0xa65524fau, Hash(true, RssTransform.SymmetricOrXor));
        Assert.Equal(0xa65524fau, Hash(false, RssTransform.SymmetricOrXor));
    }

    [Fact]
    public void RSS_02_A_transform_that_is_unknown_or_that_the_device_lacks_is_refused()
    {
        FlowSteering plain = New(4, new SteeringOptions { HasTransforms = false });
        Assert.Equal(Errno.EINVAL, plain.Change(0, new RssChange { Transform = (RssTransform)9 }));
        Assert.Equal(Errno.EOPNOTSUPP, plain.Change(0, new RssChange { Transform = RssTransform.SymmetricXor }));
        Assert.Equal(Errno.Success, New().Change(0, new RssChange { Transform = RssTransform.SymmetricXor }));
    }

    [Fact]
    public void RSS_03_The_default_table_goes_round_the_queues()
    {
        FlowSteering steering = New(3, new SteeringOptions { TableEntries = 8 });
        Assert.Equal([0, 1, 2, 0, 1, 2, 0, 1], steering.Main.Table.ToArray());
    }

    [Fact]
    public void RSS_04_Equal_two_leads_to_two_queues_and_to_no_other()
    {
        FlowSteering steering = New(8);
        Assert.Equal(Errno.Success, steering.Change(0, RssChange.Equal(2, 128)));
        HashSet<int> seen = [.. Flows(500).Select(f => steering.Classify(f).Queue)];
        Assert.Equal([0, 1], seen.Order());
        Assert.Equal(Errno.Success, steering.Change(0, RssChange.Equal(3, 128, start: 5)));
        Assert.Equal([5, 6, 7], Flows(500).Select(f => steering.Classify(f).Queue).Distinct().Order());
    }

    [Fact]
    public void RSS_05_A_key_is_read_back_a_table_reset_keeps_it_and_a_new_key_keeps_the_table()
    {
        FlowSteering steering = New(4);
        byte[] key = TestFrame.Bytes(ToeplitzKey.Size, seed: 77);
        Assert.Equal(Errno.Success, steering.Change(0, new RssChange { Key = key }));
        Assert.Equal(key, steering.Main.Key.Bytes.ToArray());
        Assert.Equal(Errno.Success, steering.Change(0, RssChange.Equal(1, 128)));
        Assert.Equal(Errno.Success, steering.Change(0, new RssChange { Table = [] }));
        Assert.Equal(key, steering.Main.Key.Bytes.ToArray());
        Assert.Equal([0, 1, 2, 3], steering.Main.Table[..4].ToArray());

        Assert.Equal(Errno.Success, steering.Change(0, RssChange.Equal(1, 128)));
        foreach (FrameLayout flow in Flows(50))
        {
            steering.Change(0, new RssChange { Key = TestFrame.Bytes(ToeplitzKey.Size, flow.SourcePort) });
            Assert.Equal(0, steering.Classify(flow).Queue); // never a queue that is not in the table
        }
    }

    [Fact]
    public void RSS_06_Tables_and_keys_that_do_not_fit_are_refused_and_change_nothing()
    {
        FlowSteering steering = New(4);
        Assert.Equal(Errno.EINVAL, steering.Change(0, new RssChange()));
        Assert.Equal(Errno.EINVAL, steering.Change(0, RssChange.Equal(5, 128)));
        Assert.Equal(Errno.EINVAL, steering.Change(0, RssChange.Equal(4, 64)));
        Assert.Equal(Errno.EINVAL, steering.Change(0, RssChange.Equal(1, 128) with { Key = new byte[39] }));
        Assert.Equal(Errno.EINVAL, steering.Change(0, new RssChange { Table = [.. Enumerable.Repeat(-1, 128)] }));
        Assert.Equal(Errno.ENOENT, steering.Change(7, RssChange.Equal(1, 128)));
        Assert.Equal((0, ToeplitzKey.Default), (steering.Main.UserEntries, steering.Main.Key));
    }

    [Fact]
    public void RSS_07_A_table_of_the_user_holds_its_queues_and_the_default_table_does_not()
    {
        NicFixture f = new(ready: false);
        Assert.Equal(Errno.Success, f.Nic.SetChannels(8));
        f.Port.Steering.Change(0, RssChange.Equal(1, 128, start: 5));
        Assert.Equal(Errno.EINVAL, f.Nic.SetChannels(5));
        Assert.Equal(Errno.Success, f.Nic.SetChannels(6));
        f.Port.Steering.Change(0, new RssChange { Table = [] });
        Assert.Equal(Errno.Success, f.Nic.SetChannels(2));
        Assert.Equal([0, 1, 0, 1], f.Port.Steering.Main.Table[..4].ToArray());
    }

    [Fact]
    public void RSS_08_A_rule_decides_alone_for_each_type_and_each_part_of_the_tuple()
    {
        foreach (FlowType type in s_types)
        {
            FlowRule whole = RuleFor(type, 3);
            FlowRule[] rules =
            [
                whole,
                whole with { SourceMask = default, SourcePortMask = 0 },
                whole with { DestinationMask = default, DestinationPortMask = 0 },
                whole with { SourcePortMask = 0, DestinationPortMask = 0 },
                whole with { SourceMask = default, DestinationMask = default },
            ];
            foreach (FlowRule rule in rules)
            {
                FlowSteering steering = New(4);
                steering.Change(0, RssChange.Equal(1, 128));
                Assert.Equal(Errno.Success, steering.InsertRule(rule, out int location));
                Classification chosen = steering.Classify(Layout(type));
                Assert.Equal((3, (int?)location, false), (chosen.Queue, chosen.Rule, chosen.IsDropped));
                foreach (FlowType other in s_types.Where(t => t != type))
                {
                    Classification spread = steering.Classify(Layout(other));
                    Assert.Equal((0, null), (spread.Queue, spread.Rule));
                }
            }
        }
    }

    [Fact]
    public void RSS_08_A_mask_compares_the_bits_that_are_set()
    {
        FlowSteering steering = New(4);
        FlowRule subnet = new()
        {
            Type = FlowType.IPv4,
            Source = TestFrame.Address("10.1.0.0"),
            SourceMask = TestFrame.Address("255.255.0.0"),
            RingCookie = FlowRule.Drop,
        };
        Assert.Equal(Errno.Success, steering.InsertRule(subnet, out _));
        Assert.True(steering.Classify(Layout(FlowType.TcpIPv4, from: "10.1.200.3")).IsDropped);
        Assert.False(steering.Classify(Layout(FlowType.TcpIPv4, from: "10.2.200.3")).IsDropped);
        Assert.False(steering.Classify(Layout(FlowType.TcpIPv6)).IsDropped);
    }

    [Fact]
    public void RSS_09_Of_two_rules_that_match_the_lower_location_decides_and_not_the_more_exact_one()
    {
        FlowSteering steering = New(4);
        FlowRule exact = RuleFor(FlowType.TcpIPv4, 1) with { Location = 5 };
        FlowRule any = FlowRule.ForPort(FlowType.TcpIPv4, 5201, 2) with { Location = 2 };
        steering.InsertRule(exact, out _);
        steering.InsertRule(any, out _);
        Assert.Equal(2, steering.Classify(Layout(FlowType.TcpIPv4)).Queue);
        Assert.Equal(Errno.Success, steering.DeleteRule(2));
        Assert.Equal(1, steering.Classify(Layout(FlowType.TcpIPv4)).Queue);
        steering.InsertRule(any with { Location = 6 }, out _);
        Assert.Equal(1, steering.Classify(Layout(FlowType.TcpIPv4)).Queue);
    }

    [Fact]
    public void Rules_stand_where_the_special_locations_say_and_replace_what_is_there()
    {
        FlowSteering steering = New(4, new SteeringOptions { Rules = 3 });
        FlowRule rule = FlowRule.ForPort(FlowType.TcpIPv4, 1, 0);
        int At(uint location)
        {
            Assert.Equal(Errno.Success, steering.InsertRule(rule with { Location = location }, out int at));
            return at;
        }

        Assert.Equal((2, 0, 1), (At(FlowRule.LastLocation), At(FlowRule.FirstLocation), At(FlowRule.AnyLocation)));
        Assert.Equal(Errno.ENOSPC, steering.InsertRule(rule, out _));
        Assert.Equal(Errno.EINVAL, steering.InsertRule(rule with { Location = 3 }, out _));
        Assert.Equal((1, 3), (At(1), steering.Rules.Count));
        Assert.Equal(Errno.ENOENT, steering.Rules.TryGet(77, out _));
        Assert.Equal(Errno.ENOENT, steering.DeleteRule(77));
        Assert.Equal(Errno.Success, steering.DeleteRule(1));
        Assert.Equal(Errno.ENOENT, steering.DeleteRule(1));
    }

    [Fact]
    public void Rules_that_cannot_be_are_refused()
    {
        FlowSteering steering = New(4);
        FlowRule rule = RuleFor(FlowType.TcpIPv4, 0);
        Errno Insert(FlowRule r) => steering.InsertRule(r, out _);

        Assert.Equal(Errno.EINVAL, Insert(rule with { RingCookie = 4 }));
        Assert.Equal(Errno.EINVAL, Insert(rule with { RingCookie = 1UL << 32 }));
        Assert.Equal(Errno.EOPNOTSUPP, Insert(rule with { RingCookie = FlowRule.Wake }));
        Assert.Equal(Errno.EINVAL, Insert(rule with { Type = (FlowType)50 }));
        Assert.Equal(Errno.EINVAL, Insert(rule with { Type = FlowType.TcpIPv6 }));
        Assert.Equal(Errno.EINVAL, Insert(rule with { Type = FlowType.IPv4 })); // ports of what has none
        Assert.Equal(Errno.EINVAL, Insert(rule with { Type = FlowType.Ether }));
        steering.SetNtuple(false);
        Assert.Equal(Errno.EOPNOTSUPP, Insert(rule));
        Assert.Equal(Errno.EOPNOTSUPP, steering.DeleteRule(0));
        Assert.Equal(0, steering.Rules.Count);
    }

    [Fact]
    public void RSS_10_A_rule_needs_its_context_and_a_context_that_a_rule_names_stays()
    {
        FlowSteering steering = New(4);
        FlowRule rule = RuleFor(FlowType.TcpIPv4, 0) with { RssContext = 1 };
        Assert.Equal(Errno.EINVAL, steering.InsertRule(rule, out _));
        Assert.Equal(Errno.Success, steering.TryCreateContext(null, out int id));
        Assert.Equal(1, id);
        Assert.Equal(Errno.Success, steering.InsertRule(rule, out int location));
        Assert.Equal(Errno.EBUSY, steering.DeleteContext(id));
        Assert.Equal(Errno.Success, steering.DeleteRule((uint)location));
        Assert.Equal(Errno.Success, steering.DeleteContext(id));
        Assert.Equal(Errno.ENOENT, steering.DeleteContext(id));
        Assert.Equal(Errno.EINVAL, steering.DeleteContext(0));
    }

    [Fact]
    public void RSS_11_A_flow_that_is_sent_to_a_context_stays_on_the_queues_of_that_context()
    {
        FlowSteering steering = New(8);
        steering.TryCreateContext(RssChange.Equal(2, 128, start: 1), out int id);
        steering.InsertRule(FlowRule.ForPort(FlowType.TcpIPv4, 5201, 0) with { RssContext = id }, out _);
        Assert.Equal([1, 2], Flows(300).Select(f => steering.Classify(f).Queue).Distinct().Order());
        Assert.Equal(8, Flows(800, toPort: 80).Select(f => steering.Classify(f).Queue).Distinct().Count());
    }

    [Fact]
    public void RSS_12_A_cookie_beside_a_context_is_added_where_the_device_does_so_and_else_refused()
    {
        RssChange change = RssChange.Equal(2, 128);
        FlowSteering adds = New(8), plain = New(8, new SteeringOptions { AddsCookieToContext = false });
        FlowRule rule = FlowRule.ForPort(FlowType.TcpIPv4, 5201, 4) with { RssContext = 1 };
        foreach (FlowSteering steering in (FlowSteering[])[adds, plain])
        {
            steering.TryCreateContext(change, out _);
        }

        Assert.Equal(Errno.EINVAL, plain.InsertRule(rule, out _));
        Assert.Equal(Errno.Success, adds.InsertRule(rule, out _));
        Assert.Equal([4, 5], Flows(300).Select(f => adds.Classify(f).Queue).Distinct().Order());
        Assert.Equal(Errno.EINVAL, adds.InsertRule(rule with { RingCookie = 7 }, out _)); // 1 + 7
        Assert.Equal(Errno.EINVAL, adds.Change(1, RssChange.Equal(5, 128))); // 4 + 4
    }

    [Fact]
    public void RSS_13_Contexts_survive_down_and_up_and_are_deleted_in_any_order()
    {
        NicFixture f = new();
        FlowSteering steering = f.Port.Steering;
        for (int i = 1; i <= 4; i++)
        {
            Assert.Equal(Errno.Success, steering.TryCreateContext(RssChange.Equal(1, 128, i - 1), out int id));
            Assert.Equal(i, id);
        }

        f.Nic.SetUp(false);
        f.Nic.SetUp(true);
        Assert.Equal([0, 1, 2, 3, 4], steering.Contexts.Select(c => c.Id));
        Assert.Equal(Errno.Success, steering.TryGetContext(3, out RssContext? third));
        Assert.Equal(2, third!.Table[0]);
        Assert.All((int[])[2, 4, 1, 3], id => Assert.Equal(Errno.Success, steering.DeleteContext(id)));
        Assert.Single(steering.Contexts);
    }

    [Fact]
    public void RSS_14_A_queue_outside_the_table_sees_the_flow_of_its_rule_and_no_other()
    {
        FlowSteering steering = New(16);
        steering.Change(0, RssChange.Equal(15, 128));
        FrameLayout chosen = Layout(FlowType.TcpIPv4);
        steering.InsertRule(RuleFor(FlowType.TcpIPv4, 15), out _);
        Assert.Equal(15, steering.Classify(chosen).Queue);
        Assert.DoesNotContain(15, Flows(2000, from: "10.9.9.9").Select(f => steering.Classify(f).Queue));
        Assert.False(steering.IsInRss(15));
    }

    [Fact]
    public void RSS_15_A_table_that_follows_the_channels_is_folded_and_repeated_or_the_change_is_refused()
    {
        SteeringOptions options = new() { TableFollowsChannels = true };
        NicFixture f = new(new Devices.Ethernet.NicOptions { Channels = 8, Steering = options }, ready: false);
        FlowSteering steering = f.Port.Steering;
        Assert.Equal(32, steering.Main.Table.Length);
        Assert.Equal(Errno.Success, steering.Change(0, new RssChange { Table = [3, 2, 1, 0] }));
        Assert.Equal((4, 32), (steering.Main.UserEntries, steering.Main.Table.Length));

        Assert.Equal(Errno.Success, f.Nic.SetChannels(4));
        Assert.Equal([3, 2, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0], steering.Main.Table.ToArray());
        Assert.Equal(Errno.Success, f.Nic.SetChannels(8));
        Assert.Equal(32, steering.Main.Table.Length);
        Assert.Equal([3, 2, 1, 0], steering.Main.Table[^4..].ToArray());

        int[] aperiodic = [.. Enumerable.Range(0, 32).Select(i => i == 17 ? 1 : 0)];
        Assert.Equal(Errno.Success, steering.Change(0, new RssChange { Table = aperiodic }));
        Assert.Equal(Errno.EINVAL, f.Nic.SetChannels(4));
        Assert.Equal((8, 8), (steering.Channels, f.Port.Queues.Count));
        Assert.Equal(aperiodic, steering.Main.Table.ToArray());
        Assert.Equal(Errno.EINVAL, steering.Change(0, new RssChange { Table = [0, 1, 2] }));
    }

    [Fact]
    public void RSS_16_The_hash_that_the_host_sees_is_that_of_the_tuple()
    {
        foreach (FlowType type in s_types)
        {
            FrameLayout layout = Layout(type);
            uint expected = ToeplitzKey.Default.Hash(
                layout.Source, layout.Destination, 40000, 5201, hasPorts: true, RssTransform.None);
            Assert.Equal(expected, New().Classify(layout).Hash);
        }
    }

    [Fact]
    public void F_11_The_rule_that_is_found_is_the_first_of_a_scan_whatever_the_rules_are()
    {
        SplitMix64 random = new(11);
        string[] addresses = ["10.0.0.2", "10.0.0.3", "10.0.1.2"];
        for (int run = 0; run < FuzzRounds.Of(300); run++)
        {
            FlowSteering steering = New(8);
            for (int i = 0; i < 12; i++)
            {
                FlowType type = s_types[random.Next(2) * 2];
                FlowRule rule = new()
                {
                    Type = random.Next(5) == 0 ? FlowType.IPv4 : type,
                    Source = TestFrame.Address(addresses[random.Next(3)]),
                    SourceMask = random.Next(2) == 0 ? default : FlowRule.Exactly,
                    Destination = TestFrame.Address("10.0.0.1"),
                    DestinationMask = random.Next(3) == 0 ? default : TestFrame.Address("255.255.255.255"),
                    SourcePort = (ushort)(1 + random.Next(3)),
                    SourcePortMask = (ushort)(random.Next(2) * 0xFFFF),
                    DestinationPort = (ushort)(1 + random.Next(3)),
                    DestinationPortMask = (ushort)(random.Next(2) * 0xFFFF),
                    RingCookie = random.Next(6) == 0 ? FlowRule.Drop : (ulong)random.Next(8),
                    Location = (uint)random.Next(20),
                };
                steering.InsertRule(rule, out _);
                if (random.Next(4) == 0)
                {
                    steering.DeleteRule((uint)random.Next(20));
                }
            }

            for (int i = 0; i < 60; i++)
            {
                FrameLayout layout = Layout(
                    s_types[random.Next(2) * 2],
                    addresses[random.Next(3)],
                    (ushort)(1 + random.Next(3)),
                    (ushort)(1 + random.Next(3)));
                FlowRule? expected = steering.Rules.FindByScan(layout);
                Classification chosen = steering.Classify(layout);
                Assert.Equal(expected is null ? null : (int)expected.Location, chosen.Rule);
                Assert.Equal(expected?.RingCookie == FlowRule.Drop, chosen.IsDropped);
            }
        }
    }

    private static FlowSteering New(int channels = 4, SteeringOptions? options = null) =>
        new(options ?? new SteeringOptions(), channels);

    private static FlowRule RuleFor(FlowType type, int queue)
    {
        FrameLayout layout = Layout(type);
        FlowRule rule = FlowRule.ForConnection(
            layout.Source, layout.SourcePort, layout.Destination, layout.DestinationPort, queue);
        return rule with { Type = type };
    }

    private static FrameLayout Layout(
        FlowType type, string? from = null, ushort fromPort = 40000, ushort toPort = 5201)
    {
        bool isIPv4 = type is FlowType.TcpIPv4 or FlowType.UdpIPv4;
        TestFrame frame = new()
        {
            From = from ?? (isIPv4 ? "10.0.0.2" : "fd00::2"),
            To = isIPv4 ? "10.0.0.1" : "fd00::1",
            FromPort = fromPort,
            ToPort = toPort,
        };
        byte[] bytes = type is FlowType.TcpIPv4 or FlowType.TcpIPv6 ? frame.Tcp() : frame.Udp();
        Assert.Equal(FrameDrop.None, FrameParser.Parse(bytes, default, out FrameLayout layout));
        return layout;
    }

    private static IEnumerable<FrameLayout> Flows(int count, string? from = null, ushort toPort = 5201) =>
        Enumerable.Range(0, count).Select(i => Layout(FlowType.TcpIPv4, from, (ushort)(1024 + i), toPort));
}
