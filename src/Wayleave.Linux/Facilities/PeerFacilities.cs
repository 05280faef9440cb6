using System.Globalization;
using Wayleave.Core;

namespace Wayleave.Linux.Facilities;

/// <summary>The PCI tree, its IOMMU, peer memory, VFIO, and RDMA devices.</summary>
internal sealed class PeerFacilities(MachineFiles files)
{
    private const string Area = "peer to peer";
    private const string Functions = "sys/bus/pci/devices";
    private const int BasicConfigBytes = 256;

    internal IEnumerable<Facility> Look()
    {
        yield return Pci();
        yield return Iommu();
        yield return PeerMemory();
        yield return Vfio();
        yield return Nvme();
        yield return Rdma();
    }

    private Facility Pci()
    {
        const string Name = "pci";
        IReadOnlyList<string> functions = files.List(Functions);
        if (functions.Count == 0)
        {
            return new(Area, Name, FacilityState.Absent, "this machine has no PCI bus");
        }

        // ACS, which decides on routes, is in the extended configuration space.
        bool isHidden = functions.Any(f =>
            files.PathOf($"{Functions}/{f}/config") is var config && File.Exists(config)
            && new FileInfo(config).Length > BasicConfigBytes) && FileStatus.CurrentUserId != 0;
        return new(
            Area, Name, FacilityState.Present, Count(functions.Count, "function"),
            isHidden ? "as root, topo --live also sees ACS, on which routes below a switch depend" : null);
    }

    private Facility Iommu()
    {
        const string Name = "iommu";
        const string Groups = "sys/kernel/iommu_groups";
        IReadOnlyList<string> groups = files.List(Groups);
        string types = string.Join(
            ", ", groups.Select(g => files.Read($"{Groups}/{g}/type") ?? "unknown").Distinct().Order());
        return groups.Count > 0
            ? new(Area, Name, FacilityState.Present, $"{Count(groups.Count, "group")}: {types}")
            : new(
                Area, Name, FacilityState.Absent, "the kernel uses none; peers do not need one, VFIO does",
                "in the firmware; on Intel's also by intel_iommu=on on the kernel's command line");
    }

    private Facility PeerMemory()
    {
        const string Name = "p2pmem";
        List<string> nodes = [.. files.List(Functions).Select(f => $"{Functions}/{f}/p2pmem")
            .Where(p => files.Exists($"{p}/size"))];
        if (nodes.Count == 0)
        {
            return new(
                Area, Name, FacilityState.Absent, "no driver offers peer memory: no NVMe drive with a controller "
                + "memory buffer, say, or a kernel without CONFIG_PCI_P2PDMA");
        }

        string found = string.Join(", ", nodes.Select(n => string.Create(
            CultureInfo.InvariantCulture,
            $"{Path.GetFileName(Path.GetDirectoryName(n))}: {files.ReadNumber($"{n}/available") ?? 0} of "
            + $"{files.ReadNumber($"{n}/size") ?? 0} bytes")));
        List<string> allocate = [.. nodes.Select(n => $"{n}/allocate").Where(files.Exists)];
        return allocate.Count == 0
            ? new(Area, Name, FacilityState.Absent, $"{found}; no file to allocate by (Linux 6.2 has it)")
            : allocate.Exists(a => files.Access(a) == Errno.Success)
                ? new(Area, Name, FacilityState.Present, found)
                : new(Area, Name, FacilityState.Denied, $"{found}; {files.Access(allocate[0])}",
                    $"as root: chgrp GROUP /{allocate[0]}; it is 0660 already");
    }

    // The nodes are there without the module, to load it when opened.
    private Facility Vfio()
    {
        const string Name = "vfio";
        bool isLoaded = files.Exists("sys/module/vfio") || files.Exists("sys/class/misc/vfio");
        string[] nodes = [
            .. files.List("dev/vfio").Where(n => n is not ("vfio" or "devices")).Select(n => $"dev/vfio/{n}"),
            .. files.List("dev/vfio/devices").Select(n => $"dev/vfio/devices/{n}")];
        if (!isLoaded)
        {
            return new(Area, Name, FacilityState.Absent, "the module vfio is not loaded",
                "as root: modprobe vfio-pci; it needs an IOMMU");
        }

        return BufferFacilities.Judge(
            files, Area, Name, nodes, n => "/" + n, "no device is bound to vfio-pci",
            "as root: driverctl set-override ADDRESS vfio-pci", "as root: chown USER the node of the group");
    }

    private Facility Nvme()
    {
        const string Name = "nvme";
        IReadOnlyList<string> drives = files.List("sys/class/nvme");
        return drives.Count == 0
            ? new(Area, Name, FacilityState.Absent, "no NVMe drive; a file does for a software drive")
            : new(Area, Name, FacilityState.Present, string.Join(", ", drives.Select(
                d => $"{d} ({(files.Read($"sys/class/nvme/{d}/model") ?? "?").Trim()})")));
    }

    private Facility Rdma()
    {
        const string Name = "rdma";
        const string Devices = "sys/class/infiniband";
        IReadOnlyList<string> devices = files.List(Devices);
        string[] nodes = [.. files.List("dev/infiniband")
            .Where(n => n.StartsWith("uverbs", StringComparison.Ordinal)).Select(n => $"dev/infiniband/{n}")];
        if (devices.Count == 0)
        {
            return new(
                Area, Name, FacilityState.Absent, "the kernel has no RDMA device; Wayleave's own needs none",
                "for a peer to test with, as root: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev INTERFACE");
        }

        string found = string.Join(", ", devices.Select(d =>
            $"{d} ({files.Read($"{Devices}/{d}/ports/1/link_layer") ?? "?"}, "
            + $"{files.Read($"{Devices}/{d}/ports/1/state") ?? "?"})"));
        return nodes.Length == 0
            ? new(
                Area, Name, FacilityState.Denied, $"{found}; no /dev/infiniband/uverbs*", "as root: modprobe ib_uverbs")
            : nodes.Any(n => files.Access(n) == Errno.Success)
                ? new(Area, Name, FacilityState.Present, found)
                : new(Area, Name, FacilityState.Denied, $"{found}; {files.Access(nodes[0])}",
                    "as root: usermod -aG rdma USER, or chmod 0666 /dev/infiniband/uverbs*");
    }

    private static string Count(int count, string what) =>
        string.Create(CultureInfo.InvariantCulture, $"{count} {what}{(count == 1 ? "" : "s")}");
}
