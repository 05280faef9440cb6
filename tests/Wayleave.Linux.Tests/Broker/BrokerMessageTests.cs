using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Messages that make no sense: they end their connection, and nothing else.</summary>
public sealed class BrokerMessageTests : BrokerTest
{
    [Fact]
    public void A_message_reads_as_it_was_written()
    {
        byte[] buffer = new byte[BrokerMessage.BytesMax];
        BrokerWriter writer = BrokerMessage.Begin(
            buffer, new BrokerHeader(BrokerOperation.Allocate, IsAnswer: false, Errno.Success, 7));
        writer.WriteUInt32(1);
        writer.WriteUInt64(ulong.MaxValue);
        writer.WriteName("kv-cache é");
        Assert.True(BrokerMessage.TryRead(writer.Finish(), out BrokerHeader header, out BrokerReader body));
        Assert.Equal((BrokerOperation.Allocate, false, 7UL), (header.Operation, header.IsAnswer, header.Tag));
        Assert.True(body.TryReadUInt32(out uint one) && body.TryReadUInt64(out ulong all) && all == ulong.MaxValue);
        Assert.True(body.TryReadName(out string name) && body.IsEnd);
        Assert.Equal((1u, "kv-cache é"), (one, name));
        Assert.False(body.TryReadUInt32(out _));
    }

    [Theory]
    [InlineData(0, 0x56)] // the magic
    [InlineData(4, 0x55)] // the length
    [InlineData(10, 2)] // unknown flags
    [InlineData(12, 1)] // a request with an errno
    public void A_head_that_is_wrong_is_no_message(int offset, byte value)
    {
        byte[] message = Hello();
        message[offset] = value;
        Assert.False(BrokerMessage.TryRead(message, out _, out _));
    }

    [Fact]
    public void A_program_that_reads_no_answers_is_cut_off()
    {
        using BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        using MessageSocket socket = MessageSocket.Connect(Server.SocketPath);
        socket.Send(Hello(), []);
        byte[] buffer = new byte[128];
        Errno errno = Errno.Success;
        for (int i = 0; i < 100_000 && errno == Errno.Success; i++)
        {
            BrokerWriter writer = BrokerMessage.Begin(
                buffer, new BrokerHeader(BrokerOperation.Describe, IsAnswer: false, Errno.Success, 1));
            writer.WriteUInt32(7); // no buffer of its own: refused, with a text
            errno = socket.Send(writer.Finish(), []);
        }

        Assert.True(errno is Errno.EPIPE or Errno.ECONNRESET, $"{errno}");
        other.OpenDevice("gpu0").Allocate("x", 4096).Dispose();
    }

    [Theory]
    [InlineData(200, 1)]
    [InlineData(200, 2)]
    [InlineData(200, 3)]
    public void Whatever_is_sent_the_host_lives_and_serves_others(int connections, int seed)
    {
        using BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        using ClientBuffer buffer = other.OpenDevice("gpu0").Allocate("kept", 4096);
        ulong before = UsedBytes();
        Random random = new(seed);
        for (int i = 0; i < connections; i++)
        {
            using MessageSocket socket = MessageSocket.Connect(Server.SocketPath);
            byte[] answer = new byte[BrokerMessage.BytesMax];
            Converse(socket, Hello(newest: (uint)random.Next(1, 3)));

            // Numbers 1 to 6 mean something, so that what comes gets past the first look.
            Converse(socket, Request(BrokerOperation.OpenDevice, w => w.Name("gpu0")));
            Converse(socket, Request(BrokerOperation.OpenDevice, w => w.Name("rdma0")));
            Converse(socket, Request(BrokerOperation.Allocate, w => w.Number(1).Number(0).Long(4096).Name("fuzz")));
            Converse(socket, Request(BrokerOperation.OpenTimeline, w => w.Name("fuzz")));
            Converse(socket, Request(BrokerOperation.CreateQueuePair, w => w.Number(2)));
            Converse(socket, Request(BrokerOperation.Attach, w => w.Number(3)));
            for (int n = random.Next(1, 8); n > 0; n--)
            {
                byte[] message = random.Next(4) == 0 ? GarbleWork(random) : Garble(random);
                using HandlePair? pair = random.Next(4) == 0 ? HandlePair.Create() : null;
                if (socket.Send(message, pair is null ? [] : [pair.Given]) != Errno.Success
                    || socket.Receive(answer, out int length, out FileDescriptor[] received) != Errno.Success
                    || length == 0)
                {
                    break;
                }

                Array.ForEach(received, r => r.Dispose());
                Assert.True(BrokerMessage.TryRead(answer.AsSpan(0, length), out BrokerHeader header, out _));
                Assert.True(header.IsAnswer);
            }
        }

        Assert.Equal("kept", buffer.Name);
        Assert.False(buffer.Describe().IsRevoked);
        Assert.Empty(Host.GetViolations());
        Assert.True(UsedBytes() >= before);
    }

