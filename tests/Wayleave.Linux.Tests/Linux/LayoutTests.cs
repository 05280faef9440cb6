using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text;
using Wayleave.Linux.Interop;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>Asks the C compiler whether our structures and numbers are those of the installed headers.</summary>
public class LayoutTests
{
    private static readonly (string Header, Type[] Types)[] s_headers =
    [
        ("linux/udp.h", [typeof(udp)]),
        ("linux/in.h", [typeof(@in), typeof(sockaddr_in), typeof(ip_mreqn)]),
        ("linux/in6.h", [typeof(in6), typeof(sockaddr_in6), typeof(ipv6_mreq)]),
        ("sys/socket.h",
            [typeof(socket), typeof(iovec), typeof(msghdr), typeof(mmsghdr), typeof(cmsghdr), typeof(ucred)]),
        ("linux/filter.h", [typeof(filter), typeof(sock_filter), typeof(sock_fprog)]),
        ("linux/sock_diag.h", [typeof(sock_diag)]),
        ("linux/if.h", [typeof(@if), typeof(ifreq)]),
        ("linux/sockios.h", [typeof(sockios)]),
        ("linux/if_tun.h", [typeof(if_tun)]),
        ("linux/bpf.h", [typeof(bpf)]),
        ("linux/netlink.h", [typeof(netlink), typeof(nlmsghdr), typeof(nlmsgerr), typeof(nlattr)]),
        ("linux/rtnetlink.h", [typeof(rtnetlink), typeof(rtattr), typeof(ifinfomsg), typeof(ifaddrmsg)]),
        ("poll.h", [typeof(poll), typeof(pollfd)]),
        ("time.h", [typeof(timespec)]),
        ("sys/eventfd.h", [typeof(eventfd)]),
        ("sys/epoll.h", [typeof(epoll)]),
        ("signal.h", [typeof(signal)]),
        ("linux/futex.h", [typeof(futex)]),
        ("linux/mman.h", [typeof(mman)]),
        ("linux/memfd.h", [typeof(memfd)]),
        ("linux/fcntl.h", [typeof(fcntl)]),
        ("sys/stat.h", [typeof(stat), typeof(statx)]),
        ("linux/tcp.h", [typeof(tcp)]),
        ("linux/genetlink.h", [typeof(genetlink), typeof(genlmsghdr)]),
        ("linux/errqueue.h", [typeof(errqueue), typeof(sock_extended_err)]),
        ("sys/syscall.h", [typeof(unistd)]),
        ("unistd.h", [typeof(access)]),
        ("linux/userfaultfd.h", [
            typeof(userfaultfd), typeof(uffdio_api), typeof(uffdio_range), typeof(uffdio_register), typeof(uffdio_copy),
            typeof(uffdio_zeropage), typeof(uffd_msg),
        ]),
        ("asm-generic/ioctl.h", [typeof(ioctl)]),
        ("linux/dma-buf.h", [
            typeof(dma_buf), typeof(dma_buf_sync), typeof(dma_buf_export_sync_file), typeof(dma_buf_import_sync_file),
        ]),
        ("linux/sync_file.h", [
            typeof(sync_file), typeof(sync_merge_data), typeof(sync_fence_info), typeof(sync_file_info),
        ]),
        ("linux/udmabuf.h", [typeof(udmabuf), typeof(udmabuf_create)]),
        ("linux/dma-heap.h", [typeof(dma_heap), typeof(dma_heap_allocation_data)]),
    ];

    // A folder with headers of a newer kernel (linux-libc-dev, unpacked), which come before those that are installed.
    private static readonly string? s_newer = Environment.GetEnvironmentVariable("WAYLEAVE_UAPI_HEADERS");

    // Headers that a machine may lack, or whose installed version may be older than what stands behind the last word.
    private static readonly (string Header, Type[] Types, string Newest)[] s_rareHeaders =
    [
        ("linux/sync_file.h", [typeof(sync_file_deadline), typeof(sync_set_deadline)], "SYNC_IOC_SET_DEADLINE"),
        ("linux/if_tun.h", [typeof(if_tun_uso)], "TUN_F_USO6"),
        ("linux/netdev.h", [typeof(netdev)], "NETDEV_CMD_BIND_RX"),
        ("linux/netdev.h", [typeof(netdev_tx)], "NETDEV_CMD_BIND_TX"),
        ("asm-generic/socket.h", [typeof(socket_pidfd)], "SO_PEERPIDFD"),
        ("asm-generic/socket.h", [typeof(socket_passrights)], "SO_PASSRIGHTS"),
        ("asm-generic/socket.h", [typeof(socket_devmem)], "SO_DEVMEM_DONTNEED"),
        ("linux/uio.h", [typeof(dmabuf_cmsg), typeof(dmabuf_token)], "struct dmabuf_token"),
        ("drm/drm.h", [
            typeof(drm), typeof(drm_version), typeof(drm_gem_close), typeof(drm_get_cap), typeof(drm_prime_handle),
            typeof(drm_mode_create_dumb),
        ], "DRM_IOCTL_PRIME_FD_TO_HANDLE"),
        ("drm/vgem_drm.h", [
            typeof(vgem_drm), typeof(drm_vgem_fence_attach), typeof(drm_vgem_fence_signal),
        ], "DRM_IOCTL_VGEM_FENCE_SIGNAL"),
    ];

