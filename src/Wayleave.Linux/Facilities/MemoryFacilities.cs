using System.Globalization;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Facilities;

/// <summary>Memory with a descriptor, large pages, faults in user space, pinned memory, holds on processes.</summary>
internal sealed class MemoryFacilities(MachineFiles files)
{
    private const string Area = "memory";
    private const int CapIpcLock = 14;
    private const long PinnedBytesWanted = 64 << 20;

    internal IEnumerable<Facility> Look()
    {
        if (files.IsThisMachine)
        {
            yield return Of(Support.MemFdSealing);
            yield return Of(Support.PidFd);
        }

        yield return HugePages();
        yield return HugePagePool();
        yield return UserFaults();
        yield return LockedMemory();
    }

    /// <summary>What <see cref="Support"/> found by trying.</summary>
    internal static Facility Of(KernelFeature feature, string area = Area, string? remedy = null) => new(
        area, feature.Name, feature.IsAvailable ? FacilityState.Present : FacilityState.Absent, feature.Detail,
        feature.IsAvailable ? null : remedy);

    private Facility HugePages()
    {
        const string Name = "huge-pages";
        const string Setting = "sys/kernel/mm/transparent_hugepage/enabled";
        return files.Read(Setting) switch
        {
            null => new(Area, Name, FacilityState.Absent, "the kernel has no transparent huge pages"),
            string never when never.Contains("[never]", StringComparison.Ordinal) => new(
                Area, Name, FacilityState.Absent, $"/{Setting} says never",
                $"as root: echo madvise > /{Setting}"),
            string setting => new(Area, Name, FacilityState.Present, setting),
        };
    }

    private Facility HugePagePool()
    {
        const string Name = "huge-page-pool";
        List<string> pools = [];
        foreach (string size in files.List("sys/kernel/mm/hugepages"))
        {
            long pages = files.ReadNumber($"sys/kernel/mm/hugepages/{size}/nr_hugepages") ?? 0;
            if (pages > 0)
            {
                pools.Add(string.Create(
                    CultureInfo.InvariantCulture,
                    $"{pages} of {size.Replace("hugepages-", "", StringComparison.Ordinal)}"));
            }
        }

        return pools.Count > 0
            ? new(Area, Name, FacilityState.Present, string.Join(", ", pools))
            : new(Area, Name, FacilityState.Absent, "no pages are set aside; transparent ones do without",
                "as root: sysctl vm.nr_hugepages=N");
    }

    private Facility UserFaults()
    {
        const string Name = "userfaultfd";
        if (!files.IsThisMachine)
        {
            return files.ReadNumber("proc/sys/vm/unprivileged_userfaultfd") is null
                ? new(Area, Name, FacilityState.Absent, "the kernel has no userfaultfd(2)")
                : new(Area, Name, FacilityState.Present, "userfaultfd(2)");
        }

        Errno all = Try(0), userOnly = all == Errno.Success ? all : Try(userfaultfd.UFFD_USER_MODE_ONLY);
        return (all, userOnly) switch
        {
            (Errno.Success, _) => new(Area, Name, FacilityState.Present, "faults of user and kernel"),
            (_, Errno.Success) => new(
                Area, Name, FacilityState.Present,
                "faults of user code only: system calls on such memory fail where they would wait",
                "as root: sysctl vm.unprivileged_userfaultfd=1, or let the user open /dev/userfaultfd"),
            (Errno.ENOSYS, _) => new(
                Area, Name, FacilityState.Absent, "the kernel has no userfaultfd(2) (CONFIG_USERFAULTFD)"),
            _ => new(
                Area, Name, FacilityState.Denied, $"userfaultfd(2) says {all}",
                "in a container: a seccomp profile that allows userfaultfd"),
        };
    }

    private static Errno Try(int flags)
    {
        nint fd = Libc.userfaultfd(
            unistd.SYS_userfaultfd, flags | fcntl.O_CLOEXEC | fcntl.O_NONBLOCK);
        if (fd < 0)
        {
            return (Errno)Marshal.GetLastPInvokeError();
        }

        new FileDescriptor((int)fd, ownsHandle: true).Dispose();
        return Errno.Success;
    }

    private Facility LockedMemory()
    {
        const string Name = "locked-memory";
        const string Key = "Max locked memory";
        string soft = (files.Read("proc/self/limits") ?? "").Split('\n')
            .FirstOrDefault(l => l.StartsWith(Key, StringComparison.Ordinal))?[Key.Length..]
            .Split(' ', StringSplitOptions.RemoveEmptyEntries).FirstOrDefault() ?? "unknown";
        if (files.HasCapability(CapIpcLock))
        {
            return new(Area, Name, FacilityState.Present, $"CAP_IPC_LOCK: no limit (RLIMIT_MEMLOCK is {soft} bytes)");
        }

        bool isSmall = long.TryParse(soft, CultureInfo.InvariantCulture, out long bytes) && bytes < PinnedBytesWanted;
        return new(
            Area, Name, FacilityState.Present, $"RLIMIT_MEMLOCK is {soft}",
            isSmall ? "RDMA and VFIO pin more: ulimit -l unlimited, by /etc/security/limits.d or LimitMEMLOCK=" : null);
    }
}
