using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Text.Json;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Link;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Runners;
using Wayleave.Linux;

namespace Wayleave.Host.Benchmarks.Tcp;

/// <summary>
/// Measures how fast <c>iperf3 -c</c>, over the kernel's TCP and a TAP device, fills memory of a GPU. One thread of
/// this process polls: it drives the NIC, reads, and gives tokens back.
/// </summary>
public static class TcpReceiveBenchmark
{
    private const string Ours = "10.76.0.1", Kernels = "10.76.0.2";
    private const ushort Port = 5201, LimitPort = 9;
    private const int IpUdpHeaderBytes = 28, BlastOverheadBytes = 16;

    /// <summary>
    /// Runs the rounds. The TAP device belongs to the network namespace of the process, which is better one of its own.
    /// </summary>
    /// <exception cref="ArgumentException">The options do not work together; names every problem.</exception>
    /// <exception cref="WayleaveException">No TAP device can be made, or iperf3 is missing or failed.</exception>
    public static async Task<TcpReceiveReport> RunAsync(
        TcpReceiveOptions options, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        List<TcpReceiveRound> rounds = [];
        for (int i = 0; i < options.Rounds; i++)
        {
            double? limit = options.WithLimit ? MeasureLimit(options) : null;
            TcpReceiveRound round = await MeasureAsync(options, cancellation).ConfigureAwait(false);
            rounds.Add(round with { LimitBytesPerS = limit });
        }

        return new TcpReceiveReport
        {
            MtuBytes = options.MtuBytes,
            RegionBytes = options.RegionBytes,
            HoldBytes = options.HoldBytes,
            Rounds = rounds,
        };
    }

    private static async Task<TcpReceiveRound> MeasureAsync(TcpReceiveOptions options, CancellationToken cancellation)
    {
        HostContext host = new(TimeProvider.System);
        PciTopology topology = new();
        topology.Add(new HostBridge(0, 0));
        PciFabric fabric = new(topology);
        TapDevice tap = OpenTap(options.MtuBytes, datagrams: false);
        MacAddress mac = new(0x02_57_4C_00_00_01);
        using HostedNic nic = new(
            host,
            fabric,
            new PciFunction("0000:05:00.0", "nic0"),
            new NicOptions { Address = mac, MtuBytes = options.MtuBytes },
            new IpHostOptions { HardwareAddress = mac, Addresses = [ParseAddress(Ours + "/30")] },
            new TapLink(tap));
        using BoundRegion region = BoundRegion.Create(host, fabric, nic, options.RegionBytes);
        using DevmemListener listener = nic.Listen(Port);
        Task<string> client = RunIperfAsync(options, cancellation);
        TimeSpan cpu = default;
        long staged = 0;
        IperfTest test = await IperfServer.ServeAsync(
            listener,
            stream =>
            {
                region.Steer(stream.Connection);
                return Task.Factory.StartNew(
                    () =>
                    {
                        TimeSpan before = Environment.CpuUsage.TotalTime;
                        staged += new DeviceSink(stream, options.HoldBytes).Receive();
                        cpu = Environment.CpuUsage.TotalTime - before;
                    },
                    cancellation,
                    TaskCreationOptions.LongRunning,
                    TaskScheduler.Default);
            },
            TimeProvider.System,
            cancellation).ConfigureAwait(false);
        string text = await client.ConfigureAwait(false);
        long bytes = test.StreamBytes.Sum();
        using JsonDocument report = JsonDocument.Parse(text);
        JsonElement end = report.RootElement.GetProperty("end");
        double senderCpu = end.GetProperty("cpu_utilization_percent").GetProperty("host_total").GetDouble() / 100;
        return new TcpReceiveRound
        {
            BytesPerS = bytes / test.Elapsed.TotalSeconds,
            Bytes = bytes,
            CpuSPerGb = cpu.TotalSeconds / (bytes / 1e9),
            SenderCpuSPerGb = senderCpu * test.Elapsed.TotalSeconds / (bytes / 1e9),
            StagedBytes = staged,
            CopiesPerByte = region.Binding.BytesPlaced == 0
                ? null
                : (double)region.Binding.BytesCopied / region.Binding.BytesPlaced,
            ScattersRepaired = region.Binding.ScattersRepaired,
            Retransmits = end.GetProperty("sum_sent").GetProperty("retransmits").GetInt64(),
        };
    }

