using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using Wayleave.Cli.Output;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>Receptions of a running host: from the kernel's TCP into memory of its devices.</summary>
public sealed class NetReceiveTests
{
    private const ushort Port = 7480;
    private const int Queue = 2;

    private static readonly HostConfig s_withAccelerator = EthernetHost.Config with
    {
        Accelerators = [new AcceleratorConfig { MemoryBytes = 64 << 20 }],
    };

    [Theory]
    [InlineData(EthernetHost.OurIPv4)]
    [InlineData(EthernetHost.OurIPv6)]
    public void A_connection_is_hashed_where_it_lands_and_nothing_is_staged(string address) => EthernetHost.Run(host =>
    {
        byte[] sent = KernelPeer.Noise(8 << 20, seed: 1);
        using Reception reception = Reception.Open(host, new ReceiveRequest { Queue = Queue, Device = "gpu0" });
        SendAndClose(address, sent);
        ReceivedContent received = Assert.Single(reception.End());
        Assert.Equal(Hash(sent), received.Sha256);
        Assert.Equal(((ulong)sent.Length, 0UL, 0UL), (received.Bytes, received.LinearBytes, received.StagedBytes));
        Assert.InRange(received.Tokens, 1, long.MaxValue);
        Assert.Equal(0, host.Host.StagedBytes);
        Assert.Empty(host.Host.Objects.List()); // the bound memory went with it
        Assert.Empty(host.Host.Ethernets[0].Operations);
        Assert.Empty(host.Host.Ethernets[0].Nic.Device.Port.Steering.Rules.Rules);
    });

    [Fact]
    public void What_runs_on_a_NIC_is_a_row_of_top_until_it_ends() => EthernetHost.Run(host =>
    {
        using Reception reception = Reception.Open(host, new ReceiveRequest { Queue = Queue, Device = "gpu0" });
        ActivityDocument document = ActivityReports.Describe(host.Host);
        HolderDocument row = Assert.Single(document.Holders, h => h.Kind == HoldKind.Network);
        string nic = host.Host.Ethernets[0].Name;
        Assert.Equal((reception.Receive.What, nic, "", false), (row.Holder, row.Device, row.ObjectName, row.Ending));
        Assert.Contains(
            ActivityView.Render(document, null),
            l => l.StartsWith(reception.Receive.What, StringComparison.Ordinal)
                && l.Contains(" network ", StringComparison.Ordinal) && l.Contains(nic, StringComparison.Ordinal));
        SendAndClose(EthernetHost.OurIPv4, [1]);
        reception.End();
        Assert.DoesNotContain(ActivityReports.Describe(host.Host).Holders, h => h.Kind == HoldKind.Network);
    });

    [Theory]
    [InlineData(1)]
    [InlineData(4095)]
    [InlineData((5 << 20) + 1)]
    public void A_connection_becomes_an_object_put_together_by_the_gpu(int length) => EthernetHost.Run(host =>
    {
        byte[] sent = KernelPeer.Noise(length, seed: 2);
        using Reception reception = Reception.Open(host, new ReceiveRequest
        {
            Queue = Queue,
            Device = "gpu0",
            Name = "model",
            SizeBytes = (ulong)length,
        });
        SendAndClose(EthernetHost.OurIPv4, sent);
        ReceivedContent received = Assert.Single(reception.End());
        Assert.Equal((Hash(sent), "gpu0/model", 0UL), (received.Sha256, received.Target, received.StagedBytes));
        DeviceObject made = host.Host.Objects.Find("gpu0", "model")!;
        Assert.Equal(((ulong)length, Hash(sent)), (made.SizeBytes, made.Sha256));
        EthernetHost.Wait(
            async patience => Assert.Equal(Hash(sent), await host.Host.Objects.Sha256Async(made, patience)));
    });

    [Theory]
    [InlineData(10, "more than the 5 bytes", Errno.EFBIG)]
    [InlineData(3, "it ended after 3 of 5 bytes", Errno.ENODATA)]
    public void A_stream_of_another_length_than_was_said_leaves_no_object(int length, string why, Errno errno) =>
        EthernetHost.Run(host =>
        {
            using Reception reception = Reception.Open(host, new ReceiveRequest
            {
                Queue = Queue,
                Device = "gpu0",
                Name = "model",
                SizeBytes = 5,
            });
            SendAndClose(EthernetHost.OurIPv4, new byte[length]);
            WayleaveException e = reception.Fail();
            Assert.Equal(errno, e.Errno);
            Assert.Contains(why, e.Message, StringComparison.Ordinal);
            Assert.Empty(host.Host.Objects.List());
        });

