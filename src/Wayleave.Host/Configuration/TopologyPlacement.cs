using System.Diagnostics.CodeAnalysis;
using Wayleave.Core.Topology;
using Wayleave.Devices.Accelerator;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Nvme;

namespace Wayleave.Host.Configuration;

// Each device of a host is a function of its topology:
//
//   "function": "slot3"                the one that it names; it goes by the device's name from then on
//   a function of the device's name    that one
//   neither                            below a port of a switch that is added for such devices:
//
//     root port 00:01.0 --- 01:00.0 upstream --- 02:00.0 downstream --- 03:00.0 gpu0
//                                            \-- 02:01.0 downstream --- 04:00.0 rdma0
//
// and behind the buses of the tree when there is one.

/// <summary>Makes the PCI trees of a host from its configuration, each device in its place.</summary>
public static class TopologyPlacement
{
    private static readonly string[] s_deviceLists =
        ["gpus[", "nics[", "nvmes[", "accelerators[", "vfios[", "ethernets["];

    /// <summary>The trees of a valid configuration: one function per device, of the device's name.</summary>
    /// <exception cref="ConfigurationException">It is not valid; the message names every problem.</exception>
    public static PciTopology Build(HostConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        List<ConfigProblem> problems = [];
        return TryBuild(config, out PciTopology? topology, problems)
            ? topology
            : throw new ConfigurationException(problems);
    }

    internal static bool TryBuild(
        HostConfig config, [NotNullWhen(true)] out PciTopology? topology, List<ConfigProblem> problems)
    {
        int before = problems.Count;
        TopologyDescription placed = new Placement(config, problems).Run();
        if (TopologyBuilder.TryBuild(placed, out topology, out IReadOnlyList<TopologyProblem> found)
            && problems.Count == before)
        {
            return true;
        }

        topology = null;
        foreach (TopologyProblem problem in found)
        {
            bool isDevice = Array.Exists(
                s_deviceLists, l => problem.Where.StartsWith(l, StringComparison.Ordinal));
            problems.Add(new ConfigProblem(isDevice ? problem.Where : $"topology.{problem.Where}", problem.Message));
        }

        return false;
    }

    private sealed record Device(string Path, string Name, string? Function, params DeviceMemory[] Memories);

    /// <summary>What answers at a BAR; a smaller BAR is no mistake where it says how much peers reach.</summary>
    private sealed record DeviceMemory(string Name, int Bar, long SizeBytes, bool IsExact = false);

    private sealed class Placement(HostConfig config, List<ConfigProblem> problems)
    {
        private readonly TopologyDescription _given =
            config.Topology ?? new TopologyDescription { HostBridges = [new HostBridgeDescription()] };

        private readonly List<FunctionDescription> _functions = [];
        private readonly Dictionary<int, Device> _taken = [];
        private readonly List<Device> _left = [];

        public TopologyDescription Run()
        {
            _functions.AddRange(_given.Functions.Select((f, i) => f with { Path = f.Path ?? $"functions[{i}]" }));
            foreach (Device device in Devices())
            {
                Take(device);
            }

            TopologyDescription placed = _given with { Functions = _functions };
            return _left.Count == 0 || _given.HostBridges.Count == 0 ? placed : AddSwitch(placed);
        }

        // Two devices of one name are told elsewhere, and here one of them is enough.
        private IEnumerable<Device> Devices() => config.Gpus
            .Select((g, i) => new Device(
                $"gpus[{i}]",
                g.Name,
                g.Function,
                MemoryOf("VRAM", GpuDevice.VramBar, g.VramBytes, g.VisibleBytes)))
            .Concat(config.Nics.Select((n, i) => new Device($"nics[{i}]", n.Name, n.Function)))
            .Concat(config.Nvmes.Select((n, i) => new Device($"nvmes[{i}]", n.Name, n.Function, MemoryOf(n))))
            .Concat(config.Accelerators.Select((a, i) => new Device(
                $"accelerators[{i}]",
                a.Name,
                a.Function,
                MemoryOf("memory", AcceleratorDevice.MemoryBar, a.MemoryBytes, a.VisibleBytes))))
            .Concat(config.Vfios.Select((v, i) => new Device($"vfios[{i}]", v.Name, v.Function, MemoryOf(v))))
            .Concat(config.Ethernets.Select((e, i) => new Device($"ethernets[{i}]", e.Name, e.Function)))
            .Concat(config.LinuxNics.Select((n, i) => new Device($"linux_nics[{i}]", n.Name, n.Function)))
            .Where(d => d.Name.Length > 0)
            .DistinctBy(d => d.Name);

        private void Take(Device device)
        {
            string wanted = device.Function ?? device.Name;
            bool isAddress = PciAddress.TryParse(wanted, out PciAddress address);
            int index = _functions.FindIndex(f => f.Label == wanted || (isAddress && f.Address == address));
            if (index < 0 && device.Function is null)
            {
                _left.Add(device);
            }
            else if (index < 0)
            {
                string known = string.Join(", ", _functions.Select(f => f.Label));
                Report(
                    device.Path + ".function",
                    $"there is no function '{wanted}' in the topology"
                        + (known.Length == 0 ? "" : $"; it has {known}"));
            }
            else if (!_taken.TryAdd(index, device))
            {
                Report(device.Path + ".function", $"'{wanted}' is taken by {_taken[index].Path}, {_taken[index].Name}");
            }
            else
            {
                _functions[index] = _functions[index] with { Name = device.Name };
                CheckMemory(device, _functions[index]);
            }
        }

