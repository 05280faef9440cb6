using System.Globalization;
using System.Text.Json;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.Recorded;

/// <summary>
/// Our rules of P2PDMA on the trees of the lab's machines, pair by pair beside what Linux decided there and whether its
/// bytes arrived.
/// </summary>
public sealed class PeerToPeerRecordTests
{
    private const int Bytes = 65536;

    private static readonly IReadOnlyList<JsonElement> s_records = KernelRecord.Read("p2pdma");

    public static TheoryData<string> Boots => [.. s_records.Select(r => r.Text("boot")).Distinct()];

    [Theory]
    [MemberData(nameof(Boots))]
    public void Map_type_and_distance_are_the_kernels(string boot) => Assert.Empty(Differences(boot, Machine(boot)));

    [Fact]
    public void What_topo_live_read_in_the_guest_gave_the_kernels_verdicts() =>
        Assert.All(s_records.Where(r => r.Text("record") == "pair"), pair =>
        {
            Assert.Equal(pair.Text("map_type"), pair.Text("live_map_type"));
            Assert.Equal(pair.GetProperty("distance").GetInt32(), pair.GetProperty("live_distance").GetInt32());
        });

    [Fact]
    public void A_machine_without_its_ACS_or_with_another_processor_is_told_from_the_kernels()
    {
        Assert.NotEmpty(Differences("iommu-strict", Machine("iommu-strict", hasAcs: false)));
        Assert.NotEmpty(Differences("amd-zen", Machine("amd-zen", processor: BootProcessor.Unknown)));
    }

    [Theory]
    [MemberData(nameof(Boots))]
    public void Bytes_arrive_are_refused_or_are_lost_where_the_kernels_were(string boot)
    {
        List<string> different = [];
        foreach (JsonElement pair in Pairs(boot))
        {
            string ours = Move(Machine(boot), pair.Text("provider"), pair.Text("client"));
            if (ours != pair.Text("verdict"))
            {
                different.Add(
                    $"{pair.Text("provider")} to {pair.Text("client")}: {ours}, the kernel {pair.Text("verdict")}");
            }
        }

        Assert.Empty(different);
    }

    [Fact]
    public void Every_kind_of_answer_was_seen()
    {
        IEnumerable<JsonElement> pairs = s_records.Where(r => r.Text("record") == "pair");
        Assert.Equal(["corrupts", "refused", "works"], pairs.Select(p => p.Text("verdict")).Distinct().Order());
        Assert.Equal(
            ["bus-address", "not-supported", "through-host-bridge"],
            pairs.Select(p => p.Text("map_type")).Distinct().Order());
    }

    /// <summary>Each pair in each machine: map type, distance, and what becomes of the bytes.</summary>
    internal static IEnumerable<HeldRow> Rows()
    {
        foreach (JsonElement pair in s_records.Where(r => r.Text("record") == "pair"))
        {
            string boot = pair.Text("boot"), provider = pair.Text("provider"), client = pair.Text("client");
            PciTopology topology = Machine(boot);
            PeerVerdict verdict =
                PeerPath.Calculate(topology, topology.Find(provider)!, topology.Find(client)!);
            string ours = $"{NameOf(verdict.MapType)}, {verdict.Distance}; {Move(Machine(boot), provider, client)}";
            string its = $"{pair.Text("map_type")}, {pair.GetProperty("distance").GetInt32()}; {pair.Text("verdict")}";
            yield return new HeldRow("", $"{client} reaches {provider} ({boot})", ours, its, "p2p")
            {
                IsSame = ours == its,
            };
        }
    }

    private static List<string> Differences(string boot, PciTopology topology)
    {
        List<string> different = [];
        foreach (JsonElement pair in Pairs(boot))
        {
            PciFunction provider = topology.Find(pair.Text("provider"))!, client = topology.Find(pair.Text("client"))!;
            PeerVerdict verdict = PeerPath.Calculate(topology, provider, client);
            (string, int) ours = (NameOf(verdict.MapType), verdict.Distance);
            (string, int) its = (pair.Text("map_type"), pair.GetProperty("distance").GetInt32());
            if (ours != its)
            {
                different.Add($"{provider.Name} to {client.Name}: {ours}, the kernel {its}");
            }
        }

        return different;
    }

