using System.IO.Pipelines;
using System.Net.Sockets;
using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Host;
using Wayleave.Host.Ethernet;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>Code that wants host memory reads what has landed in device memory.</summary>
public sealed class DevmemPipeTests
{
    private const ushort Port = 7480;

    [Fact]
    public void A_pipe_reader_sees_every_byte_in_order_and_each_is_counted_as_staged() => EthernetHost.Run(host =>
    {
        byte[] sent = KernelPeer.Noise(3_000_001, seed: 8);
        EthernetHandle handle = host.Host.Ethernets[0];
        ReceiveRequest request = new() { Queue = 2, Device = "gpu0", Port = 7481 };
        NetReceive bound = NetReceive.OpenAsync(host.Host, handle, request).GetAwaiter().GetResult();
        handle.Nic.Driver.WithToken(() => Assert.Equal(
            Errno.Success,
            handle.Nic.Device.Port.Steering.InsertRule(FlowRule.ForPort(FlowType.TcpIPv4, Port, 2), out _)));
        using DevmemListener listener = handle.Nic.Listen(Port);
        using Socket socket = KernelPeer.Connect(EthernetHost.OurIPv4, Port);
        Task<string> reading = Task.Run(() => ReadAsync(host.Host, listener, bound, sent.Length));
        socket.SendAll(sent);
        socket.Shutdown(SocketShutdown.Send);
        Assert.Equal(Convert.ToHexString(SHA256.HashData(sent)), reading.GetAwaiter().GetResult());
        Assert.Equal(sent.Length, host.Host.StagedBytes);
    });

    private static async Task<string> ReadAsync(
        WayleaveHost host, DevmemListener listener, NetReceive bound, int length)
    {
        CancellationToken patience = TestContext.Current.CancellationToken;
        await using (bound)
        {
            await using DevmemConnection connection = await listener.AcceptAsync(patience);
            await using DevmemPipe pipe = new(host, connection, bound.Buffer);
            using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            while (true)
            {
                ReadResult read = await pipe.Reader.ReadAsync(patience);
                foreach (ReadOnlyMemory<byte> part in read.Buffer)
                {
                    hash.AppendData(part.Span);
                }

                pipe.Reader.AdvanceTo(read.Buffer.End);
                if (read.IsCompleted)
                {
                    Assert.Equal((length, 0L), (pipe.StagedBytes, connection.GetReceived().Copied));
                    return Convert.ToHexString(hash.GetHashAndReset());
                }
            }
        }
    }
}