    [Fact]
    public void Memory_of_an_accelerator_stays_with_the_NIC_and_its_owner_is_told_so() => EthernetHost.Run(
        host =>
        {
            byte[] sent = KernelPeer.Noise(1 << 20, seed: 3);
            using Reception reception = Reception.Open(host, new ReceiveRequest { Queue = Queue, Device = "accel0" });
            WayleaveException busy = Assert.Throws<WayleaveException>(
                () => host.Host.Leases.ThrowIfCannotBeTakenBack(reception.Receive.Buffer));
            Assert.Equal(Errno.EBUSY, busy.Errno);
            SendAndClose(EthernetHost.OurIPv4, sent);
            ReceivedContent received = Assert.Single(reception.End());
            Assert.Equal((Hash(sent), 0UL), (received.Sha256, received.StagedBytes));
        },
        s_withAccelerator);

    [Fact]
    public void By_itself_it_binds_as_Linux_does_and_memory_of_a_gpu_stays_with_the_nic() => EthernetHost.Run(host =>
    {
        byte[] sent = KernelPeer.Noise(1 << 20, seed: 4);
        using Reception reception = Reception.Open(host, new ReceiveRequest { Queue = Queue, Device = "gpu0" });
        Assert.Equal(
            (ImporterKind.Static, Core.Topology.PeerRoute.BusAddress),
            (reception.Receive.Binding.Kind, reception.Receive.Binding.Route));
        WayleaveException busy = Assert.Throws<WayleaveException>(
            () => host.Host.Leases.ThrowIfCannotBeTakenBack(reception.Receive.Buffer));
        Assert.Equal(Errno.EBUSY, busy.Errno);
        SendAndClose(EthernetHost.OurIPv4, sent);
        ReceivedContent received = Assert.Single(reception.End());
        Assert.Equal((Hash(sent), 0UL), (received.Sha256, received.StagedBytes));
        Assert.Equal(0, host.Host.StagedBytes);
        Assert.Empty(host.Host.Objects.List());
    });

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_owner_who_takes_the_memory_back_ends_the_reception_and_the_sender_learns_of_it(bool isConnected) =>
        EthernetHost.Run(host =>
        {
            using Reception reception = Reception.Open(
                host, new ReceiveRequest { Queue = Queue, Device = "gpu0", Kind = ImporterKind.PinnedRevocable });
            using Socket? socket = isConnected ? KernelPeer.Connect(EthernetHost.OurIPv4, Port) : null;
            if (socket is not null)
            {
                socket.Send(new byte[100_000]);
                reception.WaitForBytes();
            }

            EthernetHost.Wait(async _ =>
            {
                RetirementProof proof = await host.Host.Objects.RevokeAsync(
                    reception.Receive.Buffer, new RevokePolicy { Timeout = Patience.Max });
                Assert.True(proof.IsSufficient, proof.Cause.ToString());
            });
            WayleaveException e = reception.Fail();
            Assert.Equal(Errno.ENODEV, e.Errno);
            Assert.Contains("gpu0/nic0-rx2 was taken back by its owner", e.Message, StringComparison.Ordinal);
            if (socket is not null)
            {
                Assert.ThrowsAny<SocketException>(() =>
                {
                    while (socket.Send(new byte[4096]) > 0)
                    {
                    }
                });
            }

            Assert.Empty(host.Host.Objects.List());
        });

    [Theory]
    [InlineData("nic0", "nic0 was pulled out")]
    [InlineData("gpu0", "gpu0 was pulled out")]
    public void Who_pulls_the_nic_or_the_gpu_out_ends_it(string device, string why) => EthernetHost.Run(host =>
    {
        using Reception reception = Reception.Open(host, new ReceiveRequest { Queue = Queue, Device = "gpu0" });
        using Socket socket = KernelPeer.Connect(EthernetHost.OurIPv4, Port);
        socket.Send(new byte[100_000]);
        reception.WaitForBytes();
        Task<RemovalResult> removal = Task.Run(() => new DeviceRemoval(host.Host)
            .RunAsync(device, new RemovalRequest(IsSurprise: true, Patience.Max)));
        Assert.Contains(why, reception.Fail().Message, StringComparison.Ordinal);
        Assert.Empty(removal.GetAwaiter().GetResult().Late);
    });

