using System.Globalization;
using Wayleave.Core;
using Wayleave.Core.Topology;

namespace Wayleave.Linux.Pci;

// Documentation/ABI/testing/sysfs-bus-pci. What is read, all of it below a root that tests can choose:
//
//   sys/bus/pci/devices/ADDRESS      a link to sys/devices/pci0000:00/0000:00:01.0/...: the path is the tree
//     vendor device class numa_node driver physfn
//     resource                       a line per BAR: first and last physical address, IORESOURCE_* flags
//     config                         configuration space; without root only its first 64 bytes
//     iommu_group/type               DMA and DMA-FQ translate, identity does not
//   proc/cpuinfo                     vendor and family of the processor

/// <summary>Reads the PCI trees of a Linux machine.</summary>
public static class PciSysfs
{
    /// <summary>Reads once; functions that are unplugged meanwhile are left out, with a note.</summary>
    /// <param name="root">The folder that holds <c>sys</c> and <c>proc</c>.</param>
    /// <exception cref="LinuxException"><see cref="Errno.EOPNOTSUPP"/>: the machine has no PCI bus.</exception>
    public static PciMachine Read(string root = "/")
    {
        string devices = Path.Combine(root, "sys/bus/pci/devices");
        if (!Directory.Exists(devices) || Directory.GetFileSystemEntries(devices) is not { Length: > 0 } entries)
        {
            throw new LinuxException("read", devices, Errno.EOPNOTSUPP, "this machine has no PCI bus");
        }

        Array.Sort(entries, StringComparer.Ordinal);
        List<string> notes = [];
        List<SysfsFunction> functions = [];
        foreach (string entry in entries)
        {
            try
            {
                if (SysfsFunction.Read(entry) is { } function)
                {
                    functions.Add(function);
                }
                else
                {
                    notes.Add($"{Path.GetFileName(entry)} is not shown: domains above ffff are not known here");
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException)
            {
                notes.Add($"{Path.GetFileName(entry)} is not shown: {e.Message}");
            }
        }

        return Assemble(ReadProcessor(Path.Combine(root, "proc/cpuinfo"), notes), functions, notes);
    }

    private static PciMachine Assemble(BootProcessor processor, List<SysfsFunction> functions, List<string> notes)
    {
        Dictionary<PciAddress, PciBridgeKind> kinds = InferKinds(functions);
        HashSet<string> names = new(StringComparer.Ordinal);
        List<BridgeDescription> bridges = [];
        List<FunctionDescription> others = [];
        Dictionary<PciAddress, PciDetails> details = [];
        foreach (SysfsFunction function in functions)
        {
            FunctionDescription description = function.Describe();
            description = description.Name is { } name && !names.Add(name)
                ? description with { Name = null }
                : description;
            details.Add(function.Address, function.Details);
            if (kinds.TryGetValue(function.Address, out PciBridgeKind kind))
            {
                bridges.Add(new BridgeDescription
                {
                    Kind = kind,
                    Address = description.Address,
                    Id = description.Id,
                    Below = description.Below,
                    Acs = description.Acs,
                    Bars = description.Bars,
                });
            }
            else
            {
                others.Add(description);
            }
        }

        TopologyDescription topology = new()
        {
            Processor = processor,
            HostBridges =
                [.. functions.Where(f => f.Parent is null).GroupBy(f => f.RootBus).Select(DescribeHostBridge)],
            Bridges = bridges,
            Functions = others,
        };
        return new PciMachine(topology, details, notes);
    }

    // One IOMMU mode for a tree: the strictest of its groups, as that is the one that can lose a request.
    private static HostBridgeDescription DescribeHostBridge(IGrouping<(ushort Domain, byte Bus), SysfsFunction> root)
    {
        SysfsFunction first = root.First();
        return new HostBridgeDescription
        {
            Domain = root.Key.Domain,
            RootBus = root.Key.Bus,
            Iommu = root.Max(f => f.TreeMode),
            NumaNode = Math.Max(0, first.NumaNode),
        };
    }

    // Without root the PCI Express capability is out of reach; then the place of a bridge says what it must be.
    private static Dictionary<PciAddress, PciBridgeKind> InferKinds(List<SysfsFunction> functions)
    {
        Dictionary<PciAddress, PciBridgeKind> kinds = [];
        ILookup<PciAddress?, SysfsFunction> below = functions.ToLookup(f => f.Parent);
        Dictionary<PciAddress, SysfsFunction> byAddress = functions.ToDictionary(f => f.Address);
        foreach (SysfsFunction function in functions.Where(f => f.IsBridge))
        {
            InferKind(function);
        }

        foreach (SysfsFunction function in functions.Where(f => f.Parent is null))
        {
            SetTreeMode(function);
        }

        return kinds;

        PciBridgeKind InferKind(SysfsFunction bridge)
        {
            if (kinds.TryGetValue(bridge.Address, out PciBridgeKind known))
            {
                return known;
            }

            PciBridgeKind kind = bridge.KnownKind ?? (bridge.Parent is not PciAddress parent
                || !byAddress.TryGetValue(parent, out SysfsFunction? above)
                ? PciBridgeKind.RootPort
                : InferKind(above) switch
                {
                    PciBridgeKind.SwitchUpstream => PciBridgeKind.SwitchDownstream,
                    PciBridgeKind.RootPort or PciBridgeKind.SwitchDownstream
                        when below[bridge.Address].Any() && below[bridge.Address].All(f => f.IsBridge) =>
                            PciBridgeKind.SwitchUpstream,
                    _ => PciBridgeKind.Conventional,
                });
            kinds.Add(bridge.Address, kind);
            return kind;
        }

        IommuMode SetTreeMode(SysfsFunction function)
        {
            IommuMode mode = function.OwnMode;
            foreach (SysfsFunction child in below[function.Address])
            {
                IommuMode childMode = SetTreeMode(child);
                mode = childMode > mode ? childMode : mode;
            }

            function.TreeMode = mode;
            return mode;
        }
    }

    private static BootProcessor ReadProcessor(string cpuinfo, List<string> notes)
    {
        string? vendor = null;
        int? family = null;
        try
        {
            // The first processor is the one that the kernel booted on.
            foreach (string line in File.ReadLines(cpuinfo).TakeWhile(l => l.Length > 0))
            {
                string[] pair = line.Split(':', 2, StringSplitOptions.TrimEntries);
                vendor = pair[0] == "vendor_id" ? pair[1] : vendor;
                family = pair[0] == "cpu family"
                    && int.TryParse(pair[1], NumberStyles.None, CultureInfo.InvariantCulture, out int number)
                        ? number
                        : family;
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            notes.Add($"the processor is not known: {e.Message}");
        }

        return vendor is null ? BootProcessor.Unknown : new BootProcessor(vendor, family ?? 0);
    }
}