        private static DeviceMemory MemoryOf(string name, int bar, long sizeBytes, long? visibleBytes) =>
            new(name, bar, visibleBytes ?? sizeBytes, IsExact: visibleBytes is not null);

        private static DeviceMemory[] MemoryOf(NvmeConfig nvme) => nvme.MemoryBufferBytes == 0
            ? []
            : [new DeviceMemory("memory buffer", NvmeController.MemoryBufferBar, nvme.MemoryBufferBytes)];

        private static DeviceMemory[] MemoryOf(VfioConfig vfio) =>
            [.. vfio.Bars.Select(b => new DeviceMemory($"BAR {b.Index}", b.Index, b.SizeBytes, IsExact: true))];

        private void CheckMemory(Device device, FunctionDescription function)
        {
            foreach (DeviceMemory memory in device.Memories.Where(m => m.SizeBytes > 0))
            {
                if (function.Bars.FirstOrDefault(b => b.Index == memory.Bar) is not { } bar)
                {
                    continue;
                }

                string path = $"topology.{bar.Path ?? function.Path + ".bars"}.size_bytes";
                string size = ByteSize.ToText(memory.SizeBytes);
                if (bar.Kind != PciBarKind.Memory || bar.SizeBytes < (ulong)memory.SizeBytes)
                {
                    Report(
                        path,
                        $"BAR {memory.Bar} of {device.Name} is where its {size} of {memory.Name} answer: make it "
                            + "memory of at least that size");
                }
                else if (memory.IsExact && bar.SizeBytes != (ulong)memory.SizeBytes)
                {
                    Report(path, $"BAR {memory.Bar} of {device.Name} is to show {size}: make it of that size");
                }
            }
        }

        private TopologyDescription AddSwitch(TopologyDescription placed)
        {
            HostBridgeDescription bridge = placed.HostBridges[0];
            PciAddress[] used =
            [
                .. placed.Bridges.Concat(placed.Functions).Select(f => f.Address)
                    .Where(a => a.Domain == bridge.Domain && a.Bus >= bridge.RootBus),
            ];
            int end = placed.HostBridges
                .Where(b => b.Domain == bridge.Domain && b.RootBus > bridge.RootBus)
                .Select(b => (int)b.RootBus)
                .DefaultIfEmpty(byte.MaxValue + 1)
                .Min();
            int bus = used.Where(a => a.Bus < end).Select(a => (int)a.Bus).Append(bridge.RootBus).Max() + 1;
            byte port = FreeDevice(used.Where(a => a.Bus == bridge.RootBus));
            if (bus + 2 + _left.Count > end || port == PciAddress.DevicesPerBus)
            {
                string names = string.Join(", ", _left.Select(d => d.Name));
                Report(
                    _left[0].Path + ".function",
                    $"no room on {bridge.Name} for a switch with {names}: give them functions of the topology");
                return placed;
            }

            string root = FreeName(placed, "rp");
            string name = FreeName(placed, "sw");
            List<BridgeDescription> bridges =
            [
                .. placed.Bridges,
                Bridge(bridge, bridge.RootBus, port, root, PciBridgeKind.RootPort, bridge.Name),
                Bridge(bridge, (byte)bus, 0, name, PciBridgeKind.SwitchUpstream, root),
            ];
            for (int i = 0; i < _left.Count; i++)
            {
                bridges.Add(
                    Bridge(bridge, (byte)(bus + 1), i, $"{name}.{i}", PciBridgeKind.SwitchDownstream, name));
                _functions.Add(new FunctionDescription
                {
                    Address = new PciAddress(bridge.Domain, (byte)(bus + 2 + i), 0, 0),
                    Name = _left[i].Name,
                    Below = $"{name}.{i}",
                    Path = _left[i].Path,
                });
            }

            return placed with { Bridges = bridges, Functions = _functions };
        }

        // More than 32 ports on one bus are functions of the same devices.
        private static BridgeDescription Bridge(
            HostBridgeDescription host, byte bus, int number, string name, PciBridgeKind kind, string below) => new()
            {
                Address = new PciAddress(
                    host.Domain,
                    bus,
                    (byte)(number % PciAddress.DevicesPerBus),
                    (byte)(number / PciAddress.DevicesPerBus)),
                Name = name,
                Kind = kind,
                Below = below,
                Path = "bridges",
            };

        private static byte FreeDevice(IEnumerable<PciAddress> used)
        {
            HashSet<byte> devices = [.. used.Select(a => a.Device)];
            byte device = 1; // 00.0 is the host bridge
            while (devices.Contains(device))
            {
                device++;
            }

            return device;
        }

        private string FreeName(TopologyDescription placed, string prefix)
        {
            HashSet<string> names =
                [.. placed.Bridges.Concat(_functions).Select(f => f.Label), .. _left.Select(d => d.Name)];
            int number = 0;
            while (names.Any(n => n == $"{prefix}{number}"
                || n.StartsWith($"{prefix}{number}.", StringComparison.Ordinal)))
            {
                number++;
            }

            return $"{prefix}{number}";
        }

        private void Report(string path, string message) => problems.Add(new ConfigProblem(path, message));
    }
}