    // Datagrams as large as what TCP sends, from one warm buffer: the kernel cuts neither, and nobody answers.
    private static double MeasureLimit(TcpReceiveOptions options)
    {
        using TapDevice tap = OpenTap(options.MtuBytes, datagrams: true);
        Ip($"neigh replace {Ours} lladdr 02:57:4c:00:00:01 dev {tap.Name}");
        using UdpEndpoint socket = UdpEndpoint.Bind(EndpointAddress.From(IPAddress.Parse(Kernels), 0));
        using MappedMemory memory = MappedMemory.AllocateAnonymous(MappedMemory.HugePageBytes, hugePages: true);
        Span<byte> buffer = memory.Memory.Span[..TapDevice.FrameBytesMax];
        bool stop = false;
        int payload = Math.Min(options.MtuBytes, 65000) - IpUdpHeaderBytes - BlastOverheadBytes;
        Thread sender = new(() =>
        {
            LimitBlast.Send(socket, new IPEndPoint(IPAddress.Parse(Ours), LimitPort), payload, options.Duration);
            Volatile.Write(ref stop, true);
        });
        long start = Stopwatch.GetTimestamp();
        sender.Start();
        long received = 0;
        while (!Volatile.Read(ref stop))
        {
            if (tap.TryRead(buffer, out int length) == Errno.Success)
            {
                received += length - TapDevice.HeaderBytes;
            }
        }

        sender.Join();
        return received / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static TapDevice OpenTap(int mtuBytes, bool datagrams)
    {
        TapDevice tap = TapDevice.Open(
            "wlbench%d", new TapOptions { DatagramOffloads = datagrams, SteeredQueues = datagrams ? 0 : 1 });
        Ip($"link set {tap.Name} mtu {mtuBytes}");
        Ip($"addr add {Kernels}/30 dev {tap.Name}");
        Ip($"link set {tap.Name} up");
        return tap;
    }

    private static async Task<string> RunIperfAsync(TcpReceiveOptions options, CancellationToken cancellation)
    {
        int seconds = (int)Math.Ceiling(options.Duration.TotalSeconds);
        string arguments = string.Create(
            CultureInfo.InvariantCulture, $"-c {Ours} -p {Port} -t {seconds} -J --connect-timeout 5000");
        using Process process = Start("iperf3", arguments);
        Task<string> output = process.StandardOutput.ReadToEndAsync(cancellation);
        await process.WaitForExitAsync(cancellation).ConfigureAwait(false);
        string text = await output.ConfigureAwait(false);
        return process.ExitCode == 0 && !text.Contains("\"error\":", StringComparison.Ordinal)
            ? text
            : throw new WayleaveException(Errno.EIO, $"iperf3 {arguments}", text.Trim());
    }

    private static void Ip(string arguments)
    {
        using Process ip = Start("ip", arguments);
        string text = ip.StandardError.ReadToEnd();
        ip.WaitForExit();
        if (ip.ExitCode != 0)
        {
            throw new WayleaveException(Errno.EIO, $"ip {arguments}", text.Trim());
        }
    }

    private static Process Start(string program, string arguments)
    {
        try
        {
            return Process.Start(new ProcessStartInfo(program, arguments)
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            })!;
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new WayleaveException(
                (Errno)e.NativeErrorCode, $"start {program}", e.Message, $"install {program}", e);
        }
    }

    private static InterfaceAddress ParseAddress(string text) =>
        InterfaceAddress.TryParse(text, out InterfaceAddress address) ? address : throw new FormatException(text);
}
