using System.Globalization;
using Wayleave.Core;

namespace Wayleave.Linux;

/// <summary>One thing that a kernel may offer.</summary>
/// <param name="Name">Short, for tables.</param>
/// <param name="IsAvailable">Whether it can be used by this process, here and now.</param>
/// <param name="Detail">If available, what exactly was found; if not, why not.</param>
public readonly record struct KernelFeature(string Name, bool IsAvailable, string Detail);

/// <summary>
/// What this kernel offers to this process. Looked up once, on first use, and never in the middle of an operation: a
/// property keeps its answer even if a module is loaded later.
/// </summary>
public static class Support
{
    private const int SegmentsProbedMax = 128;
    private const int SegmentsOfOldKernels = 64;

    private static readonly Lazy<int> s_udpSegmentsMax = new(ProbeSegments);
    private static readonly Lazy<KernelFeature> s_udpSegmentation = new(DescribeSegmentation);
    private static readonly Lazy<KernelFeature> s_udpReceiveOffload = new(DescribeReceiveOffload);
    private static readonly Lazy<KernelFeature> s_hugePages = new(DescribeHugePages);
    private static readonly Lazy<KernelFeature> s_memFd = new(DescribeMemFd);
    private static readonly Lazy<KernelFeature> s_pidFd = new(DescribePidFd);
    private static readonly Lazy<KernelFeature> s_udmabuf = new(() => DescribeDevice("udmabuf", "/dev/udmabuf"));
    private static readonly Lazy<KernelFeature> s_tap = new(() => DescribeDevice("tap", "/dev/net/tun"));

    /// <summary>UDP_SEGMENT: many datagrams by one send. Linux 4.18.</summary>
    public static KernelFeature UdpSegmentation => s_udpSegmentation.Value;

    /// <summary>UDP_GRO: many datagrams by one receive. Linux 5.0.</summary>
    public static KernelFeature UdpReceiveOffload => s_udpReceiveOffload.Value;

    /// <summary>Transparent huge pages for anonymous memory that asks for them.</summary>
    public static KernelFeature HugePages => s_hugePages.Value;

    /// <summary>Memory with a descriptor that can be sealed.</summary>
    public static KernelFeature MemFdSealing => s_memFd.Value;

    /// <summary>A hold on a process that survives the reuse of its number. Linux 5.3.</summary>
    public static KernelFeature PidFd => s_pidFd.Value;

    /// <summary>dma-bufs made of memfd pages.</summary>
    public static KernelFeature Udmabuf => s_udmabuf.Value;

    /// <summary>Network interfaces whose other end is this process.</summary>
    public static KernelFeature Tap => s_tap.Value;

    /// <summary>All of the above in a fixed order.</summary>
    public static IReadOnlyList<KernelFeature> All =>
        [UdpSegmentation, UdpReceiveOffload, HugePages, MemFdSealing, PidFd, Udmabuf, Tap];

    /// <summary>Segments of one super-packet; 1 if the kernel has no UDP_SEGMENT.</summary>
    internal static int UdpSegmentsMax => s_udpSegmentsMax.Value;

    private static int ProbeSegments()
    {
        // To itself on the loopback: nothing leaves the machine, and the socket is closed before anybody could read.
        using UdpEndpoint endpoint =
            UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000001, 0), new() { ReceiveOffload = false });
        Span<byte> bytes = stackalloc byte[SegmentsProbedMax];
        bytes.Clear();
        foreach (int segments in (ReadOnlySpan<int>)[SegmentsProbedMax, SegmentsOfOldKernels])
        {
            if (endpoint.TrySend(endpoint.LocalAddress, bytes[..segments], segmentBytes: 1) == Errno.Success)
            {
                return segments;
            }
        }

        return 1;
    }

    private static KernelFeature DescribeSegmentation() => Describe("udp-gso", () =>
        UdpSegmentsMax > 1
            ? (true, string.Create(CultureInfo.InvariantCulture, $"{UdpSegmentsMax} segments a send"))
            : (false, "the kernel refuses UDP_SEGMENT (Linux 4.18 has it)"));

    private static KernelFeature DescribeReceiveOffload() => Describe("udp-gro", () =>
    {
        using UdpEndpoint endpoint = UdpEndpoint.Bind(EndpointAddress.FromIPv4(0x7F000001, 0));
        return (true,
            string.Create(CultureInfo.InvariantCulture, $"receive buffer of {endpoint.ReceiveBufferBytes} bytes"));
    });

    private static KernelFeature DescribeMemFd() => Describe("memfd", () =>
    {
        using FileDescriptor fd = MemFd.Create("wayleave-support", Environment.SystemPageSize);
        return (true, "sealed against shrinking and growing");
    });

    private static KernelFeature DescribePidFd() => Describe("pidfd", () =>
    {
        using PidFd self = Linux.PidFd.Open(Environment.ProcessId);
        return (true, "pidfd_open(2)");
    });

    private static KernelFeature DescribeHugePages()
    {
        const string Path = "/sys/kernel/mm/transparent_hugepage/enabled";
        return Describe("huge-pages", () =>
        {
            string setting = File.ReadAllText(Path).Trim(); // "always [madvise] never"
            return setting.Contains("[never]", StringComparison.Ordinal)
                ? (false, $"{Path} says never")
                : (true, setting);
        });
    }

    private static KernelFeature DescribeDevice(string name, string path) => Describe(name, () =>
    {
        if (!File.Exists(path))
        {
            return (false, $"no {path}");
        }

        using FileStream device = new(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0);
        return (true, path);
    });

    private static KernelFeature Describe(string name, Func<(bool IsAvailable, string Detail)> look)
    {
        try
        {
            (bool isAvailable, string detail) = look();
            return new KernelFeature(name, isAvailable, detail);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return new KernelFeature(name, IsAvailable: false, e.Message);
        }
    }
}
