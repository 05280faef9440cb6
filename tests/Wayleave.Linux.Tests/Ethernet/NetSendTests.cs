using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Host;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>Sends of a running host: from memory of its devices to the kernel's TCP.</summary>
public sealed class NetSendTests
{
    private const string Receiver = "10.0.0.2";
    private const ushort Port = 9000;
    private const int MoreThanTheWindow = 32 << 20;

    [Fact]
    public void An_object_is_sent_from_device_memory_and_is_free_when_it_is_acknowledged() => EthernetHost.Run(host =>
    {
        byte[] content = KernelPeer.Noise(1_000_001, seed: 6);
        using Transfer transfer = new(host, content);
        using MemoryStream received = new();
        byte[] buffer = new byte[1 << 16];
        for (int count; (count = transfer.Socket.Receive(buffer)) > 0;)
        {
            received.Write(buffer, 0, count);
        }

        SentContent sent = transfer.End();
        Assert.Equal(Hash(content), Hash(received.ToArray()));
        Assert.Equal(((ulong)content.Length, Hash(content)), (sent.Bytes, sent.Sha256));
        Assert.Equal(0, host.Host.StagedBytes);
        EthernetHost.Wait(async _ => Assert.True(
            (await host.Host.Objects.RevokeAsync(transfer.Object, new RevokePolicy())).IsSufficient));
    });

    [Fact]
    public void An_object_that_is_taken_back_while_it_is_sent_resets_the_peer() => EthernetHost.Run(host =>
    {
        using Transfer transfer = new(host, KernelPeer.Noise(MoreThanTheWindow, seed: 7));
        transfer.WaitForByte();
        RevokePolicy policy = new() { Timeout = Patience.Max };
        EthernetHost.Wait(async _ => Assert.True(
            (await host.Host.Objects.RevokeAsync(transfer.Object, policy)).IsSufficient));
        transfer.ReadUntilReset();
        WayleaveException e = Assert.Throws<WayleaveException>(transfer.End);
        Assert.Equal(Errno.ENODEV, e.Errno);
        Assert.Contains("gpu0/out was taken back by its owner", e.Message, StringComparison.Ordinal);
    });

    [Fact]
    public void A_send_that_meets_a_gpu_that_left_before_it_is_told_says_so_and_blames_no_peer() =>
        EthernetHost.Run(host =>
        {
            using Transfer transfer = new(host, KernelPeer.Noise(MoreThanTheWindow, seed: 8));
            transfer.WaitForByte();
            Assert.True(transfer.Object.Owner.Presence.TryLeave());
            using (host.Host.Context.Enter())
            {
                host.Host.Fabric.Unplug(transfer.Object.Owner.Function);
            }

            transfer.ReadUntilReset();
            WayleaveException e = Assert.Throws<WayleaveException>(transfer.End);
            Assert.Equal(Errno.ENODEV, e.Errno);
            Assert.StartsWith("send gpu0/out by nic0: gpu0 was pulled out", e.Message, StringComparison.Ordinal);
        });

    private static string Hash(byte[] bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    /// <summary>A send under way, to a socket of the kernel that nobody reads but the test.</summary>
    private sealed class Transfer : IDisposable
    {
        private readonly Task<SentContent> _sending;

        public Transfer(EthernetHost host, byte[] content)
        {
            Object = host.MakeObject(content);
            using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            listener.ReceiveBufferSize = 64 << 10;
            listener.Bind(new IPEndPoint(IPAddress.Parse(Receiver), Port));
            listener.Listen();
            _sending = Task.Run(async () =>
            {
                await using NetSend send = new(host.Host, host.Host.Ethernets[0], Object, isTemporary: false);
                return await send.RunAsync(KernelPeer.Address(Receiver), Port, CancellationToken.None);
            });
            Socket = listener.Accept();
        }

        public DeviceObject Object { get; }

        public Socket Socket { get; }

        public SentContent End() => _sending.GetAwaiter().GetResult();

        public void WaitForByte() => Assert.InRange(Socket.Receive(new byte[1]), 1, 1);

        public void ReadUntilReset()
        {
            byte[] buffer = new byte[1 << 16];
            Assert.ThrowsAny<SocketException>(() =>
            {
                while (Socket.Receive(buffer) > 0)
                {
                }
            });
        }

        public void Dispose() => Socket.Dispose();
    }
}
