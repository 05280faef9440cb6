using BenchmarkDotNet.Attributes;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;

namespace Wayleave.Microbenchmarks;

/// <summary>
/// A large machine: 10,240 devices in 20 PCI domains, each with two-level switches. Bars (issue 4): a cached route in
/// under 50 ns; the tree built and all ordered pairs of 1,000 functions measured in under 2 s together.
/// </summary>
public class RouteBenchmarks
{
    private const int Domains = 20;
    private const int SwitchesPerDomain = 4;
    private const int PortsPerSwitch = 16;
    private const int FunctionsPerPort = 8;
    private const int Measured = 1000;

    private readonly TopologyDescription _description = Describe();
    private PciTopology _topology = null!;
    private PciFunction[] _functions = [];
    private PeerDevice _owner = null!;
    private PciFunction _client = null!;

    [GlobalSetup]
    public void Setup()
    {
        _topology = Build();
        _functions = [.. _topology.Functions.Where(f => f is not PciBridge).OrderBy(f => f.Address).Take(Measured)];
        _owner = PeerDevice.Initialize(_topology, _functions[0]);
        _client = _functions[PortsPerSwitch * FunctionsPerPort / 2];
        _owner.VerdictFor(_client);
    }

    [Benchmark(Description = "route, cached")]
    public PeerMapType Cached() => _owner.VerdictFor(_client).MapType;

    [Benchmark(Description = "route, calculated: one switch")]
    public int Calculated() => PeerPath.Calculate(_topology, _functions[0], _client).Distance;

    [Benchmark(Description = "route, calculated: refused")]
    public int Refused() => PeerPath.Calculate(_topology, _functions[0], _functions[^1]).Distance;

    [Benchmark(Description = "all ordered pairs of 1,000 functions")]
    public long AllPairs()
    {
        long sum = 0;
        foreach (PciFunction owner in _functions)
        {
            foreach (PciFunction client in _functions)
            {
                sum += PeerPath.Calculate(_topology, owner, client).Distance;
            }
        }

        return sum;
    }

    [Benchmark(Description = "check and build 10,000 functions")]
    public PciTopology Build()
    {
        return TopologyBuilder.TryBuild(
            _description, out PciTopology? topology, out IReadOnlyList<TopologyProblem> problems)
            ? topology
            : throw new InvalidOperationException(string.Join("; ", problems));
    }

    private static TopologyDescription Describe()
    {
        List<HostBridgeDescription> hosts = [];
        List<BridgeDescription> bridges = [];
        List<FunctionDescription> functions = [];
        for (ushort domain = 0; domain < Domains; domain++)
        {
            hosts.Add(new HostBridgeDescription { Domain = domain, Id = new PciId(0x8086, 0x2f00) });
            byte bus = 0;
            for (int s = 0; s < SwitchesPerDomain; s++)
            {
                string port = Add(domain, 0, s + 1, PciBridgeKind.RootPort, null);
                string upstream = Add(domain, ++bus, 0, PciBridgeKind.SwitchUpstream, port);
                byte inner = ++bus;
                for (int p = 0; p < PortsPerSwitch; p++)
                {
                    string below = Add(domain, inner, p, PciBridgeKind.SwitchDownstream, upstream);
                    bus++;
                    for (byte f = 0; f < FunctionsPerPort; f++)
                    {
                        functions.Add(new FunctionDescription
                        {
                            Address = new PciAddress(domain, bus, 0, f),
                            Below = below,
                            Bars = [new BarDescription { SizeBytes = 1 << 20 }],
                        });
                    }
                }
            }
        }

        return new TopologyDescription { HostBridges = hosts, Bridges = bridges, Functions = functions };

        string Add(ushort domain, byte bus, int device, PciBridgeKind kind, string? below)
        {
            BridgeDescription bridge = new()
            {
                Address = new PciAddress(domain, bus, (byte)device, 0),
                Kind = kind,
                Below = below,
            };
            bridges.Add(bridge);
            return bridge.Label;
        }
    }
}
