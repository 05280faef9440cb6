using System.Net.Sockets;
using System.Security.Cryptography;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Host.Ethernet;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>
/// Our TCP with the kernel's at the other end of a TAP: every byte both ways, undisturbed and disturbed.
/// </summary>
public sealed class KernelTcpTests
{
    private const ushort Port = 5201;

    [Theory]
    [InlineData(KernelPeer.OurIPv4, 1500, 64 << 20)]
    [InlineData(KernelPeer.OurIPv6, 1500, 64 << 20)]
    [InlineData(KernelPeer.OurIPv4, 9000, 64 << 20)]
    [InlineData(KernelPeer.OurIPv6, 9000, 16 << 20)]
    public void A_sender_of_the_kernel_is_received_byte_for_byte(string address, int mtu, int bytes) =>
        KernelPeer.Run(peer => SendToUs(peer, address, bytes), mtu);

    [Theory]
    [InlineData("10.0.0.2", AddressFamily.InterNetwork, 1500)]
    [InlineData("fd00::2", AddressFamily.InterNetworkV6, 1500)]
    [InlineData("10.0.0.2", AddressFamily.InterNetwork, 9000)]
    public void The_kernel_receives_what_we_send_byte_for_byte(string address, AddressFamily family, int mtu) =>
        KernelPeer.Run(peer => SendToKernel(peer, address, family, 32 << 20), mtu);

    [Theory]
    [InlineData(10, 0, 0, true)]
    [InlineData(0, 50, 50, true)]
    [InlineData(20, 20, 20, true)]
    [InlineData(10, 0, 0, false)]
    [InlineData(0, 50, 50, false)]
    [InlineData(20, 20, 20, false)]
    public void TCP_62_differs_a_seeded_link_and_megabytes_stand_for_netem_and_10_GiB(
        int loss, int duplicate, int hold, bool toUs)
    {
        DisturbedLink? link = null;
        KernelPeer.Run(
            peer =>
            {
                if (toUs)
                {
                    SendToUs(peer, KernelPeer.OurIPv4, 4 << 20);
                }
                else
                {
                    SendToKernel(peer, "fd00::2", AddressFamily.InterNetworkV6, 4 << 20);
                }
            },
            disturb: tap => link = new DisturbedLink(tap, loss, duplicate, hold));
        Assert.InRange(link!.Disturbed, 20, long.MaxValue);
    }

    [Theory]
    [InlineData("loss 1%", 8 << 20)]
    [InlineData("delay 2ms 1ms reorder 5% duplicate 2%", 8 << 20)]
    [InlineData("delay 1ms loss 1% duplicate 1% corrupt 0.1%", 4 << 20)]
    public void A_disturbed_sender_of_the_kernel_is_received_byte_for_byte(string netem, int bytes) =>
        KernelPeer.Run(peer =>
        {
            peer.Disturb(netem);
            SendToUs(peer, KernelPeer.OurIPv4, bytes);
        });

    [Theory]
    [InlineData("loss 2%")]
    [InlineData("delay 2ms 1ms reorder 5% duplicate 2%")]
    public void Acknowledgements_of_the_kernel_may_be_disturbed(string netem) => KernelPeer.Run(peer =>
    {
        peer.Disturb(netem);
        SendToKernel(peer, "10.0.0.2", AddressFamily.InterNetwork, 8 << 20);
    });

    [Theory]
    [InlineData(KernelPeer.OurIPv4)]
    [InlineData(KernelPeer.OurIPv6)]
    public void The_kernel_connects_by_a_cookie_and_what_it_offered_comes_back_in_its_timestamp(string address)
    {
        (int, int, bool, bool) options = default;
        KernelPeer.Run(peer => options = OptionsOf(peer, address));
        KernelPeer.Run(
            peer =>
            {
                Assert.Equal(options, OptionsOf(peer, address));
                SendToUs(peer, address, 8 << 20);
                TcpStats stats = peer.Nic.Protocols.Tcp.Stats;
                (long sent, long accepted, long refused) = peer.Nic.Driver.WithToken(
                    () => (stats.CookiesSent, stats.CookiesAccepted, stats.CookiesRefused));
                Assert.InRange(sent, 2, 16); // and again, when the kernel was slow
                Assert.Equal((2, 0), (accepted, refused));
            },
            tcp: o => o with { SynCookies = SynCookieMode.Always });
    }

    private static (int Send, int Receive, bool HasSack, bool HasTimestamps) OptionsOf(KernelPeer peer, string address)
    {
        using DevmemListener listener = peer.Nic.Listen(Port);
        using Socket socket = KernelPeer.Connect(address, Port);
        socket.Send([1]); // so that a cookie that was lost on its way back is brought again
        DevmemConnection accepted = listener.AcceptAsync(peer.Patience.Token).AsTask().GetAwaiter().GetResult();
        TcpConnectionInfo info = accepted.GetInfo();
        accepted.Abort();
        return (info.SendWindowShift, info.ReceiveWindowShift, info.UsesSack, info.UsesTimestamps);
    }

