using Wayleave.Core.Topology;
using Wayleave.Host.Configuration;
using Wayleave.Linux;
using Wayleave.Linux.Pci;

namespace Wayleave.Host.Topology;

/// <summary>What one knows of a function besides its place in the tree.</summary>
public sealed record FunctionFacts
{
    /// <summary><c>gpu</c>, <c>rdma</c>, <c>nvme</c>, ...; null for what nobody uses.</summary>
    public string? Type { get; init; }

    /// <summary>Whether it has memory for peers; null when nobody knows.</summary>
    public bool? OffersMemory { get; init; }

    public bool IsAcsKnown { get; init; } = true;

    public string? Driver { get; init; }

    public int? IommuGroup { get; init; }

    public string? IommuType { get; init; }
}

/// <summary>
/// A topology with what is known about its functions: of a running host, of a file, or of this machine.
/// </summary>
/// <param name="Source">For people: <c>host b</c>.</param>
/// <param name="Topology">The trees. Those of a running host are looked at under its lock.</param>
/// <param name="Facts">By address; functions without facts are absent.</param>
/// <param name="Notes">What could not be read.</param>
public sealed record TopologyView(
    string Source,
    PciTopology Topology,
    IReadOnlyDictionary<PciAddress, FunctionFacts> Facts,
    IReadOnlyList<string> Notes)
{
    private static readonly FunctionFacts s_noFacts = new();

    /// <summary>The functions that a matrix is about: those with a type, in the order of their addresses.</summary>
    public IReadOnlyList<PciFunction> Devices =>
        [.. Topology.Functions.Where(f => f is not PciBridge && FactsOf(f).Type is not null).OrderBy(f => f.Address)];

    /// <summary>What a host runs on. The caller holds the host lock while it looks.</summary>
    public static TopologyView OfHost(WayleaveHost host)
    {
        ArgumentNullException.ThrowIfNull(host);
        return new TopologyView($"host {host.Config.Name}", host.Fabric.Topology, DeviceFacts(
            host.Config, host.Fabric.Topology), []);
    }

    /// <summary>What a host of this configuration would run on.</summary>
    /// <exception cref="ConfigurationException">It cannot be; says all of it.</exception>
    public static TopologyView OfConfig(HostConfig config, string source)
    {
        PciTopology topology = TopologyPlacement.Build(config);
        return new TopologyView(source, topology, DeviceFacts(config, topology), []);
    }

    /// <summary>This machine.</summary>
    /// <param name="root">The folder that holds <c>sys</c> and <c>proc</c>.</param>
    /// <exception cref="WayleaveException">
    /// <see cref="Core.Errno.EOPNOTSUPP"/>: it has no PCI bus. <see cref="Core.Errno.EIO"/>: what it shows contradicts
    /// itself.
    /// </exception>
    public static TopologyView OfMachine(string root = "/")
    {
        PciMachine machine;
        try
        {
            machine = PciSysfs.Read(root);
        }
        catch (LinuxException e)
        {
            throw new WayleaveException(
                e.Errno, "read the PCI trees of this machine", "it shows no PCI bus", innerException: e);
        }

        List<string> notes = [.. machine.Notes];
        PciTopology topology = BuildMachine(machine.Topology, notes);
        Dictionary<PciAddress, FunctionFacts> facts = machine.Details.ToDictionary(d => d.Key, d => new FunctionFacts
        {
            Type = TypeOf(d.Value.ClassCode),
            IsAcsKnown = d.Value.IsAcsKnown,
            Driver = d.Value.Driver,
            IommuGroup = d.Value.IommuGroup,
            IommuType = d.Value.IommuType,
        });
        if (facts.Values.Any(f => !f.IsAcsKnown))
        {
            notes.Add("ACS of some functions is not known: only root may read the extended configuration space");
        }

        return new TopologyView("this machine", topology, facts, notes);
    }

    public FunctionFacts FactsOf(PciFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        return Facts.GetValueOrDefault(function.Address, s_noFacts);
    }

    /// <summary>By name or address.</summary>
    /// <exception cref="WayleaveException">
    /// <see cref="Core.Errno.ENODEV"/>: there is none; says which there are.
    /// </exception>
    public PciFunction Find(string nameOrAddress) => Topology.Find(nameOrAddress) ?? throw new WayleaveException(
        Core.Errno.ENODEV,
        $"find {nameOrAddress}",
        $"{Source} has no such function",
        Devices.Count == 0 ? "name it by its address" : $"it has {string.Join(", ", Devices.Select(d => d.Name))}");

    // A kernel has its reasons: what a builder refuses is shown without the part that it refuses, not hidden.
    private static PciTopology BuildMachine(TopologyDescription description, List<string> notes)
    {
        if (TopologyBuilder.TryBuild(
            description, out PciTopology? topology, out IReadOnlyList<TopologyProblem> problems))
        {
            return topology;
        }

        notes.AddRange(problems.Select(p => $"this machine shows {p}"));
        TopologyDescription bare = description with
        {
            Bridges =
            [
                .. description.Bridges.Select(b => b with
                {
                    Bars = [],
                    Kind = b.Kind == PciBridgeKind.RootPort ? b.Kind : PciBridgeKind.Conventional,
                }),
            ],
            Functions = [.. description.Functions.Select(f => f with { Bars = [] })],
        };
        if (TopologyBuilder.TryBuild(bare, out topology, out problems))
        {
            notes.Add("BARs and kinds of ports are left out, as some of them contradict others");
            return topology;
        }

        throw new WayleaveException(
            Core.Errno.EIO, "read the PCI trees of this machine", string.Join("; ", problems.Take(3)));
    }

    private static Dictionary<PciAddress, FunctionFacts> DeviceFacts(HostConfig config, PciTopology topology)
    {
        Dictionary<PciAddress, FunctionFacts> facts = [];
        foreach (GpuConfig gpu in config.Gpus)
        {
            Add(gpu.Name, new FunctionFacts { Type = "gpu", OffersMemory = true });
        }

        foreach (NicConfig nic in config.Nics)
        {
            Add(nic.Name, new FunctionFacts { Type = "rdma", OffersMemory = false });
        }

        foreach (NvmeConfig nvme in config.Nvmes)
        {
            Add(nvme.Name, new FunctionFacts { Type = "nvme", OffersMemory = nvme.MemoryBufferBytes > 0 });
        }

        foreach (AcceleratorConfig accelerator in config.Accelerators)
        {
            Add(accelerator.Name, new FunctionFacts { Type = "accelerator", OffersMemory = true });
        }

        foreach (VfioConfig vfio in config.Vfios)
        {
            Add(vfio.Name, new FunctionFacts { Type = "vfio", OffersMemory = true });
        }

        foreach (EthernetConfig ethernet in config.Ethernets)
        {
            Add(ethernet.Name, new FunctionFacts { Type = "ethernet", OffersMemory = false });
        }

        foreach (LinuxNicConfig nic in config.LinuxNics)
        {
            Add(nic.Name, new FunctionFacts { Type = "linux_nic", OffersMemory = false });
        }

        // What the file describes and no device takes is still something that one asks about.
        foreach (PciFunction other in topology.Functions)
        {
            bool isHostBridge = other.Root is not null && other.Name == other.Root.Name;
            if (other is not PciBridge && !isHostBridge)
            {
                facts.TryAdd(other.Address, new FunctionFacts { Type = "function" });
            }
        }

        return facts;

        void Add(string name, FunctionFacts fact)
        {
            if (topology.Find(name) is { } function) // one that was pulled out has no place
            {
                facts[function.Address] = fact;
            }
        }
    }

    // include/linux/pci_ids.h; other classes are seldom a party to peer-to-peer.
    private static string? TypeOf(int classCode) => (classCode >> 8) switch
    {
        0x0108 => "nvme",
        0x0207 => "infiniband",
        int code when code >> 8 == 0x01 => "storage",
        int code when code >> 8 == 0x02 => "network",
        int code when code >> 8 == 0x03 => "gpu",
        int code when code >> 8 == 0x12 => "accelerator",
        _ => null,
    };
}
