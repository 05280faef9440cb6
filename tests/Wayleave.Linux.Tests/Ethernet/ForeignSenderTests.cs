using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Wayleave.Devices.Ethernet;
using Wayleave.Host.Benchmarks.Tcp;
using Wayleave.Host.Ethernet;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>
/// Programs that others wrote send over the kernel's TCP, and what they sent lies in a GPU's memory: equal by hash, and
/// none of it copied for us.
/// </summary>
public sealed class ForeignSenderTests
{
    private const ushort Port = PeerGpu.Port;
    private const int Pages = 1536; // more than a window

    public static TheoryData<string, int> Links => new()
    {
        { KernelPeer.OurIPv4, 1500 },
        { KernelPeer.OurIPv6, 1500 },
        { KernelPeer.OurIPv4, 9000 },
        { KernelPeer.OurIPv6, 9000 },
    };

    [Theory]
    [MemberData(nameof(Links))]
    public void Netcat_sends_a_file_into_device_memory(string address, int mtu) => KernelPeer.Run(
        peer =>
        {
            PeerGpu gpu = new(peer);
            gpu.BindReceive(Pages);
            using SentFile file = new(24 << 20, seed: 11);
            using DevmemListener listener = peer.Nic.Listen(Port);
            Task<string> receiver = Task.Run(async () =>
            {
                await using DevmemConnection connection = await listener.AcceptAsync(peer.Patience.Token);
                (string hash, long linear) = await gpu.HashAllAsync(connection, peer.Patience.Token);
                Assert.Equal((0, 0L), (linear, connection.GetReceived().Copied));
                return hash;
            });
            (int exit, string output) = KernelPeer.Execute("sh", $"-c \"exec nc -N {address} {Port} <{file.Path}\"");
            Assert.SkipWhen(exit == 127, "nc is not installed");
            Assert.Equal((0, ""), (exit, output));
            Assert.Equal(file.Hash, receiver.GetAwaiter().GetResult());
        },
        mtu);

    [Theory]
    [MemberData(nameof(Links))]
    public void Curl_uploads_a_file_into_device_memory(string address, int mtu) => KernelPeer.Run(
        peer =>
        {
            PeerGpu gpu = new(peer);
            gpu.BindReceive(Pages, steers: false);
            using SentFile file = new(24 << 20, seed: 12);
            using DevmemListener listener = peer.Nic.Listen(80);
            Task<string> receiver = Task.Run(() => ReceiveUploadAsync(peer, gpu, listener));
            string host = address.Contains(':', StringComparison.Ordinal) ? $"[{address}]" : address;
            (int exit, string output) = KernelPeer.Execute(
                "curl",
                $"-sS --fail -g --max-time 60 -H \"Expect: 100-continue\" --expect100-timeout 60 -T {file.Path} "
                + $"http://{host}/gpu0/weights");
            Assert.Equal((0, $"{file.Hash}\n"), (exit, output));
            Assert.Equal(file.Hash, receiver.GetAwaiter().GetResult());
        },
        mtu);

    [Theory]
    [MemberData(nameof(Links))]
    public void Python_sends_odd_pieces_and_reads_their_hash_back(string address, int mtu) => KernelPeer.Run(
        peer =>
        {
            PeerGpu gpu = new(peer);
            gpu.BindReceive(Pages);
            using DevmemListener listener = peer.Nic.Listen(Port);
            Task server = Task.Run(async () =>
            {
                await using DevmemConnection connection = await listener.AcceptAsync(peer.Patience.Token);
                (string hash, long linear) = await gpu.HashAllAsync(connection, peer.Patience.Token);
                Assert.Equal(0, linear);
                await connection.WriteAsync(Encoding.ASCII.GetBytes(hash), peer.Patience.Token);
                connection.Shutdown();
                await connection.FlushAsync(peer.Patience.Token);
            });
            (int exit, string output) = KernelPeer.Execute(
                "python3",
                $"- {address} {Port}",
                """
                import hashlib, random, socket, sys
                draw = random.Random(7)
                s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
                sent = hashlib.sha256()
                for i in range(2000):
                    piece = draw.randbytes(draw.choice((1, 3, 1447, 4096, 20001)))
                    s.sendall(piece)
                    sent.update(piece)
                s.shutdown(socket.SHUT_WR)
                answer = b""
                while part := s.recv(100):
                    answer += part
                print(answer.decode() == sent.hexdigest().upper())
                """);
            server.GetAwaiter().GetResult();
            Assert.Equal((0, "True\n"), (exit, output));
        },
        mtu);

    [Theory]
    [MemberData(nameof(Links))]
    public void Iperf3_sends_a_file_into_device_memory(string address, int mtu) => KernelPeer.Run(
        peer =>
        {
            PeerGpu gpu = new(peer);
            gpu.BindReceive(Pages, steers: false);
            using SentFile file = new(100_000, seed: 13);
            using DevmemListener listener = peer.Nic.Listen(Port);
            Task<string> server = Task.Run(() => ServeIperfAsync(peer, gpu, listener));

            // One byte a write: iperf 3.12 reads over what a write that was cut short has left of its buffer.
            string report = RunIperf($"-c {address} -p {Port} -F {file.Path} -l 1 -J");
            Assert.Equal(file.Hash, server.GetAwaiter().GetResult());
            Assert.Equal((file.Bytes, file.Bytes), BytesOf(report));
        },
        mtu);

