using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Host.Broker;
using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>
/// Messages 48 to 51, of programs with a device of their own, as no client of ours would send them: what is refused,
/// what ends the connection, and what is on the account at the end.
/// </summary>
public sealed class ImporterMessageTests : BrokerTest
{
    private const uint Gpu = 1, Buffer = 2, Attachment = 3; // numbers of each connection

    public static TheoryData<ushort, int, bool> Bodies()
    {
        TheoryData<ushort, int, bool> bodies = [];
        foreach (BrokerOperation operation in (BrokerOperation[])
            [BrokerOperation.Attach, BrokerOperation.MapAttachment, BrokerOperation.Release])
        {
            foreach (int lengthBytes in (int[])[0, 3, 5, 8, 4096])
            {
                bodies.Add((ushort)operation, lengthBytes, false);
            }

            bodies.Add((ushort)operation, sizeof(uint), true); // right, but for a descriptor that nobody asked for
        }

        bodies.Add((ushort)BrokerOperation.Invalidated, 0, false); // that is the host's to say
        bodies.Add((ushort)BrokerOperation.Invalidated, 8, false);
        return bodies;
    }

    [Theory]
    [MemberData(nameof(Bodies))]
    public async Task A_body_that_is_not_that_of_the_message_ends_the_connection_and_nothing_stays_on_the_account(
        ushort operation, int lengthBytes, bool withDescriptor)
    {
        using (MessageSocket socket = Connect())
        {
            Attach(socket);
            Assert.Equal(Errno.Success, Ask(socket, BrokerOperation.MapAttachment, Attachment).Errno);
            byte[] body = new byte[lengthBytes];
            if (lengthBytes >= sizeof(uint))
            {
                body[0] = operation == (ushort)BrokerOperation.Attach ? (byte)Buffer : (byte)Attachment;
            }

            using HandlePair? pair = withDescriptor ? HandlePair.Create() : null;
            Send(socket, (BrokerOperation)operation, body, pair is null ? [] : [pair.Given]);
            Assert.True(HasEnded(socket));
        }

        await ExpectNothingAsync();
    }

    [Fact]
    public async Task A_number_that_is_no_attachment_of_the_connection_is_refused_and_the_connection_goes_on()
    {
        using (MessageSocket one = Connect(), other = Connect())
        {
            uint foreign = 0;
            Attach(one);
            for (int i = 0; i < 4; i++)
            {
                foreign = Ask(one, BrokerOperation.Attach, Buffer).Number;
            }

            Assert.Equal(Errno.Success, Ask(one, BrokerOperation.MapAttachment, foreign).Errno);
            uint[] wrong = [0, Gpu, Buffer, Attachment, foreign, 0x7FFF_FFFF, uint.MaxValue];
            foreach (uint number in wrong)
            {
                Assert.Equal(Errno.EBADF, Ask(other, BrokerOperation.MapAttachment, number).Errno);
                Assert.Equal(Errno.EBADF, Ask(other, BrokerOperation.Release, number).Errno);
                if (number != Buffer)
                {
                    Assert.Equal(Errno.EBADF, Ask(other, BrokerOperation.Attach, number).Errno);
                }
            }

            Assert.Equal(Errno.EBADF, Ask(one, BrokerOperation.Attach, foreign).Errno); // an attachment is no buffer
            Assert.Equal(Errno.EBADF, Ask(one, BrokerOperation.Map, foreign).Errno);
            Assert.Equal(Errno.EBADF, Ask(one, BrokerOperation.Export, foreign).Errno);
            Assert.Equal(Errno.Success, Ask(one, BrokerOperation.Release, foreign).Errno);
            Attach(other);
        }

        await ExpectNothingAsync();
    }