    [Theory]
    [InlineData(1, 1, 1)]
    [InlineData(1, 2, 2)]
    [InlineData(2, 2, 2)]
    [InlineData(2, 99, 2)]
    [InlineData(0, 1, 1)]
    [InlineData(3, 9, null)]
    [InlineData(0, 0, null)]
    public void The_newest_version_that_both_speak_is_agreed_on(uint oldest, uint newest, int? agreed)
    {
        using MessageSocket socket = MessageSocket.Connect(Server.SocketPath);
        (Errno errno, byte[] body) = Ask(socket, Hello(oldest, newest));
        Assert.Equal(agreed is null ? Errno.EPROTO : Errno.Success, errno);
        if (agreed is { } version)
        {
            Assert.Equal(BitConverter.GetBytes(version), body);
        }
    }

    // Each version has its own body, and the length says which is meant.
    [Theory]
    [InlineData(1, false, 0, true)]
    [InlineData(1, true, 1, false)]
    [InlineData(2, true, 0, true)]
    [InlineData(2, true, 1, true)]
    [InlineData(2, true, 2, false)]
    [InlineData(2, true, uint.MaxValue, false)]
    [InlineData(2, false, 0, false)]
    public void A_queue_has_an_engine_from_version_2_on_and_another_body_ends_the_connection(
        uint version, bool hasEngine, uint engine, bool isServed)
    {
        using MessageSocket socket = MessageSocket.Connect(Server.SocketPath);
        Converse(socket, Hello(version, version));
        Converse(socket, Request(BrokerOperation.OpenDevice, w => w.Name("gpu0")));
        byte[] open = Request(BrokerOperation.OpenQueue, w =>
        {
            w.Number(1).Number(4);
            _ = hasEngine ? w.Number(engine) : w;
            w.Name("q");
        });
        if (isServed)
        {
            Converse(socket, open);
            return;
        }

        Assert.Equal(Errno.Success, socket.Send(open, []));
        Errno errno = socket.Receive(new byte[256], out int length, out _);
        Assert.True(errno != Errno.Success || length == 0);
    }

    private static (Errno Errno, byte[] Body) Ask(MessageSocket socket, byte[] request)
    {
        byte[] answer = new byte[BrokerMessage.BytesMax];
        Assert.Equal(Errno.Success, socket.Send(request, []));
        Assert.Equal(Errno.Success, socket.Receive(answer, out int length, out _));
        Assert.True(BrokerMessage.TryRead(answer.AsSpan(0, length), out BrokerHeader header, out _));
        return (header.Errno, answer[BrokerMessage.HeaderBytes..length]);
    }

    private static void Converse(MessageSocket socket, byte[] request) =>
        Assert.Equal(Errno.Success, Ask(socket, request).Errno);

    private static byte[] Request(BrokerOperation operation, Action<Fields> write)
    {
        Fields fields = new();
        write(fields);
        byte[] buffer = new byte[256];
        BrokerWriter writer = BrokerMessage.Begin(
            buffer, new BrokerHeader(operation, IsAnswer: false, Errno.Success, 1));
        writer.WriteBytes(fields.Bytes.ToArray());
        return writer.Finish().ToArray();
    }