    [Fact]
    public void The_kernel_answers_and_closes_as_it_should() => KernelPeer.Run(peer =>
    {
        using DevmemListener listener = peer.Nic.Listen(Port);
        Task<string> server = Task.Run(async () =>
        {
            await using DevmemConnection connection = await listener.AcceptAsync(peer.Patience.Token);
            byte[] linear = new byte[100];
            Devices.Ethernet.ReceiveResult asked =
                await connection.ReadAsync(linear, new Devices.Ethernet.DevmemFragment[1], peer.Patience.Token);
            await connection.WriteAsync(linear.AsMemory(0, asked.Bytes), peer.Patience.Token);
            (string hash, long rest) = await peer.HashAllAsync(connection);
            Assert.Equal(0, rest);
            connection.Shutdown();
            return hash;
        });
        using Socket socket = KernelPeer.Connect(KernelPeer.OurIPv4, Port);
        socket.Send("hello"u8);
        byte[] answer = new byte[100];
        Assert.Equal(5, socket.Receive(answer));
        Assert.Equal("hello"u8, answer.AsSpan(0, 5));
        socket.Shutdown(SocketShutdown.Send);
        Assert.Equal(0, socket.Receive(answer));
        server.GetAwaiter().GetResult();
    });

    [Fact]
    public void The_kernel_sees_a_closed_port_a_reset_and_an_echo() => KernelPeer.Run(peer =>
    {
        Assert.Equal(
            SocketError.ConnectionRefused,
            Assert.Throws<SocketException>(() => KernelPeer.Connect(KernelPeer.OurIPv6, 81)).SocketErrorCode);
        using (DevmemListener listener = peer.Nic.Listen(Port))
        {
            using Socket socket = KernelPeer.Connect(KernelPeer.OurIPv4, Port);
            DevmemConnection accepted = listener.AcceptAsync(peer.Patience.Token).AsTask().GetAwaiter().GetResult();
            accepted.Abort();
            Assert.Equal(
                SocketError.ConnectionReset,
                Assert.Throws<SocketException>(() => socket.Receive(new byte[1])).SocketErrorCode);
        }

        (int exit, string output) = KernelPeer.Execute(
            "python3",
            "-",
            """
            import socket, os, struct
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(5)
            s.connect(("10.0.0.1", 7))
            s.send(b"anybody there?")
            try:
                s.recv(100)
            except ConnectionRefusedError:
                print("refused")
            """);
        Assert.True(exit == 0 && output.Contains("refused", StringComparison.Ordinal), output);
    });

    private static void SendToUs(KernelPeer peer, string address, int bytes)
    {
        using DevmemListener listener = peer.Nic.Listen(Port);
        Task<(string Hash, long Bytes)> receiver = Task.Run(async () =>
        {
            await using DevmemConnection connection = await listener.AcceptAsync(peer.Patience.Token);
            return await peer.HashAllAsync(connection);
        });
        byte[] sent = KernelPeer.Noise(bytes, seed: 1);
        using Socket socket = KernelPeer.Connect(address, Port);
        for (int at = 0; at < bytes;)
        {
            at += socket.Send(sent.AsSpan(at));
        }

        socket.Shutdown(SocketShutdown.Send);
        (string hash, long received) = receiver.GetAwaiter().GetResult();
        Assert.Equal(bytes, received);
        Assert.Equal(Convert.ToHexString(SHA256.HashData(sent)), hash);
        Assert.Equal(0, socket.Receive(new byte[1]));
    }

    private static void SendToKernel(KernelPeer peer, string address, AddressFamily family, int bytes)
    {
        using Socket listener = new(family, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new System.Net.IPEndPoint(System.Net.IPAddress.Parse(address), Port));
        listener.Listen(1);
        byte[] sent = KernelPeer.Noise(bytes, seed: 2);
        Task sender = Task.Run(async () =>
        {
            await using DevmemConnection connection =
                await peer.Nic.ConnectAsync(KernelPeer.Address(address), Port, peer.Patience.Token);
            await connection.WriteAsync(sent, peer.Patience.Token);
            connection.Shutdown();
            await connection.FlushAsync(peer.Patience.Token);
        });
        using Socket socket = listener.Accept();
        socket.ReceiveTimeout = 60_000;
        byte[] received = new byte[bytes];
        int at = 0;
        for (int count = 1; at < bytes && count > 0;)
        {
            count = socket.Receive(received.AsSpan(at));
            at += count;
        }

        sender.GetAwaiter().GetResult();
        Assert.Equal(bytes, at);
        Assert.True(sent.AsSpan().SequenceEqual(received), "bytes differ");
        Assert.Equal(0, socket.Receive(new byte[1]));
    }
}
