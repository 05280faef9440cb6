using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Runners;
using Wayleave.Linux.Tests.Linux;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>
/// A NIC of ours and the kernel's TCP/IP at the other end of a TAP, in a network namespace that goes with the test. The
/// kernel is 10.0.0.2 and fd00::2, we are 10.0.0.1 and fd00::1.
/// </summary>
internal sealed class KernelPeer : IDisposable
{
    public const string OurIPv4 = "10.0.0.1";
    public const string OurIPv6 = "fd00::1";

    private KernelPeer(
        TapDevice tap,
        int mtuBytes,
        Func<IFrameLink, IFrameLink>? disturb,
        NicDriverOptions? driver,
        Func<TcpEndpointOptions, TcpEndpointOptions>? tcp)
    {
        Interface = tap.Name;
        string[] setUp =
        [
            $"link set {tap.Name} mtu {mtuBytes}",
            $"addr add 10.0.0.2/24 dev {tap.Name}",
            $"addr add fd00::2/64 dev {tap.Name} nodad",
            $"link set {tap.Name} up",
        ];
        Assert.All(setUp, command => Assert.Null(NetworkNamespace.Ip(command)));
        MacAddress mac = new(0x02_57_4C_00_00_01);
        TcpEndpointOptions given = new() { SuperPacketBytes = disturb is null ? 65000 : 1 };
        IpHostOptions ip = new()
        {
            HardwareAddress = mac,
            Addresses =
            [
                Parse(OurIPv4 + "/24"),
                Parse(OurIPv6 + "/64"),
            ],
            Tcp = tcp?.Invoke(given) ?? given,
        };
        Host = new HostContext(TimeProvider.System);
        PciTopology topology = new();
        topology.Add(new HostBridge(0, 0));
        Fabric = new PciFabric(topology);
        Nic = new HostedNic(
            Host,
            Fabric,
            new PciFunction("0000:05:00.0", "nic0"),
            new NicOptions { Address = mac, MtuBytes = mtuBytes },
            ip,
            disturb?.Invoke(new TapLink(tap)) ?? new TapLink(tap),
            driver);
    }

    public HostContext Host { get; }

    public PciFabric Fabric { get; }

    public HostedNic Nic { get; }

    /// <summary>The TAP, as the kernel names it.</summary>
    public string Interface { get; }

    /// <summary>Cancels what takes longer than any of these tests may.</summary>
    public CancellationTokenSource Patience { get; } = new(Tests.Patience.Max);

    public static void Run(
        Action<KernelPeer> body,
        int mtuBytes = 1500,
        Func<IFrameLink, IFrameLink>? disturb = null,
        NicDriverOptions? driver = null,
        Func<TcpEndpointOptions, TcpEndpointOptions>? tcp = null) =>
        NetworkNamespace.Run(["link set lo up"], () =>
        {
            Assert.SkipUnless(Support.Tap.IsAvailable, Support.Tap.Detail);

            // Disturbed, each segment has its own fate: the kernel cuts and sums them itself.
            TapOptions offloads = new() { Offloads = disturb is null, SteeredQueues = disturb is null ? 4 : 0 };
            using KernelPeer peer = new(TapDevice.Open("wl%d", offloads), mtuBytes, disturb, driver, tcp);
            try
            {
                body(peer);
            }
            finally
            {
                Assert.Null(peer.Nic.Driver.Failure); // the reason why nothing went on any more, if there is one
            }
        });

    /// <summary>tc(8) in the namespace; skips the test where the kernel has no netem.</summary>
    public void Disturb(string netem)
    {
        (int exit, string text) = Execute("tc", $"qdisc add dev {Interface} root netem {netem}");
        Assert.SkipUnless(exit == 0, $"no netem here: {text.Trim()}");
    }

    /// <summary>
    /// Runs a program in the namespace of the calling thread; skips the test where it is not installed.
    /// </summary>
    public static (int Exit, string Output) Execute(string program, string arguments, string input = "")
    {
        try
        {
            using Process process = Process.Start(new ProcessStartInfo(program, arguments)
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                RedirectStandardInput = true,
            })!;
            process.StandardInput.Write(input);
            process.StandardInput.Close();
            Task<string> errors = process.StandardError.ReadToEndAsync();
            string output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            return (process.ExitCode, output + errors.Result);
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            Assert.Skip($"{program}: {e.Message}");
            return default;
        }
    }

    /// <summary>A socket of the kernel, connected to us. Made on the thread that is in the namespace.</summary>
    public static Socket Connect(string address, ushort port)
    {
        IPAddress parsed = IPAddress.Parse(address);
        Socket socket = new(parsed.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        socket.SendTimeout = socket.ReceiveTimeout = (int)Tests.Patience.Max.TotalMilliseconds;
        socket.Connect(parsed, port);
        return socket;
    }

    public static IpAddress Address(string text) =>
        IpAddress.TryParse(text, out IpAddress address) ? address : throw new FormatException(text);

    /// <summary>Bytes that look like nothing else.</summary>
    public static byte[] Noise(int length, int seed)
    {
        byte[] bytes = new byte[length];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }

    /// <summary>Reads a connection to its end as host memory, and returns the hash and the count.</summary>
    public async Task<(string Hash, long Bytes)> HashAllAsync(DevmemConnection connection)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] linear = new byte[256 << 10];
        DevmemFragment[] fragments = new DevmemFragment[64];
        long total = 0;
        while (true)
        {
            ReceiveResult result = await connection.ReadAsync(linear, fragments, Patience.Token);
            if (result.Bytes == 0)
            {
                return (Convert.ToHexString(hash.GetHashAndReset()), total);
            }

            Assert.Equal(0, result.Fragments);
            hash.AppendData(linear.AsSpan(0, result.LinearBytes));
            total += result.Bytes;
        }
    }

    public void Dispose()
    {
        Nic.Dispose();
        Patience.Dispose();
    }

    private static InterfaceAddress Parse(string text) =>
        InterfaceAddress.TryParse(text, out InterfaceAddress address) ? address : throw new FormatException(text);
}
