using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Host.Ethernet;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>
/// The kernel's TCP sends into a GPU's memory, and receives out of it; no byte of payload is copied for us.
/// </summary>
public sealed class DevmemTcpTests
{
    private const ushort Port = PeerGpu.Port;
    private const int Page = PeerGpu.Page;

    [Theory]
    [InlineData(KernelPeer.OurIPv4, 1500)]
    [InlineData(KernelPeer.OurIPv6, 1500)]
    [InlineData(KernelPeer.OurIPv4, 9000)]
    public void TCP_58_Payload_of_the_kernel_lands_in_device_memory_byte_for_byte(string address, int mtu) =>
        KernelPeer.Run(
            peer =>
            {
                PeerGpu gpu = new(peer);
                MemoryBinding binding = gpu.BindReceive(pages: 1536); // more than a window
                byte[] sent = KernelPeer.Noise(16 << 20, seed: 3);
                using DevmemListener listener = peer.Nic.Listen(Port);
                Task<string> receiver = Task.Run(async () =>
                {
                    await using DevmemConnection connection = await listener.AcceptAsync(peer.Patience.Token);
                    (string hash, long linear) = await gpu.HashAllAsync(connection, peer.Patience.Token);
                    Assert.Equal(0, linear);
                    Assert.Equal((sent.Length, 0), connection.GetReceived());
                    return hash;
                });
                using Socket socket = KernelPeer.Connect(address, Port);
                socket.SendAll(sent);
                socket.Shutdown(SocketShutdown.Send);
                Assert.Equal(Convert.ToHexString(SHA256.HashData(sent)), receiver.GetAwaiter().GetResult());

                // What the kernel sent again was placed too, before anybody knew.
                Assert.InRange(peer.Nic.Driver.WithToken(() => binding.BytesPlaced), sent.Length, 2L * sent.Length);
                peer.Nic.Driver.WithToken(() =>
                {
                    // The kernel chose the queue and wrote the payload to its place: nobody copied it.
                    Assert.SkipUnless(peer.Nic.Driver.WhyCopied is null, $"{peer.Nic.Driver.WhyCopied}");
                    Assert.InRange(binding.BytesScattered, binding.BytesPlaced / 2, binding.BytesPlaced);
                    Assert.InRange(binding.BytesCopied, 0, binding.BytesPlaced);
                    Assert.Equal(0, binding.ScattersForeign);
                });
                Assert.Equal((0, 0), peer.Nic.Driver.WithToken(
                    () => (binding.Pool.LiveChunks - OpenChunks(binding), binding.OutstandingTokens)));
            },
            mtu);

    [Fact]
    public void All_pieces_are_enumerated_in_order_and_each_token_goes_back_with_the_next() => KernelPeer.Run(peer =>
    {
        PeerGpu gpu = new(peer);
        MemoryBinding binding = gpu.BindReceive(pages: 512);
        byte[] sent = KernelPeer.Noise(6 << 20, seed: 8);
        using DevmemListener listener = peer.Nic.Listen(Port);
        Task<string> receiver = Task.Run(async () =>
        {
            await using DevmemConnection connection = await listener.AcceptAsync(peer.Patience.Token);
            using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            byte[] linear = new byte[64 << 10];
            await foreach (DevmemFragment fragment in connection.ReadAllAsync(linear, peer.Patience.Token))
            {
                hash.AppendData(fragment.Kind == DevmemFragmentKind.Linear
                    ? linear.AsSpan((int)fragment.Offset, (int)fragment.LengthBytes)
                    : gpu.Read(fragment));
            }

            Assert.Equal(0, peer.Nic.Driver.WithToken(() => binding.OutstandingTokens)); // and it is still open
            return Convert.ToHexString(hash.GetHashAndReset());
        });
        using Socket socket = KernelPeer.Connect(KernelPeer.OurIPv4, Port);
        socket.SendAll(sent);
        socket.Shutdown(SocketShutdown.Send);
        Assert.Equal(Convert.ToHexString(SHA256.HashData(sent)), receiver.GetAwaiter().GetResult());
    });

