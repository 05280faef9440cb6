using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Runners;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>
/// The whole way of a segment, from the TAP through steering, memory and TCP to the reader and back, driven by this
/// thread alone: what it allocates is all that is allocated.
/// </summary>
public sealed class SegmentAllocationTests
{
    private const ushort Port = PeerGpu.Port;
    private const int ChunkBytes = 64 << 10;

    [Theory]
    [InlineData(KernelPeer.OurIPv4, true)]
    [InlineData(KernelPeer.OurIPv6, true)]
    [InlineData(KernelPeer.OurIPv4, false)] // host memory, as a socket reads it
    public void Nothing_is_allocated_for_a_segment_that_is_received(string address, bool isBound) => KernelPeer.Run(
        peer =>
        {
            PeerGpu gpu = new(peer);
            MemoryBinding? binding = isBound ? gpu.BindReceive(pages: 1024) : null;
            (DevmemConnection connection, Socket socket) = Open(peer, address);
            using Socket sender = socket;
            byte[] content = new byte[ChunkBytes], linear = new byte[ChunkBytes];
            DevmemFragment[] fragments = new DevmemFragment[64];
            TokenRange[] back = new TokenRange[64];
            socket.Blocking = false;
            void Run(long bytes)
            {
                long sent = 0;
                for (long received = 0; received < bytes;)
                {
                    int length = (int)Math.Min(ChunkBytes, bytes - sent);
                    sent += length > 0 ? Send(socket, content.AsSpan(0, length)) : 0;
                    peer.Nic.Driver.TryProgress();
                    Errno errno = connection.TryRead(linear, fragments, out ReceiveResult result);
                    if (errno == Errno.EAGAIN)
                    {
                        continue;
                    }

                    Assert.True(errno == Errno.Success);
                    int tokens = 0;
                    for (int i = 0; i < result.Fragments; i++)
                    {
                        back[tokens] = new TokenRange(fragments[i].Token, 1);
                        tokens += fragments[i].Token == 0 ? 0 : 1;
                    }

                    Assert.True(tokens == 0 || connection.ReturnTokens(back.AsSpan(0, tokens)) == tokens);
                    received += result.Bytes;
                }
            }

            Measure(() => Run(8 << 20), () => Run(32 << 20));
            Assert.True(binding is null || binding.BytesPlaced >= 32 << 20);
        },
        driver: s_noEngine);

    [Fact]
    public void Nothing_is_allocated_for_a_segment_that_is_sent() => KernelPeer.Run(
        peer =>
        {
            (DevmemConnection connection, Socket socket) = Open(peer, KernelPeer.OurIPv4);
            using Socket receiver = socket;
            byte[] content = new byte[ChunkBytes];
            socket.Blocking = false;
            void Run(long bytes)
            {
                for (long sent = 0, received = 0; received < bytes;)
                {
                    if (sent < bytes)
                    {
                        int length = (int)Math.Min(ChunkBytes, bytes - sent);
                        Errno errno = connection.TryWrite(content.AsSpan(0, length), out int taken);
                        Assert.True(errno is Errno.Success or Errno.EAGAIN);
                        sent += taken;
                    }

                    peer.Nic.Driver.TryProgress();
                    int count = socket.Receive(content, SocketFlags.None, out SocketError error);
                    Assert.True(error is SocketError.Success or SocketError.WouldBlock);
                    received += error == SocketError.Success ? count : 0;
                }
            }

            Measure(() => Run(8 << 20), () => Run(32 << 20));
        },
        driver: s_noEngine);

    private static readonly NicDriverOptions s_noEngine = new() { HasEngine = false };

    private static void Measure(Action warmUp, Action run)
    {
        warmUp(); // compiles, and grows what grows once
        warmUp();
        long before = GC.GetAllocatedBytesForCurrentThread();
        run();
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    // Nobody else drives: the handshake needs this thread as well.
    private static (DevmemConnection Connection, Socket Socket) Open(KernelPeer peer, string address)
    {
        using DevmemListener listener = peer.Nic.Listen(Port);
        ValueTask<DevmemConnection> accept = listener.AcceptAsync(peer.Patience.Token);
        System.Net.IPAddress to = System.Net.IPAddress.Parse(address);
        Socket socket = new(to.AddressFamily, SocketType.Stream, ProtocolType.Tcp) { Blocking = false };
        Assert.Equal(
            SocketError.WouldBlock,
            Assert.Throws<SocketException>(() => socket.Connect(to, Port)).SocketErrorCode);
        Task<DevmemConnection> accepted = accept.AsTask();
        while (!accepted.IsCompleted)
        {
            peer.Nic.Driver.TryProgress();
        }

        return (accepted.GetAwaiter().GetResult(), socket);
    }

    private static int Send(Socket socket, ReadOnlySpan<byte> bytes)
    {
        int count = socket.Send(bytes, SocketFlags.None, out SocketError error);
        Assert.True(error is SocketError.Success or SocketError.WouldBlock);
        return error == SocketError.Success ? count : 0;
    }
}