    public static TheoryData<string> Headers => [.. s_headers.Select(h => h.Header)];

    public static TheoryData<string> RareHeaders => [.. s_rareHeaders.Select(h => h.Newest)];

    [Theory]
    [MemberData(nameof(Headers))]
    public void Matches_the_header(string header) =>
        Compile(Describe(header, s_headers.Single(h => h.Header == header).Types));

    [Theory]
    [MemberData(nameof(RareHeaders))]
    public void Matches_the_header_where_it_is_installed_and_new_enough(string newest)
    {
        (string header, Type[] types, _) = s_rareHeaders.Single(h => h.Newest == newest);

        // libdrm puts the kernel's DRM headers into a folder of its own.
        string[] places = [header, header.Replace("drm/", "libdrm/", StringComparison.Ordinal)];
        string? found = places.FirstOrDefault(
            p => File.Exists($"/usr/include/{p}") || File.Exists($"{s_newer}/{p}"));
        Assert.SkipWhen(found is null, $"no <{header}> is installed");
        string program = Describe(found!, types);
        try
        {
            Compile($"#include <sys/ioctl.h>\n#include <{found}>\nint known = (int)sizeof({newest});\n");
        }
        catch (InvalidOperationException)
        {
            Assert.Skip($"the installed <{found}> is older than {newest}");
        }

        Compile(program);
    }

    [Fact]
    public void A_wrong_number_is_noticed()
    {
        string program =
            Describe("linux/udp.h", [typeof(udp)])
                .Replace("(UDP_GRO) == 104", "(UDP_GRO) == 105", StringComparison.Ordinal);
        Assert.Contains("UDP_GRO", Assert.Throws<InvalidOperationException>(
            () => Compile(program)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_type_of_Interop_is_compared_with_a_header()
    {
        IEnumerable<string> all = typeof(FileDescriptor).Assembly.GetTypes()
            .Where(t => t.Namespace == typeof(udp).Namespace && !t.IsNested && t != typeof(Libc))
            .Select(t => t.Name)
            .Order(StringComparer.Ordinal);
        IEnumerable<string> compared = s_headers.SelectMany(h => h.Types)
            .Concat(s_rareHeaders.SelectMany(h => h.Types)).Select(t => t.Name);
        Assert.Equal(all, compared.Order(StringComparer.Ordinal));
    }

    /// <summary>
    /// The assertions for types that are called as their structures are. Within the name of a field, two underscores
    /// stand for the dot of a member of a member.
    /// </summary>
    internal static string Describe(string header, Type[] types)
    {
        const BindingFlags Declared = BindingFlags.Instance | BindingFlags.Static | BindingFlags.NonPublic;
        StringBuilder c = new();
        c.Append("#define _GNU_SOURCE\n#include <stddef.h>\n#include <time.h>\n"); // errqueue.h wants timespec
        c.Append("#include <sys/ioctl.h>\n"); // if_tun.h wants its _IOW
        c.Append(CultureInfo.InvariantCulture, $"#include <{header}>\n");
        foreach (Type type in types)
        {
            if (type.IsValueType)
            {
                Assert(c, $"sizeof(struct {type.Name}) == {Marshal.SizeOf(type)}");
            }

            foreach (FieldInfo field in type.GetFields(Declared))
            {
                Assert(c, field.IsStatic
                    ? $"({field.Name}) == {field.GetValue(null)}"
                    : $"offsetof(struct {type.Name}, {Member(field)}) == {Marshal.OffsetOf(type, field.Name)}");
            }
        }

        return c.ToString();

        static string Member(FieldInfo field) =>
            field.Name[0] + field.Name[1..].Replace("__", ".", StringComparison.Ordinal);

        static void Assert(StringBuilder c, string condition) =>
            c.Append(CultureInfo.InvariantCulture, $"_Static_assert({condition}, \"{condition}\");\n");
    }

    /// <summary>Skips where there is no compiler.</summary>
    internal static void Compile(string program)
    {
        string include = s_newer is null ? "" : $"-isystem {s_newer} ";
        ProcessStartInfo start = new("gcc", $"-x c -fsyntax-only {include}-")
        {
            RedirectStandardInput = true,
            RedirectStandardError = true,
        };
        Process? gcc = null;
        try
        {
            gcc = Process.Start(start);
        }
        catch (Win32Exception)
        {
            Assert.Skip("no gcc");
        }

        using (gcc)
        {
            gcc!.StandardInput.Write(program);
            gcc.StandardInput.Close();
            string errors = gcc.StandardError.ReadToEnd();
            gcc.WaitForExit();
            if (gcc.ExitCode != 0)
            {
                throw new InvalidOperationException(errors);
            }
        }
    }
}
