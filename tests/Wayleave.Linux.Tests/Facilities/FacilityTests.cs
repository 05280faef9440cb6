using System.Text.Json;
using Wayleave.Cli;
using Wayleave.Core;
using Wayleave.Linux.Facilities;
using Xunit;

namespace Wayleave.Linux.Tests.Facilities;

/// <summary><c>wayleave doctor</c>: machines made of files, and this one.</summary>
public sealed class FacilityTests : IDisposable
{
    private readonly DirectoryInfo _root = Directory.CreateTempSubdirectory("wayleave-doctor.");

    public void Dispose() => _root.Delete(recursive: true);

    [Fact]
    public void A_bare_machine_lacks_everything_and_says_why()
    {
        IReadOnlyList<Facility> facilities = Survey();
        Assert.All(
            facilities.Where(f => f.Name is not ("linux" or "locked-memory" or "socket-buffers")),
            f => Assert.Equal((f.Name, FacilityState.Absent), (f.Name, f.State)));
        Assert.All(facilities, f => Assert.NotEmpty(f.Found));
    }

    [Fact]
    public void A_node_that_may_be_used_is_present_and_one_that_may_not_has_a_remedy()
    {
        Write("dev/udmabuf", "");
        Write("dev/dma_heap/system", "");
        Write("dev/dri/card0", "");
        Write("dev/dri/renderD128", "");
        Link("sys/class/drm/renderD128/device/driver", "../../../../bus/pci/drivers/amdgpu");

        IReadOnlyList<Facility> open = Survey();
        Assert.Equal(FacilityState.Present, Find(open, "udmabuf").State);
        Assert.Equal("system", Find(open, "dma-heap").Found);
        Assert.Equal("renderD128 (amdgpu)", Find(open, "drm-render").Found);

        IReadOnlyList<Facility> closed = Survey(_ => Errno.EACCES);
        foreach (string name in (string[])["udmabuf", "dma-heap", "drm-render"])
        {
            Facility facility = Find(closed, name);
            Assert.Equal((name, FacilityState.Denied), (facility.Name, facility.State));
            Assert.Contains("EACCES", facility.Found, StringComparison.Ordinal);
            Assert.StartsWith("as root: ", facility.Remedy, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Peer_memory_is_listed_by_function_with_what_is_left()
    {
        Write("sys/bus/pci/devices/0000:03:00.0/p2pmem/size", "4194304\n");
        Write("sys/bus/pci/devices/0000:03:00.0/p2pmem/available", "4177920\n");
        Facility old = Find(Survey(), "p2pmem");
        Assert.Equal(FacilityState.Absent, old.State);
        Assert.Contains("6.2", old.Found, StringComparison.Ordinal);

        Write("sys/bus/pci/devices/0000:03:00.0/p2pmem/allocate", "");
        Facility present = Find(Survey(), "p2pmem");
        Assert.Equal(
            (FacilityState.Present, "0000:03:00.0: 4177920 of 4194304 bytes"), (present.State, present.Found));
        Assert.Equal(FacilityState.Denied, Find(Survey(_ => Errno.EACCES), "p2pmem").State);
    }

    [Fact]
    public void The_node_of_a_module_that_is_not_loaded_is_told_from_one_that_is()
    {
        Write("dev/vfio/vfio", "");
        Write("dev/net/tun", "");
        Write("proc/self/status", "Name:\tx\nCapEff:\t0000000000001000\n");
        Assert.Equal("the module vfio is not loaded", Find(Survey(), "vfio").Found);
        Assert.Equal("/dev/net/tun, whose first use loads the module", Find(Survey(), "tap").Found);

        Write("sys/module/vfio/refcnt", "0\n");
        Write("sys/devices/virtual/misc/tun/uevent", "");
        Assert.Equal("no device is bound to vfio-pci", Find(Survey(), "vfio").Found);
        Assert.Equal("/dev/net/tun", Find(Survey(), "tap").Found);
        Write("dev/vfio/12", "");
        Facility group = Find(Survey(), "vfio");
        Assert.Equal((FacilityState.Present, "/dev/vfio/12"), (group.State, group.Found));
    }

    [Fact]
    public void A_tap_device_needs_a_right_or_a_namespace()
    {
        Write("dev/net/tun", "");
        Write("proc/self/status", "CapEff:\t0000000000000000\n");
        Assert.Equal(FacilityState.Denied, Find(Survey(), "tap").State);
        Write("proc/sys/user/max_user_namespaces", "1000\n");
        Facility tap = Find(Survey(), "tap");
        Assert.Equal((FacilityState.Present, "unshare --user --map-root-user --net"), (tap.State, tap.Remedy));
        Write("proc/sys/user/max_user_namespaces", "0\n");
        Assert.Equal(FacilityState.Denied, Find(Survey(), "user-namespaces").State);
    }

    [Fact]
    public void Small_socket_buffers_and_a_small_limit_of_locked_memory_name_the_setting()
    {
        Write("proc/self/status", "CapEff:\t0000000000000000\n");
        Write("proc/sys/net/core/rmem_max", "212992\n");
        Write("proc/sys/net/core/wmem_max", "212992\n");
        Write("proc/self/limits", "Limit  Soft Limit  Hard Limit  Units\nMax locked memory  65536  65536  bytes\n");
        Assert.Contains("net.core.rmem_max=4194304", Find(Survey(), "socket-buffers").Remedy, StringComparison.Ordinal);
        Facility locked = Find(Survey(), "locked-memory");
        Assert.Equal("RLIMIT_MEMLOCK is 65536", locked.Found);
        Assert.NotNull(locked.Remedy);

        Write("proc/self/status", "CapEff:\tffffffffffffffff\n");
        Assert.Null(Find(Survey(), "socket-buffers").Remedy);
        Assert.Null(Find(Survey(), "locked-memory").Remedy);
    }

    [Fact]
    public void Huge_pages_that_are_switched_off_name_the_switch()
    {
        Write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
        Assert.Contains("madvise", Find(Survey(), "huge-pages").Remedy, StringComparison.Ordinal);
        Write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        Write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "3\n");
        Assert.Equal(FacilityState.Present, Find(Survey(), "huge-pages").State);
        Assert.Equal("3 of 2048kB", Find(Survey(), "huge-page-pool").Found);
    }

    [Fact]
    public void RDMA_devices_are_listed_with_their_link_and_may_be_out_of_reach()
    {
        Write("sys/class/infiniband/rxe0/ports/1/link_layer", "Ethernet\n");
        Write("sys/class/infiniband/rxe0/ports/1/state", "4: ACTIVE\n");
        Assert.Contains("modprobe ib_uverbs", Find(Survey(), "rdma").Remedy, StringComparison.Ordinal);
        Write("dev/infiniband/uverbs0", "");
        Assert.Equal("rxe0 (Ethernet, 4: ACTIVE)", Find(Survey(), "rdma").Found);
        Assert.Equal(FacilityState.Denied, Find(Survey(_ => Errno.EACCES), "rdma").State);
    }

    [Fact]
    public async Task Doctor_lists_this_machine_as_a_table_and_as_JSON_and_exits_0()
    {
        using StringWriter table = new(), json = new(), error = new();
        Assert.Equal(0, await CommandLine.RunAsync(["doctor"], table, error, TestContext.Current.CancellationToken));
        Assert.StartsWith("AREA", table.ToString(), StringComparison.Ordinal);
        Assert.Equal(
            0, await CommandLine.RunAsync(["doctor", "--json"], json, error, TestContext.Current.CancellationToken));
        Assert.Empty(error.ToString());
        using JsonDocument document = JsonDocument.Parse(json.ToString());
        Assert.Equal("wayleave.doctor.v1", document.RootElement.GetProperty("schema").GetString());
        JsonElement[] facilities = [.. document.RootElement.GetProperty("facilities").EnumerateArray()];
        string[] names = [.. facilities.Select(f => f.GetProperty("name").GetString()!)];
        Assert.Equal(names.Distinct(), names);
        Assert.Superset(
            new HashSet<string>(
            [
                "linux", "memfd", "pidfd", "huge-pages", "userfaultfd", "udmabuf", "dma-heap", "sync-file",
                "drm-render", "drm-prime", "pci", "iommu", "p2pmem", "vfio", "rdma", "udp-gso", "udp-gro",
                "socket-buffers", "raw-socket", "tap", "user-namespaces", "devmem-tcp",
            ]),
            new HashSet<string>(names));
        Assert.All(names, n => Assert.Contains(n, table.ToString(), StringComparison.Ordinal));
    }

    private static Facility Find(IReadOnlyList<Facility> facilities, string name) =>
        facilities.Single(f => f.Name == name);

    private IReadOnlyList<Facility> Survey(Func<string, Errno>? access = null) =>
        new FacilitySurvey(new MachineFiles(_root.FullName, access)).Look();

    private void Write(string path, string text)
    {
        string full = Path.Combine(_root.FullName, path);
        Directory.CreateDirectory(Path.GetDirectoryName(full)!);
        File.WriteAllText(full, text);
    }

    private void Link(string path, string target)
    {
        string full = Path.Combine(_root.FullName, path);
        Directory.CreateDirectory(Path.GetDirectoryName(full)!);
        File.CreateSymbolicLink(full, target);
    }
}