    [Fact]
    public async Task Map_and_release_are_taken_in_turn_and_a_number_that_was_closed_is_gone()
    {
        using (MessageSocket socket = Connect())
        {
            Attach(socket);
            Assert.Equal(Errno.EINVAL, Ask(socket, BrokerOperation.Release, Attachment).Errno);
            for (int i = 0; i < 3; i++)
            {
                Assert.Equal(Errno.Success, Ask(socket, BrokerOperation.MapAttachment, Attachment).Errno);
                Assert.Equal(Errno.EBUSY, Ask(socket, BrokerOperation.MapAttachment, Attachment).Errno);
                Assert.Equal(1, Of(BrokerAccount.Mappings));
                Assert.Equal(Errno.Success, Ask(socket, BrokerOperation.Release, Attachment).Errno);
                Assert.Equal(Errno.EINVAL, Ask(socket, BrokerOperation.Release, Attachment).Errno);
                await UntilAsync("the kernel says that nobody has the pages", () => Of(BrokerAccount.Mappings) == 0);
            }

            // The buffer's number may go first; who closes what is mapped has let go of it.
            Assert.Equal(Errno.Success, Ask(socket, BrokerOperation.Close, Buffer).Errno);
            Assert.Equal(Errno.Success, Ask(socket, BrokerOperation.MapAttachment, Attachment).Errno);
            Assert.Equal(Errno.Success, Ask(socket, BrokerOperation.Close, Attachment).Errno);
            Assert.Equal(Errno.EBADF, Ask(socket, BrokerOperation.Close, Attachment).Errno);
            Assert.Equal(Errno.EBADF, Ask(socket, BrokerOperation.MapAttachment, Attachment).Errno);
            Assert.Equal(Errno.EBADF, Ask(socket, BrokerOperation.Release, Attachment).Errno);
            await UntilAsync("its memory is free", () => Of(BrokerAccount.Bytes) == 0);
        }

        await ExpectNothingAsync();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task An_attachment_of_a_buffer_that_was_taken_back_says_ENODEV_however_often_it_is_asked(bool isMapped)
    {
        using (BrokerClient owner = BrokerClient.Connect(Server.SocketPath, "owner"))
        using (MessageSocket socket = Connect())
        {
            using ClientBuffer buffer = owner.OpenDevice("gpu0").Allocate("lent", 8192, ClientStorage.Movable);
            using FileDescriptor descriptor = buffer.Export();
            uint number = Import(socket, descriptor);
            uint attachment = Ask(socket, BrokerOperation.Attach, number).Number;
            if (isMapped)
            {
                Assert.Equal(Errno.Success, Ask(socket, BrokerOperation.MapAttachment, attachment).Errno);
            }

            Task<string> revoking = Task.Run(() => buffer.Revoke(Patience.Max), Cancellation);
            Assert.Equal((BrokerOperation.Invalidated, attachment, 1u), Notice(socket));
            Assert.Equal(
                isMapped ? Errno.Success : Errno.EINVAL, Ask(socket, BrokerOperation.Release, attachment).Errno);
            Assert.Contains("\"Retired\"", await revoking, StringComparison.OrdinalIgnoreCase);
            for (int i = 0; i < 3; i++)
            {
                Assert.Equal(Errno.ENODEV, Ask(socket, BrokerOperation.MapAttachment, attachment).Errno);
                Assert.Equal(Errno.EINVAL, Ask(socket, BrokerOperation.Release, attachment).Errno);
                Assert.Equal(Errno.ENODEV, Ask(socket, BrokerOperation.Attach, number).Errno);
            }
        }

        await ExpectNothingAsync();
    }

    private long Of(BrokerAccount account) => AccountOf(Environment.ProcessId, account);

    private async Task ExpectNothingAsync()
    {
        await UntilAsync(
            "its account is empty", () => Array.TrueForAll(Enum.GetValues<BrokerAccount>(), a => Of(a) == 0));
        Assert.Equal(0UL, UsedBytes());
        Assert.Empty(Host.GetViolations());
    }

    // A connection that has opened gpu0 and has a buffer.
    private MessageSocket Connect()
    {
        MessageSocket socket = MessageSocket.Connect(Server.SocketPath);
        socket.ReceiveTimeout = Patience.Max;
        byte[] hello = new byte[8 + BrokerMessage.NameBytes];
        hello[0] = hello[4] = (byte)BrokerMessage.Version;
        "importer"u8.CopyTo(hello.AsSpan(8));
        Assert.Equal(Errno.Success, Ask(socket, BrokerOperation.Hello, hello).Errno);
        byte[] device = new byte[BrokerMessage.NameBytes];
        "gpu0"u8.CopyTo(device);
        Assert.Equal(Gpu, Ask(socket, BrokerOperation.OpenDevice, device).Number);
        byte[] allocate = [.. BitConverter.GetBytes(Gpu), .. BitConverter.GetBytes((uint)ClientStorage.Movable),
            .. BitConverter.GetBytes(4096UL), .. device];
        Assert.Equal(Buffer, Ask(socket, BrokerOperation.Allocate, allocate).Number);
        return socket;
    }

    private static void Attach(MessageSocket socket) =>
        Assert.Equal((Errno.Success, Attachment), Ask(socket, BrokerOperation.Attach, Buffer));

    private static uint Import(MessageSocket socket, FileDescriptor descriptor)
    {
        Send(socket, BrokerOperation.Import, [], [descriptor]);
        return Answer(socket).Number;
    }

    private static (Errno Errno, uint Number) Ask(MessageSocket socket, BrokerOperation operation, uint number) =>
        Ask(socket, operation, BitConverter.GetBytes(number));

    // The first number of the answer, 0 without one; a descriptor that comes with it is closed, unmapped.
    private static (Errno Errno, uint Number) Ask(MessageSocket socket, BrokerOperation operation, byte[] body)
    {
        Send(socket, operation, body, []);
        return Answer(socket);
    }

    private static (Errno Errno, uint Number) Answer(MessageSocket socket)
    {
        BrokerHeader header = Receive(socket, out uint number, out _);
        Assert.NotEqual(0UL, header.Tag);
        return (header.Errno, header.Errno == Errno.Success ? number : 0);
    }

    private static (BrokerOperation Operation, uint Attachment, uint IsForGood) Notice(MessageSocket socket)
    {
        BrokerHeader header = Receive(socket, out uint attachment, out uint isForGood);
        Assert.Equal((0UL, Errno.Success), (header.Tag, header.Errno));
        return (header.Operation, attachment, isForGood);
    }

    private static BrokerHeader Receive(MessageSocket socket, out uint first, out uint second)
    {
        byte[] answer = new byte[BrokerMessage.BytesMax];
        Assert.Equal(Errno.Success, socket.Receive(answer, out int length, out FileDescriptor[] received));
        Array.ForEach(received, r => r.Dispose());
        Assert.True(BrokerMessage.TryRead(answer.AsSpan(0, length), out BrokerHeader header, out BrokerReader reader));
        Assert.True(header.IsAnswer);
        second = reader.TryReadUInt32(out first) && reader.TryReadUInt32(out uint next) ? next : 0;
        return header;
    }

    private static void Send(
        MessageSocket socket, BrokerOperation operation, byte[] body, ReadOnlySpan<FileDescriptor> descriptors)
    {
        byte[] message = new byte[BrokerMessage.HeaderBytes + body.Length];
        BrokerWriter writer = BrokerMessage.Begin(
            message, new BrokerHeader(operation, IsAnswer: false, Errno.Success, 1));
        writer.WriteBytes(body);
        Assert.Equal(Errno.Success, socket.Send(writer.Finish(), descriptors));
    }

    private static bool HasEnded(MessageSocket socket)
    {
        Errno errno = socket.Receive(new byte[256], out int length, out FileDescriptor[] received);
        Array.ForEach(received, r => r.Dispose());
        return errno == Errno.ECONNRESET || (errno == Errno.Success && length == 0);
    }
}