    [Fact]
    public void Who_stops_enumerating_holds_no_token_of_what_it_did_not_look_at() => KernelPeer.Run(peer =>
    {
        PeerGpu gpu = new(peer);
        MemoryBinding binding = gpu.BindReceive(pages: 512);
        byte[] sent = KernelPeer.Noise(1 << 20, seed: 9);
        using DevmemListener listener = peer.Nic.Listen(Port);
        Task receiver = Task.Run(async () =>
        {
            await using DevmemConnection connection = await listener.AcceptAsync(peer.Patience.Token);
            int looked = 0;
            await foreach (DevmemFragment fragment in connection.ReadAllAsync(null, peer.Patience.Token))
            {
                Assert.InRange(peer.Nic.Driver.WithToken(() => binding.OutstandingTokens), 1, 64);
                if (++looked == 2)
                {
                    break;
                }
            }

            Assert.Equal(0, peer.Nic.Driver.WithToken(() => binding.OutstandingTokens));

            // Who closes with bytes unread resets a sender that may still be at it.
            await foreach (DevmemFragment _ in connection.ReadAllAsync(null, peer.Patience.Token))
            {
            }
        });
        using Socket socket = KernelPeer.Connect(KernelPeer.OurIPv4, Port);
        socket.SendAll(sent);
        socket.Shutdown(SocketShutdown.Send);
        receiver.GetAwaiter().GetResult();
    });

    [Fact]
    public void TCP_59_A_rule_that_comes_and_goes_in_mid_flow_loses_nothing() => KernelPeer.Run(peer =>
    {
        PeerGpu gpu = new(peer);
        gpu.BindReceive(pages: 1024, steers: false);
        byte[] sent = KernelPeer.Noise(24 << 20, seed: 4);
        using DevmemListener listener = peer.Nic.Listen(Port);
        Task<(string Hash, long Linear)> receiver = Task.Run(async () =>
        {
            await using DevmemConnection connection = await listener.AcceptAsync(peer.Patience.Token);
            return await gpu.HashAllAsync(connection, peer.Patience.Token);
        });
        using Socket socket = KernelPeer.Connect(KernelPeer.OurIPv4, Port);
        socket.SendAll(sent.AsSpan(0, 8 << 20));
        int rule = gpu.Steer(FlowType.TcpIPv4);
        socket.SendAll(sent.AsSpan(8 << 20, 8 << 20));
        peer.Nic.Driver.WithToken(() => Assert.Equal(
            Errno.Success, peer.Nic.Device.Port.Steering.DeleteRule((uint)rule)));
        socket.SendAll(sent.AsSpan(16 << 20));
        socket.Shutdown(SocketShutdown.Send);
        (string hash, long linear) = receiver.GetAwaiter().GetResult();
        Assert.Equal(Convert.ToHexString(SHA256.HashData(sent)), hash);
        Assert.InRange(linear, 1, sent.Length - 1); // some of it by each way
    });

    [Fact]
    public void TCP_60_61_Tokens_that_stay_out_close_the_window_and_come_back_once() => KernelPeer.Run(peer =>
    {
        PeerGpu gpu = new(peer);
        MemoryBinding binding = gpu.BindReceive(pages: 64);
        byte[] sent = KernelPeer.Noise(4 << 20, seed: 5);
        using DevmemListener listener = peer.Nic.Listen(Port);
        Task<string> receiver = Task.Run(async () =>
        {
            await using DevmemConnection connection = await listener.AcceptAsync(peer.Patience.Token);
            return await ReadWithoutReturningAsync(gpu, connection, binding, peer.Patience.Token);
        });
        using Socket socket = KernelPeer.Connect(KernelPeer.OurIPv4, Port);
        socket.SendAll(sent);
        socket.Shutdown(SocketShutdown.Send);
        Assert.Equal(Convert.ToHexString(SHA256.HashData(sent)), receiver.GetAwaiter().GetResult());
        Assert.Equal(0, peer.Nic.Driver.WithToken(() => binding.OutstandingTokens));
    });