    [Theory]
    [InlineData(KernelPeer.OurIPv4, 1500, 1)]
    [InlineData(KernelPeer.OurIPv6, 1500, 8)]
    [InlineData(KernelPeer.OurIPv4, 9000, 8)]
    public void Iperf3_sends_by_streams_that_share_a_queue(string address, int mtu, int streams) => KernelPeer.Run(
        peer =>
        {
            // Room for what was promised before it was known where the streams would go.
            PeerGpu gpu = new(peer, megabytes: 40);
            MemoryBinding binding = gpu.BindReceive(pages: 8192, steers: false);
            using DevmemListener listener = peer.Nic.Listen(Port);
            Task<IperfTest> server = Task.Run(() => IperfServer.ServeAsync(
                listener, stream => DrainAsync(gpu, stream), TimeProvider.System, peer.Patience.Token));
            string report = RunIperf($"-c {address} -p {Port} -P {streams} -n 32M -J");
            IperfTest test = server.GetAwaiter().GetResult();
            Assert.Equal(streams, test.StreamBytes.Count);
            long received = test.StreamBytes.Sum();
            Assert.InRange(received, 32 << 20, long.MaxValue);
            Assert.Equal((received, received), BytesOf(report));
            Assert.Equal(0, peer.Nic.Driver.WithToken(() => binding.OutstandingTokens));
        },
        mtu);

    private static (long Sent, long Received) BytesOf(string report)
    {
        using JsonDocument document = JsonDocument.Parse(report);
        JsonElement end = document.RootElement.GetProperty("end");
        return (
            end.GetProperty("sum_sent").GetProperty("bytes").GetInt64(),
            end.GetProperty("sum_received").GetProperty("bytes").GetInt64());
    }

    private static async Task<string> ServeIperfAsync(KernelPeer peer, PeerGpu gpu, DevmemListener listener)
    {
        string hash = "";
        await IperfServer.ServeAsync(
            listener, async stream => hash = await DrainAsync(gpu, stream), TimeProvider.System, peer.Patience.Token);
        return hash;
    }

    // Steered once it is known who it is, before it sends.
    private static async Task<string> DrainAsync(PeerGpu gpu, IperfStream stream)
    {
        gpu.Steer(stream.Connection.Flow);
        (string hash, long linear) = await gpu.HashAllAsync(stream.Connection, stream.Complete, stream.Count);
        Assert.Equal(0, linear);
        return hash;
    }

    private static string RunIperf(string arguments)
    {
        (int exit, string output) = KernelPeer.Execute("iperf3", arguments);
        Assert.True(exit == 0, output);
        return output;
    }

    // HTTP/1.1, as much as a receiver needs that knows its client: the head of the request comes by the queue of
    // everybody; the client waits for our word, and by then its connection is steered.
    private static async Task<string> ReceiveUploadAsync(KernelPeer peer, PeerGpu gpu, DevmemListener listener)
    {
        await using DevmemConnection connection = await listener.AcceptAsync(peer.Patience.Token);
        byte[] head = new byte[8192];
        int length = 0;
        while (head.AsSpan(0, length).IndexOf("\r\n\r\n"u8) < 0)
        {
            ReceiveResult result = await connection.ReadAsync(
                head.AsMemory(length), new DevmemFragment[1], peer.Patience.Token);
            Assert.True(result.LinearBytes > 0, "the head has no end");
            length += result.LinearBytes;
        }

        string[] lines = Encoding.ASCII.GetString(head, 0, length).Split("\r\n");
        Assert.Equal("PUT /gpu0/weights HTTP/1.1", lines[0]);
        Assert.EndsWith("\r\n\r\n", Encoding.ASCII.GetString(head, 0, length), StringComparison.Ordinal);
        string field = Assert.Single(lines, l => l.StartsWith("Content-Length: ", StringComparison.OrdinalIgnoreCase));
        long body = long.Parse(field.AsSpan(16), System.Globalization.CultureInfo.InvariantCulture);
        gpu.Steer(connection.Flow);
        await connection.WriteAsync("HTTP/1.1 100 Continue\r\n\r\n"u8.ToArray(), peer.Patience.Token);

        using CancellationTokenSource whole = new();
        long received = 0;
        (string hash, long linear) = await gpu.HashAllAsync(connection, whole.Token, bytes =>
        {
            received += bytes;
            if (received == body)
            {
                whole.Cancel();
            }
        });
        Assert.Equal((body, 0L), (received, linear));
        string answer = $"HTTP/1.1 201 Created\r\nContent-Length: {hash.Length + 1}\r\n\r\n{hash}\n";
        await connection.WriteAsync(Encoding.ASCII.GetBytes(answer), peer.Patience.Token);
        connection.Shutdown();
        await connection.FlushAsync(peer.Patience.Token);
        return hash;
    }

    private sealed class SentFile : IDisposable
    {
        public SentFile(int bytes, int seed)
        {
            Bytes = bytes;
            byte[] content = KernelPeer.Noise(bytes, seed);
            Hash = Convert.ToHexString(SHA256.HashData(content));
            Path = System.IO.Path.GetTempFileName();
            File.WriteAllBytes(Path, content);
        }

        public int Bytes { get; }

        public string Hash { get; }

        public string Path { get; }

        public void Dispose() => File.Delete(Path);
    }
}