    [Fact]
    public void What_cannot_be_is_refused_with_the_reason_and_leaves_nothing() => EthernetHost.Run(host =>
    {
        ReceiveRequest good = new() { Queue = Queue, Device = "gpu0" };
        Assert.Contains("RSS spreads flows over queue 0", Refuse(host, good with { Queue = 0 }), Ordinal);
        Assert.Contains("queues 0 to 3, and no queue 9", Refuse(host, good with { Queue = 9 }), Ordinal);
        Assert.Contains("it is no address of nic0", Refuse(host, good with { Address = Ip("10.0.0.9") }), Ordinal);
        Assert.Contains("this host has no such device", Refuse(host, good with { Device = "gpu9" }), Ordinal);
        Assert.Contains("no positive multiple", Refuse(host, good with { BufferBytes = 4097 }), Ordinal);
        Assert.Contains("needs a size", Refuse(host, good with { Name = "x" }), Ordinal);
        Assert.Empty(host.Host.Objects.List());
        using Reception first = Reception.Open(host, good);
        Assert.Contains("gpu0/nic0-rx2 exists already", Refuse(host, good), Ordinal);
        Assert.Contains(
            "queue 2 is bound to nic0 binding", Refuse(host, good with { BufferName = "b", Port = 7481 }), Ordinal);
        Assert.Contains(
            "the address is in use", Refuse(host, good with { BufferName = "b", Queue = 3 }), Ordinal);
        Assert.Single(host.Host.Objects.List());
        Assert.Contains(
            "accel0 has no revocable memory",
            Refuse(host, good with { Device = "accel0", Kind = ImporterKind.PinnedRevocable, Queue = 3 }),
            Ordinal);
        first.Give();
        Assert.Empty(host.Host.Objects.List());
        Assert.Empty(host.Host.Ethernets[0].Nic.Device.Port.Steering.Rules.Rules);
    }, s_withAccelerator);

    [Fact]
    public void An_upload_gets_201_and_the_next_of_its_name_200() => EthernetHost.Run(host =>
    {
        byte[] sent = KernelPeer.Noise(3 << 20, seed: 5);
        using Reception reception = Reception.Open(host, Http);
        string head = $"PUT /a%2Db HTTP/1.1\r\nHost: x\r\nContent-Length: {sent.Length}\r\n";
        Assert.StartsWith("HTTP/1.1 201 Created\r\n", Ask($"{head}\r\n", sent), Ordinal);
        Assert.StartsWith(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
            Ask($"{head}Expect: 100-continue\r\n\r\n", sent),
            Ordinal);
        ReceivedContent[] received = reception.Stop();
        Assert.Equal(2, received.Length);
        Assert.All(received, r => Assert.Equal((Hash(sent), "gpu0/a-b", 0UL), (r.Sha256, r.Target, r.StagedBytes)));
        Assert.All(received, r => Assert.InRange(r.HeadBytes, (ulong)head.Length, (ulong)head.Length + 256));
        Assert.Equal(Hash(sent), host.Host.Objects.Find("gpu0", "a-b")!.Sha256);
    });

