using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Link;
using Wayleave.Host.Benchmarks.Tcp;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Runners;
using Wayleave.Linux;

namespace Wayleave.Lab.Tcp;

/// <summary>
/// What the kernel sends through netem lies in device memory byte for byte, and none of it was copied for the reader.
/// </summary>
internal static class TcpReceiver
{
    private const int Port = 5201;
    private const long Bytes = 2 << 20;
    private const int BlockBytes = 1 << 20;
    private const int RegionBytes = 8 << 20; // more than a window

    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan s_longLimit = TimeSpan.FromDays(1);

    private static readonly (string Netem, string Address)[] s_cases =
    [
        ("loss 1%", "10.0.0.1"),
        ("loss 1%", "fd00::1"),
        ("delay 2ms reorder 20%", "10.0.0.1"),
        ("duplicate 5%", "10.0.0.1"),
        ("delay 3ms 1ms", "fd00::1"),
        ("delay 1ms 500us loss 1% duplicate 1%", "10.0.0.1"),
    ];

    // All at once, for as many bytes as one has the time for.
    private static readonly (string Netem, string Address)[] s_longCases =
        [("delay 1ms 500us reorder 5% loss 1% duplicate 1%", "10.0.0.1")];

    /// <summary>An argument is the bytes of one long transfer, instead of the short ones: 1073741824.</summary>
    internal static int Run(string[] arguments)
    {
        long bytes = Bytes;
        if (arguments.Length > 1
            || (arguments.Length == 1 && !(long.TryParse(
                arguments[0], NumberStyles.None, CultureInfo.InvariantCulture, out bytes) && bytes > 0)))
        {
            return ExitCodes.Usage;
        }

        bool isLong = arguments.Length == 1;
        foreach ((string netem, string address) in isLong ? s_longCases : s_cases)
        {
            long start = Stopwatch.GetTimestamp();
            TimeSpan limit = isLong ? s_longLimit : s_limit;
            string? wrong = RunAsync(netem, IPAddress.Parse(address), bytes, limit).GetAwaiter().GetResult();
            double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            Console.WriteLine($"{netem}, {address}: {wrong ?? $"{bytes} bytes ok"} ({seconds:F1} s)");
            if (wrong is not null)
            {
                return ExitCodes.Failed;
            }
        }

        return ExitCodes.Done;
    }

    private static async Task<string?> RunAsync(string netem, IPAddress address, long bytes, TimeSpan limit)
    {
        using CancellationTokenSource patience = new(limit);
        HostContext host = new(TimeProvider.System);
        PciTopology topology = new();
        topology.Add(new HostBridge(0, 0));
        PciFabric fabric = new(topology);
        TapDevice tap = TapDevice.Open("wl%d");
        SetUp(tap.Name, netem);
        using HostedNic nic = MakeNic(host, fabric, tap);
        using BoundRegion region = BoundRegion.Create(host, fabric, nic, RegionBytes);
        using DevmemListener listener = nic.Listen(Port);
        Task<string> sender = Task.Run(() => Send(address, bytes, patience.Token), patience.Token);
        DevmemConnection connection = await listener.AcceptAsync(patience.Token).ConfigureAwait(false);
        await using (connection.ConfigureAwait(false))
        {
            region.Steer(connection);
            await connection.WriteAsync("!"u8.ToArray(), patience.Token).ConfigureAwait(false);
            (string hash, long linear) = await HashAsync(region, connection, patience.Token).ConfigureAwait(false);
            string sent = await sender.ConfigureAwait(false);
            string counters = Tool("tc", $"-s qdisc show dev {tap.Name}");
            TcpStats stats = nic.Protocols.Tcp.Stats;
            return hash != sent ? "the bytes differ"
                : linear != 0 ? $"{linear} bytes were copied"
                : netem.Contains("loss", StringComparison.Ordinal)
                    && counters.Contains("dropped 0,", StringComparison.Ordinal) ? $"nothing was lost: {counters}"
                : netem.Contains("duplicate", StringComparison.Ordinal) && stats.DuplicateSegments == 0
                    ? "nothing came twice"
                : null;
        }
    }

    // Cut before netem, so that each segment has a fate of its own.
    private static void SetUp(string name, string netem)
    {
        Tool("ip", "link set lo up");
        Tool("ip", $"link set {name} gso_max_segs 1");
        Tool("ip", $"addr add 10.0.0.2/24 dev {name}");
        Tool("ip", $"addr add fd00::2/64 dev {name} nodad");
        Tool("ip", $"link set {name} up");
        Tool("tc", $"qdisc add dev {name} root netem {netem}");
    }

    private static HostedNic MakeNic(HostContext host, PciFabric fabric, TapDevice tap)
    {
        MacAddress mac = new(0x02_57_4C_00_00_01);
        IpHostOptions ip = new() { HardwareAddress = mac, Addresses = [Parse("10.0.0.1/24"), Parse("fd00::1/64")] };
        PciFunction function = new("0000:05:00.0", "nic0");
        return new HostedNic(host, fabric, function, new NicOptions { Address = mac }, ip, new TapLink(tap));
    }

    // Waits for a word: by then its connection is steered. Returns the hash of what it has sent.
    private static string Send(IPAddress address, long bytes, CancellationToken patience)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] block = RandomNumberGenerator.GetBytes(BlockBytes);
        using Socket socket = new(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        using CancellationTokenRegistration end = patience.Register(socket.Dispose);
        socket.Connect(address, Port);
        socket.Receive(new byte[1]);
        for (long left = bytes; left > 0;)
        {
            // Each block is another, without drawing all of it anew.
            System.Buffers.Binary.BinaryPrimitives.WriteInt64LittleEndian(block, left);
            Span<byte> next = block.AsSpan(0, (int)Math.Min(left, BlockBytes));
            hash.AppendData(next);
            left -= next.Length;
            while (!next.IsEmpty)
            {
                next = next[socket.Send(next)..];
            }
        }

        socket.Shutdown(SocketShutdown.Send);
        socket.Receive(new byte[1]);
        return Convert.ToHexString(hash.GetHashAndReset());
    }

    private static async Task<(string Hash, long Linear)> HashAsync(
        BoundRegion region, DevmemConnection connection, CancellationToken patience)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] linear = new byte[64 << 10];
        DevmemFragment[] fragments = new DevmemFragment[64];
        long copied = 0;
        while (true)
        {
            ReceiveResult result = await connection.ReadAsync(linear, fragments, patience).ConfigureAwait(false);
            copied += result.LinearBytes;
            if (result.Bytes == 0 || copied > 0)
            {
                connection.Shutdown();
                return (Convert.ToHexString(hash.GetHashAndReset()), copied);
            }

            for (int i = 0; i < result.Fragments; i++)
            {
                region.AppendTo(hash, fragments[i]);
                connection.ReturnTokens([new TokenRange(fragments[i].Token, 1)]);
            }
        }
    }

    private static string Tool(string program, string arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return process.ExitCode == 0
            ? output
            : throw new IOException($"{program} {arguments}: {errors.GetAwaiter().GetResult().Trim()}");
    }

    private static InterfaceAddress Parse(string text) =>
        InterfaceAddress.TryParse(text, out InterfaceAddress address) ? address : throw new FormatException(text);
}