    [Theory]
    [InlineData("10.0.0.2", AddressFamily.InterNetwork)]
    [InlineData("fd00::2", AddressFamily.InterNetworkV6)]
    public void DEVM_26_28_Device_memory_is_sent_and_is_in_use_until_it_was_acknowledged(
        string address, AddressFamily family) => KernelPeer.Run(peer =>
    {
        PeerGpu gpu = new(peer);
        byte[] sent = KernelPeer.Noise(512 * Page, seed: 6);
        TransmitBinding binding = gpu.BindTransmit(sent);
        using Socket listener = new(family, SocketType.Stream, ProtocolType.Tcp);
        listener.ReceiveBufferSize = 64 << 10; // so that the kernel cannot acknowledge all of it before somebody reads
        listener.Bind(new IPEndPoint(IPAddress.Parse(address), Port));
        listener.Listen(1);
        using ManualResetEventSlim looked = new();
        Task sender = Task.Run(async () =>
        {
            await using DevmemConnection connection =
                await peer.Nic.ConnectAsync(KernelPeer.Address(address), Port, peer.Patience.Token);
            ValueTask whole = connection.SendAsync(binding, 0, sent.Length, peer.Patience.Token);
            bool acknowledged = whole.IsCompleted;
            long references = peer.Nic.Driver.WithToken(() => binding.References);
            looked.Set();
            Assert.False(acknowledged);
            Assert.NotEqual(0, references);
            await whole;
            Assert.Equal(0, peer.Nic.Driver.WithToken(() => binding.References));

            // In odd pieces too.
            for (ulong offset = 0; offset < 3000; offset += 3)
            {
                await connection.SendAsync(binding, offset, 3, peer.Patience.Token);
            }

            connection.Shutdown();
            await connection.FlushAsync(peer.Patience.Token);
        });
        using Socket socket = listener.Accept();
        looked.Wait(peer.Patience.Token);
        byte[] received = new byte[sent.Length + 3000];
        for (int at = 0; at < received.Length;)
        {
            int count = socket.Receive(received.AsSpan(at));
            Assert.NotEqual(0, count);
            at += count;
        }

        sender.GetAwaiter().GetResult();
        Assert.True(sent.AsSpan().SequenceEqual(received.AsSpan(0, sent.Length)), "bytes differ");
        Assert.True(sent.AsSpan(0, 3000).SequenceEqual(received.AsSpan(sent.Length)), "bytes of the pieces differ");
    });

    // A chunk that small payloads still fill is held by its queue.
    private static int OpenChunks(MemoryBinding binding) => Math.Min(binding.Pool.LiveChunks, 1);

    private static async Task<string> ReadWithoutReturningAsync(
        PeerGpu gpu, DevmemConnection connection, MemoryBinding binding, CancellationToken patience)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] linear = new byte[64 << 10];
        DevmemFragment[] fragments = new DevmemFragment[64];
        List<DevmemFragment> held = [];
        int closed = 0;
        while (true)
        {
            Errno errno = connection.TryRead(linear, fragments, out ReceiveResult result);
            if (errno == Errno.Success && result.Bytes == 0)
            {
                break;
            }

            if (errno == Errno.Success)
            {
                int at = 0;
                foreach (DevmemFragment fragment in fragments.AsSpan(0, result.Fragments))
                {
                    if (fragment.Kind == DevmemFragmentKind.Linear)
                    {
                        // What was promised before the chunks ran out: not lost, and counted.
                        hash.AppendData(linear.AsSpan(at, (int)fragment.LengthBytes));
                        at += (int)fragment.LengthBytes;
                        continue;
                    }

                    hash.AppendData(gpu.Read(fragment));
                    held.Add(fragment);
                }

                continue;
            }

            Assert.Equal(Errno.EAGAIN, errno);
            if (connection.GetInfo().ReceiveWindowBytes > 0 && held.Count > 0 && !patience.IsCancellationRequested)
            {
                connection.Nic.Driver.TryProgress();
                if (connection.Nic.Driver.WithToken(() => binding.Pool.FreeChunks) > 0)
                {
                    continue;
                }
            }

            patience.ThrowIfCancellationRequested();
            closed++;
            foreach (DevmemFragment fragment in held)
            {
                TokenRange[] one = [new TokenRange(fragment.Token, 1)];
                Assert.Equal(1, connection.ReturnTokens(one));
                Assert.Equal(0, connection.ReturnTokens(one)); // twice is once
            }

            held.Clear();
            connection.Nic.Driver.TryProgress();
        }

        Assert.InRange(closed, 2, int.MaxValue);
        return Convert.ToHexString(hash.GetHashAndReset());
    }
}
