using System.Globalization;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Devmem;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Facilities;

/// <summary>Super-packets, socket buffers, raw sockets, TAP devices, namespaces.</summary>
internal sealed class NetworkFacilities(MachineFiles files)
{
    private const string Area = "network";
    private const int CapNetAdmin = 12;

    internal IEnumerable<Facility> Look()
    {
        if (files.IsThisMachine)
        {
            yield return MemoryFacilities.Of(Support.UdpSegmentation, Area);
            yield return MemoryFacilities.Of(Support.UdpReceiveOffload, Area);
        }

        yield return SocketBuffers();
        if (files.IsThisMachine)
        {
            yield return RawSocket();
        }

        Facility namespaces = UserNamespaces();
        yield return Tap(namespaces.State == FacilityState.Present);
        yield return namespaces;
        if (files.IsThisMachine)
        {
            yield return DevmemTcp();
        }
    }

    // Each NIC is asked to bind no buffer at all: it says whether its driver could before it says that there is none.
    private Facility DevmemTcp()
    {
        const string Name = "devmem-tcp";
        try
        {
            using NetdevSocket netdev = NetdevSocket.Open();
            if (!netdev.HasReceiveBinding)
            {
                return new(
                    Area, Name, FacilityState.Absent, "the kernel has no bind-rx (Linux 6.12, CONFIG_NET_DEVMEM)");
            }

            if (!files.HasCapability(CapNetAdmin))
            {
                return new(
                    Area, Name, FacilityState.Denied, "to bind a queue needs CAP_NET_ADMIN", "run it as root");
            }

            List<(string Nic, string Why)> refusals = [];
            foreach (string nic in files.List("sys/class/net"))
            {
                uint index = Libc.if_nametoindex(nic);
                Errno errno = netdev.BindReceive(index, FileDescriptor.None, [0], out _, out string? reason);
                if (errno == Errno.EBADF)
                {
                    Errno send = netdev.BindTransmit(index, FileDescriptor.None, out _, out _);
                    string both = "receive queues" + (send == Errno.EBADF ? ", and what it sends from" : "");
                    return new(
                        Area, Name, FacilityState.Present, $"{nic} can bind {both}",
                        $"ethtool -G {nic} tcp-data-split on hds-thresh 0, -X, -N; then \"linux_nics\" of a host");
                }

                refusals.Add((nic, reason ?? NetdevSocket.DescribeRefusal(errno)));
            }

            string why = string.Join("; ", refusals.GroupBy(r => r.Why, r => r.Nic)
                .Select(g => $"{string.Join(", ", g)}: {g.Key}"));
            return new(Area, Name, FacilityState.Absent, $"no NIC can bind receive queues ({why})");
        }
        catch (LinuxException e)
        {
            return new(Area, Name, FacilityState.Absent, e.Message);
        }
    }

    private Facility SocketBuffers()
    {
        const string Name = "socket-buffers";
        long wanted = new UdpEndpointOptions().ReceiveBufferBytes!.Value;
        long receive = files.ReadNumber("proc/sys/net/core/rmem_max") ?? 0;
        long send = files.ReadNumber("proc/sys/net/core/wmem_max") ?? 0;
        bool isRoot = files.HasCapability(CapNetAdmin);
        string found = string.Create(
            CultureInfo.InvariantCulture, $"receive at most {receive}, send at most {send} bytes");
        return new(
            Area, Name, FacilityState.Present, isRoot ? found + "; CAP_NET_ADMIN goes beyond" : found,
            isRoot || Math.Min(receive, send) >= wanted ? null : string.Create(
                CultureInfo.InvariantCulture,
                $"as root: sysctl net.core.rmem_max={wanted} net.core.wmem_max={wanted}; less costs speed and drops"));
    }

    private static Facility RawSocket()
    {
        const string Name = "raw-socket";
        using FileDescriptor raw =
            Libc.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, @in.IPPROTO_UDP);
        Errno errno = raw.IsInvalid ? (Errno)Marshal.GetLastPInvokeError() : Errno.Success;
        return errno == Errno.Success
            ? new(Area, Name, FacilityState.Present, "the whole IP header of a packet can be seen and written")
            : new(
                Area, Name, FacilityState.Denied, $"socket(SOCK_RAW) says {errno}",
                "give the program CAP_NET_RAW, AmbientCapabilities= in a unit; nothing of Wayleave needs it");
    }

    private Facility Tap(bool hasNamespaces)
    {
        const string Name = "tap";
        const string Node = "dev/net/tun";
        if (!files.Exists(Node))
        {
            return new(Area, Name, FacilityState.Absent, "no /dev/net/tun", "as root: modprobe tun (CONFIG_TUN)");
        }

        Errno errno = files.Access(Node);
        if (errno != Errno.Success)
        {
            return new(Area, Name, FacilityState.Denied, $"/dev/net/tun: {errno}", "as root: chmod 0666 /dev/net/tun");
        }

        string found = files.Exists("sys/class/misc/tun") || files.Exists("sys/devices/virtual/misc/tun")
            ? "/dev/net/tun"
            : "/dev/net/tun, whose first use loads the module";
        return files.HasCapability(CapNetAdmin) ? new(Area, Name, FacilityState.Present, found)
            : hasNamespaces ? new(
                Area, Name, FacilityState.Present, found + "; in a network namespace of one's own only",
                "unshare --user --map-root-user --net")
            : new(
                Area, Name, FacilityState.Denied, $"{found}; to make one needs CAP_NET_ADMIN",
                "as root: ip tuntap add dev tap0 mode tap user USER");
    }

    private Facility UserNamespaces()
    {
        const string Name = "user-namespaces";
        const string Max = "proc/sys/user/max_user_namespaces";
        if (files.ReadNumber(Max) is not { } limit)
        {
            return new(Area, Name, FacilityState.Absent, "the kernel has none (CONFIG_USER_NS)");
        }

        return limit == 0 ? Denied(Name, "user.max_user_namespaces is 0", "sysctl user.max_user_namespaces=65536")
            : files.ReadNumber("proc/sys/kernel/unprivileged_userns_clone") == 0 && !IsRoot
                ? Denied(Name, "kernel.unprivileged_userns_clone is 0", "sysctl kernel.unprivileged_userns_clone=1")
            : files.ReadNumber("proc/sys/kernel/apparmor_restrict_unprivileged_userns") > 0 && !IsRoot
                ? Denied(
                    Name, "AppArmor lets only named programs make them",
                    "sysctl kernel.apparmor_restrict_unprivileged_userns=0")
            : new(
                Area, Name, FacilityState.Present,
                string.Create(CultureInfo.InvariantCulture, $"at most {limit}"));
    }

    private static bool IsRoot => FileStatus.CurrentUserId == 0;

    private static Facility Denied(string name, string found, string remedy) =>
        new(Area, name, FacilityState.Denied, found, "as root: " + remedy);
}