    private static IEnumerable<JsonElement> Pairs(string boot) =>
        s_records.Where(r => r.Text("record") == "pair" && r.Text("boot") == boot);

    // What QEMU's strict IOMMU does below a switch is not in the rules; it is the machine's own behaviour.
    private static PciTopology Machine(string boot, bool hasAcs = true, BootProcessor? processor = null)
    {
        JsonElement machine = s_records.Single(r => r.Text("record") == "machine" && r.Text("boot") == boot);
        IommuMode iommu = machine.Text("iommu") switch
        {
            "off" => IommuMode.Off,
            "pass-through" => IommuMode.Passthrough,
            "strict" => IommuMode.Strict,
            string other => throw new InvalidDataException($"iommu {other}"),
        };
        processor ??= new BootProcessor(machine.Text("cpu_vendor"), machine.GetProperty("cpu_family").GetInt32());
        PciTopology topology = new(processor);
        HostBridge root = new(0, 0) { Iommu = iommu, LosesPeerRequests = iommu == IommuMode.Strict };
        topology.Add(root);
        foreach (JsonElement record in machine.GetProperty("functions").EnumerateArray())
        {
            PciFunction function = Function(record);
            if (record.GetProperty("parent").GetString() is string parent)
            {
                topology.Add(function, (PciBridge)topology.Find(parent)!);
            }
            else
            {
                topology.Add(function, root);
            }

            if (hasAcs && record.GetProperty("acs_control") is { ValueKind: JsonValueKind.Number } acs)
            {
                PciTopology.SetAcs(function, (AcsControl)acs.GetInt32());
            }
        }

        return topology;
    }

    private static PciFunction Function(JsonElement record)
    {
        PciAddress address = PciAddress.Parse(record.Text("address"));
        string name = record.GetProperty("role").GetString() ?? record.Text("address");
        PciId id = new(Hex(record.Text("vendor")), Hex(record.Text("device")));
        return record.GetProperty("port_type").GetString() switch
        {
            "root-port" => new PciBridge(address, name, PciBridgeKind.RootPort, id),
            "upstream-port" => new PciBridge(address, name, PciBridgeKind.SwitchUpstream, id),
            "downstream-port" => new PciBridge(address, name, PciBridgeKind.SwitchDownstream, id),
            _ => new PciFunction(address, name, id),
        };
    }

    private static string Move(PciTopology topology, string provider, string client)
    {
        PciFabric fabric = new(topology);
        PciFunction owner = topology.Find(provider)!, user = topology.Find(client)!;
        DmaAddressList memory = new([fabric.AddWindow(new byte[Bytes], owner).Range]);
        fabric.Plug(user);
        Errno errno = fabric.TryMap(user, memory, out DmaAddressList? mapped);
        if (errno != Errno.Success)
        {
            return errno == Errno.EREMOTEIO ? "refused" : errno.ToString();
        }

        RouteProbe probe = new(new DmaPort(user), new DmaPort(fabric.Processor), seed: 42);
        probe.TryBlock(mapped!.Entries[0].Start, memory.Entries[0].Start, Bytes);
        return (probe.Write.Outcome, probe.Read.Outcome) switch
        {
            (ProbeOutcome.Intact, ProbeOutcome.Intact) => "works",
            (ProbeOutcome.Corrupt, ProbeOutcome.Corrupt) => "corrupts",
            (ProbeOutcome write, ProbeOutcome read) => $"write {write}, read {read}",
        };
    }

    private static string NameOf(PeerMapType type) => type switch
    {
        PeerMapType.NotSupported => "not-supported",
        PeerMapType.BusAddress => "bus-address",
        PeerMapType.ThroughHostBridge => "through-host-bridge",
        _ => type.ToString(),
    };

    private static ushort Hex(string text) =>
        ushort.Parse(text.AsSpan(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
}
