using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Linux.Buffers;

namespace Wayleave.Linux.Facilities;

/// <summary>Who exports dma-bufs here, and what can be done with their fences.</summary>
internal sealed class BufferFacilities(MachineFiles files)
{
    private const string Area = "dma-buf";
    private const string Udmabuf = "dev/udmabuf";
    private const string Heaps = "dev/dma_heap";
    private const string Nodes = "dev/dri";

    // Since 6.6 every driver with buffers imports and exports them (drm_gem_prime_fd_to_handle is the default).
    private static readonly Version s_primeForAll = new(6, 6);

    internal IEnumerable<Facility> Look()
    {
        Facility udmabuf = LookAtUdmabuf(), heap = LookAtHeaps();
        yield return udmabuf;
        yield return heap;
        yield return SyncFiles(udmabuf, heap);
        yield return RenderNodes();
        yield return Prime();
    }

    /// <summary>
    /// Present when one of the nodes can be read and written; denied when none can; absent when there is none.
    /// </summary>
    internal static Facility Judge(
        MachineFiles files, string area, string name, IReadOnlyList<string> nodes, Func<string, string> describe,
        string absent, string? absentRemedy, string deniedRemedy)
    {
        string[] open = [.. nodes.Where(n => files.Access(n) == Errno.Success)];
        return nodes.Count == 0 ? new(area, name, FacilityState.Absent, absent, absentRemedy)
            : open.Length > 0 ? new(area, name, FacilityState.Present, string.Join(", ", open.Select(describe)))
            : new(
                area, name, FacilityState.Denied,
                $"{string.Join(", ", nodes.Select(describe))}: {files.Access(nodes[0])}", deniedRemedy);
    }

    private Facility LookAtUdmabuf() => Judge(
        files, Area, "udmabuf", files.Exists(Udmabuf) ? [Udmabuf] : [], n => "/" + n, "no /dev/udmabuf",
        "as root: modprobe udmabuf (CONFIG_UDMABUF)", "as root: setfacl -m u:USER:rw /dev/udmabuf");

    private Facility LookAtHeaps() => Judge(
        files, Area, "dma-heap", [.. files.List(Heaps).Select(h => $"{Heaps}/{h}")], Path.GetFileName,
        "no /dev/dma_heap: a kernel without CONFIG_DMABUF_HEAPS", null,
        "as root: setfacl -m u:USER:rw /dev/dma_heap/system");

    private Facility RenderNodes() => Judge(
        files, Area, "drm-render",
        [.. files.List(Nodes).Where(n => n.StartsWith("renderD", StringComparison.Ordinal))
            .Select(n => $"{Nodes}/{n}")],
        n => $"{Path.GetFileName(n)} ({Driver(Path.GetFileName(n))})",
        "no /dev/dri/renderD*: no driver of a GPU is loaded",
        "for tests, as root: modprobe vgem", "as root: usermod -aG render USER, then log in again");

    private Facility Prime()
    {
        const string Name = "drm-prime";
        IReadOnlyList<string> nodes = files.List(Nodes);
        return nodes.Count == 0
            ? new(Area, Name, FacilityState.Absent, "no DRM node")
            : new(Area, Name, FacilityState.Present, IsSince(s_primeForAll)
                ? "every driver with buffers imports and exports dma-bufs (Linux 6.6)"
                : "as the driver of the node says: DRM_CAP_PRIME");
    }

    // Only a dma-buf knows; one page of one is made, asked and dropped.
    private Facility SyncFiles(Facility udmabuf, Facility heap)
    {
        const string Name = "sync-file";
        bool hasUdmabuf = udmabuf.State == FacilityState.Present;
        if (!files.IsThisMachine || (!hasUdmabuf && heap.State != FacilityState.Present))
        {
            bool isDenied = udmabuf.State == FacilityState.Denied || heap.State == FacilityState.Denied;
            return new(
                Area, Name, isDenied ? FacilityState.Denied : FacilityState.Absent,
                "nobody here makes a dma-buf for this process, which could be asked", udmabuf.Remedy ?? heap.Remedy);
        }

        try
        {
            using DmaBuf buffer = hasUdmabuf ? OfUdmabuf() : OfHeap();
            Errno errno = buffer.TryExportSyncFile(BufferSync.Write, out KernelSyncFile? file);
            using (file)
            {
                SyncFileInfo info = default;
                errno = errno == Errno.Success ? file!.TryGetInfo([], 0, out info) : errno;
                return errno == Errno.Success
                    ? new(Area, Name, FacilityState.Present, $"EXPORT_SYNC_FILE and FILE_INFO; name {info.Name}")
                    : new(Area, Name, FacilityState.Absent, $"EXPORT_SYNC_FILE says {errno} (Linux 6.0 has it)");
            }
        }
        catch (LinuxException e)
        {
            return new(Area, Name, FacilityState.Denied, e.Message);
        }
    }

    private static DmaBuf OfUdmabuf()
    {
        using UdmabufDevice device = UdmabufDevice.Open();
        return device.Create("wayleave-doctor", Environment.SystemPageSize);
    }

    private static DmaBuf OfHeap()
    {
        using DmaHeap heap = DmaHeap.Open(DmaHeap.ListNames()[0]);
        Errno errno = heap.TryAllocate((ulong)Environment.SystemPageSize, 0, out DmaBuf? buffer);
        return errno == Errno.Success ? buffer! : throw new LinuxException("DMA_HEAP_IOCTL_ALLOC", heap.Name, errno);
    }

    // A device without hardware (vgem) has the bus's own driver; its name says more.
    private string Driver(string node) =>
        files.LinkTarget($"sys/class/drm/{node}/device/driver") is { } driver && driver != "faux_driver"
            ? driver
            : files.LinkTarget($"sys/class/drm/{node}/device") ?? "no driver";

    private bool IsSince(Version version)
    {
        string[] parts = (files.Read("proc/sys/kernel/osrelease") ?? "").Split('.', '-', '+');
        return parts.Length > 1 && int.TryParse(parts[0], out int major) && int.TryParse(parts[1], out int minor)
            && new Version(major, minor) >= version;
    }
}