    [Theory]
    [InlineData("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "405 Method Not Allowed")]
    [InlineData("PUT /x HTTP/1.1\r\nHost: x\r\n\r\n", "411 Length Required")]
    [InlineData("PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "411 Length Required")]
    [InlineData("PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "422 Unprocessable Content")]
    [InlineData("PUT /a/b HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", "404 Not Found")]
    [InlineData("PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx", "507 Insufficient Storage")]
    [InlineData("PUT /x HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "400 Bad Request")]
    [InlineData("PUT /x HTTP/2.0\r\nHost: x\r\n\r\n", "505 HTTP Version Not Supported")]
    [InlineData("\0\0\0\r\n\r\n", "400 Bad Request")]
    public void A_request_that_makes_no_object_is_answered_in_words(string request, string status) =>
        EthernetHost.Run(host =>
        {
            using Reception reception = Reception.Open(host, Http);
            Assert.StartsWith($"HTTP/1.1 {status}\r\n", Ask(request, []), Ordinal);
            Assert.Empty(reception.Stop());
            Assert.Equal(int.Parse(status[..3], null), Assert.Single(reception.Refused).Status);
        });

    [Fact]
    public void An_upload_replaces_no_object_that_came_otherwise_and_not_the_bound_memory() => EthernetHost.Run(host =>
    {
        DeviceObject kept = host.MakeObject([1, 2, 3]);
        using Reception reception = Reception.Open(host, Http);
        foreach (string name in (string[])["out", "nic0-rx2"])
        {
            string answer = Ask($"PUT /{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", []);
            Assert.StartsWith("HTTP/1.1 409 Conflict\r\n", answer, Ordinal);
        }

        Assert.Empty(reception.Stop());
        Assert.Same(kept, host.Host.Objects.Find("gpu0", "out"));
    });

    [Fact]
    public void A_head_without_end_is_refused_and_one_in_single_bytes_is_read() => EthernetHost.Run(host =>
    {
        using Reception reception = Reception.Open(host, Http);
        Assert.StartsWith("HTTP/1.1 431 ", Ask("PUT /" + new string('x', 20_000), []), Ordinal);
        using Socket socket = KernelPeer.Connect(EthernetHost.OurIPv4, Port);
        socket.NoDelay = true;
        foreach (byte b in "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"u8.ToArray())
        {
            socket.Send([b]);
        }

        Assert.StartsWith("HTTP/1.1 201 Created\r\n", ReadAll(socket), Ordinal);
        Assert.Equal(Hash("abc"u8.ToArray()), Assert.Single(reception.Stop()).Sha256);
    });

    [Fact]
    public void A_sender_that_leaves_in_the_middle_leaves_no_object_and_the_others_go_on() => EthernetHost.Run(host =>
    {
        using Reception reception = Reception.Open(host, Http);
        using (Socket socket = KernelPeer.Connect(EthernetHost.OurIPv4, Port))
        {
            socket.Send("PUT /half HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"u8);
        }

        Assert.StartsWith(
            "HTTP/1.1 201 ", Ask("PUT /whole HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", []), Ordinal);
        reception.WaitForRefusal();
        reception.Stop();
        Assert.Equal(["gpu0/whole"], host.Host.Objects.List().Select(o => o.ToString()));
    });

    private const StringComparison Ordinal = StringComparison.Ordinal;

    private static ReceiveRequest Http => new() { Queue = Queue, Device = "gpu0", IsHttp = true };

    private static string Refuse(EthernetHost host, ReceiveRequest request) => Assert.Throws<WayleaveException>(
        () => NetReceive.OpenAsync(host.Host, host.Host.Ethernets[0], request).GetAwaiter().GetResult()).Message;

    private static Devices.Ethernet.Wire.IpAddress Ip(string text) => KernelPeer.Address(text);

    private static string Hash(byte[] bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    private static void SendAndClose(string address, byte[] bytes)
    {
        using Socket socket = KernelPeer.Connect(address, Port);
        socket.SendAll(bytes);
        socket.Shutdown(SocketShutdown.Send);
        ReadAll(socket);
    }

    private static string Ask(string head, byte[] content)
    {
        using Socket socket = KernelPeer.Connect(EthernetHost.OurIPv4, Port);
        socket.SendAll(Encoding.ASCII.GetBytes(head));
        socket.SendAll(content);
        return ReadAll(socket);
    }

    // To the end, whichever it is.
    private static string ReadAll(Socket socket)
    {
        StringBuilder text = new();
        byte[] buffer = new byte[4096];
        try
        {
            for (int count; (count = socket.Receive(buffer)) > 0;)
            {
                text.Append(Encoding.UTF8.GetString(buffer, 0, count));
            }
        }
        catch (SocketException)
        {
            text.Append("(reset)");
        }

        return text.ToString();
    }

    /// <summary>A reception that runs beside the test.</summary>
    private sealed class Reception : IDisposable
    {
        private readonly List<ReceivedContent> _received = [];
        private readonly CancellationTokenSource _stop = new(Patience.Max);
        private readonly TaskCompletionSource _refusal = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private readonly Task _run;

        private Reception(NetReceive receive)
        {
            Receive = receive;
            _run = Task.Run(RunAsync);
        }

        public NetReceive Receive { get; }

        public List<RefusedRequest> Refused { get; } = [];

        public static Reception Open(EthernetHost host, ReceiveRequest request) =>
            new(NetReceive.OpenAsync(host.Host, host.Host.Ethernets[0], request).GetAwaiter().GetResult());

        public ReceivedContent[] End()
        {
            _run.GetAwaiter().GetResult();
            return [.. _received];
        }

        public WayleaveException Fail() => Assert.Throws<WayleaveException>(() => _run.GetAwaiter().GetResult());

        public ReceivedContent[] Stop()
        {
            Give();
            return [.. _received];
        }

        public void Give()
        {
            _stop.Cancel();
            Assert.ThrowsAny<OperationCanceledException>(() => _run.GetAwaiter().GetResult());
        }

        public void WaitForBytes()
        {
            while (Receive.Bytes == 0 && !_stop.IsCancellationRequested)
            {
                Thread.Yield();
            }
        }

        public void Dispose() => _stop.Dispose();

        public void WaitForRefusal() => _refusal.Task.Wait(_stop.Token);

        private async Task RunAsync()
        {
            await using (Receive)
            {
                await Receive.RunAsync(
                    received =>
                    {
                        _received.Add(received);
                        return Task.CompletedTask;
                    },
                    refused =>
                    {
                        Refused.Add(refused);
                        _refusal.TrySetResult();
                        return Task.CompletedTask;
                    },
                    _stop.Token);
            }
        }
    }
}