    private static byte[] Hello(uint oldest = 1, uint newest = BrokerMessage.Version)
    {
        byte[] buffer = new byte[128];
        BrokerWriter writer = BrokerMessage.Begin(
            buffer, new BrokerHeader(BrokerOperation.Hello, IsAnswer: false, Errno.Success, 1));
        writer.WriteUInt32(oldest);
        writer.WriteUInt32(newest);
        writer.WriteName("fuzz");
        return writer.Finish().ToArray();
    }

    // A message that is right but for its body; or one with wrong bytes anywhere, cut short or too long.
    private static byte[] Garble(Random random)
    {
        byte[] buffer = new byte[256];
        int operation = random.Next(10) == 0 ? random.Next(30, 56) : random.Next(30);
        BrokerWriter writer = BrokerMessage.Begin(buffer, new BrokerHeader(
            (BrokerOperation)operation, IsAnswer: false, Errno.Success, (ulong)random.NextInt64()));
        for (int n = random.Next(0, 5); n > 0; n--)
        {
            switch (random.Next(3))
            {
                case 0:
                    writer.WriteUInt32((uint)random.Next(0, 4));
                    break;
                case 1:
                    writer.WriteUInt64((ulong)random.NextInt64());
                    break;
                default:
                    writer.WriteName(random.Next(2) == 0 ? "gpu0" : "x");
                    break;
            }
        }

        byte[] message = writer.Finish().ToArray();
        switch (random.Next(4))
        {
            case 0:
                message[random.Next(message.Length)] ^= (byte)random.Next(1, 256);
                break;
            case 1:
                message = message[..random.Next(1, message.Length)];
                break;
        }

        return message;
    }

    // About queues, queue pairs, rings and attachments: each field its own, right or not, which chance alone would
    // hardly bring together.
    private static byte[] GarbleWork(Random random)
    {
        byte[] message = random.Next(11) switch
        {
            9 => Request(BrokerOperation.OpenQueue, w => w.Number(1).Number(1u << (2 * random.Next(0, 3)))
                .Number((uint)random.Next(0, 3)).Name("q")),
            10 => Request(BrokerOperation.Submit, w => w.Number(7).Number((uint)random.Next(0, 16)).Number(0)
                .Long((ulong)random.NextInt64()).Long(0).Long(0).Long(64).Long(0).Long(0).Long(0)),
            0 => Request(BrokerOperation.PostReceive, w => w.Number(5).Long(7).Long(0).Number(4096).Number(1)),
            1 => Request(BrokerOperation.TakeCompletions, w => w.Number(5).Number((uint)random.Next(0, 2))),
            2 => Request(BrokerOperation.OpenRing, w => w.Number(1).Number(1u << random.Next(0, 14))),
            3 => Request(BrokerOperation.ExportRingFence, w => w.Number(7).Long(0)),
            4 => Request(BrokerOperation.ConnectQueuePair, w => w.Number(5).Long(0).Long(0x0100_007F_FFFF_0000)
                .Number((uint)random.Next(1, 65536)).Number(77).Number(1).Number(4096).Number(0)),
            5 => Request(BrokerOperation.Attach, w => w.Number(3)),
            6 => Request(BrokerOperation.MapAttachment, w => w.Number(6)),
            7 => Request(BrokerOperation.Release, w => w.Number(6)),
            _ => Request(BrokerOperation.PostSend, w => w.Number(5).Number((uint)random.Next(0, 8))
                .Number((uint)random.Next(0, 9)).Number(0).Long(1).Long(0).Number(0).Number(0).Long(0).Long(0)
                .Long(0).Number(4096).Number(1)),
        };
        if (random.Next(3) == 0)
        {
            message[random.Next(BrokerMessage.HeaderBytes, message.Length)] ^= (byte)random.Next(1, 256);
        }

        return message;
    }

    private sealed class Fields
    {
        public List<byte> Bytes { get; } = [];

        public Fields Number(uint value)
        {
            Bytes.AddRange(BitConverter.GetBytes(value));
            return this;
        }

        public Fields Long(ulong value)
        {
            Bytes.AddRange(BitConverter.GetBytes(value));
            return this;
        }

        public Fields Name(string name)
        {
            Bytes.AddRange(System.Text.Encoding.UTF8.GetBytes(name.PadRight(BrokerMessage.NameBytes, '\0')));
            return this;
        }
    }
}
