using System.Runtime.InteropServices;
using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Commands and completions in shared memory, between a program and a host.</summary>
public sealed class RingCommandTests : BrokerTest
{
    private const int Size = 256 << 10;

    [Fact]
    public void A_copy_by_a_command_is_done_when_its_completion_is_there_and_a_barrier_keeps_the_order()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "ring");
        ClientDevice device = client.OpenDevice("gpu0");
        using ClientBuffer one = device.Allocate("one", Size), two = device.Allocate("two", Size);
        using ClientMapping source = one.Map(), target = two.Map();
        new Random(1).NextBytes(source.Memory.Span);
        using ClientRing ring = device.OpenRing(8);
        (uint from, uint to) = (ring.Attach(one), ring.Attach(two));
        RingCommand copy = new(RingOperation.Copy, false, 1, from, to, 4096, 0, Size - 4096);
        Assert.Equal([Errno.Success], Run(ring, copy).Values);
        Assert.True(target.Memory.Span[..(Size - 4096)].SequenceEqual(source.Memory.Span[4096..]));

        // Back into the source, then from there: the second sees what the first wrote.
        target.Memory.Span.Fill(0x5A);
        Assert.All(
            Run(
                ring,
                new RingCommand(RingOperation.Copy, false, 2, to, from, 0, 0, 8192),
                new RingCommand(RingOperation.Nothing, true, 3),
                new RingCommand(RingOperation.Copy, true, 4, from, to, 0, 8192, 8192)).Values,
            e => Assert.Equal(Errno.Success, e));
        Assert.Equal(-1, target.Memory.Span[..16384].IndexOfAnyExcept((byte)0x5A));
        ring.Detach(from);
        Assert.Equal([Errno.EBADF], Run(ring, copy).Values);
    }

    [Fact]
    public void What_cannot_be_copied_is_refused_in_its_completion_and_the_ring_goes_on()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "ring");
        ClientDevice device = client.OpenDevice("gpu0");
        using ClientBuffer buffer = device.Allocate("one", Size);
        using ClientRing ring = device.OpenRing(8);
        uint slot = ring.Attach(buffer);
        Dictionary<ulong, Errno> ended = Run(
            ring,
            new RingCommand(RingOperation.Copy, false, 1, slot, slot, 0, 4096, Size),
            new RingCommand(RingOperation.Copy, false, 2, slot, slot, ulong.MaxValue, 0, 2),
            new RingCommand(RingOperation.Copy, false, 3, slot, slot, 0, 4096, 0),
            new RingCommand(RingOperation.Copy, false, 4, slot, 63, 0, 0, 1),
            new RingCommand(RingOperation.Copy, false, 5, uint.MaxValue, slot, 0, 0, 1),
            new RingCommand(RingOperation.Copy, false, 6, slot, slot, 0, 4096, 4096));
        Assert.Equal(
            [Errno.EINVAL, Errno.EINVAL, Errno.EINVAL, Errno.EBADF, Errno.EBADF, Errno.Success],
            ended.OrderBy(e => e.Key).Select(e => e.Value));
        buffer.Revoke(Patience.Max);
        Assert.Equal(
            [Errno.ENODEV],
            Run(ring, new RingCommand(RingOperation.Copy, false, 7, slot, slot, 0, 4096, 4096)).Values);
        Assert.Equal(Errno.EINVAL, Assert.Throws<BrokerException>(() => device.OpenRing(3)).Errno);
    }

    [Fact]
    public void Thousands_of_commands_each_have_one_completion_however_often_both_sides_sleep()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "ring");
        using ClientRing ring = client.OpenDevice("gpu0").OpenRing(16);
        Random random = new(1);
        HashSet<ulong> open = [];
        ulong tag = 0;
        for (int burst = 0; burst < 500; burst++)
        {
            for (int n = random.Next(1, 17); n > 0 && ring.TrySubmit(new(RingOperation.Nothing, false, tag)); n--)
            {
                open.Add(tag++);
            }

            for (int n = random.Next(0, open.Count + 1); n > 0; n--)
            {
                Assert.True(ring.Wait(out RingCompletion completion, Patience.Max));
                Assert.True(open.Remove(completion.Tag));
            }
        }

        while (open.Count > 0)
        {
            Assert.True(ring.Wait(out RingCompletion completion, Patience.Max));
            Assert.True(open.Remove(completion.Tag));
        }

        Assert.False(ring.TryTake(out _));
    }

    public static TheoryData<string> Garbage =>
        ["operation", "flags", "zeros", "submitted", "taken", "everything"];

    [Theory]
    [MemberData(nameof(Garbage))]
    public async Task Garbage_in_a_ring_ends_its_connection_and_no_other(string what)
    {
        using BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "garbage");
        using ClientRing ring = client.OpenDevice("gpu0").OpenRing(8);
        Write(ring, what);
        ring.Doorbell.Signal();
        await UntilAsync("the connection is cut", () => IsGone(client));
        using ClientBuffer buffer = other.OpenDevice("gpu0").Allocate("kept", 4096);
        Assert.False(buffer.Describe().IsRevoked);
        Assert.Empty(Host.GetViolations());
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Whatever_a_program_scribbles_into_its_ring_while_the_host_reads_it_the_host_lives(int seed)
    {
        Random random = new(seed);
        for (int round = 0; round < 20; round++)
        {
            using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "scribbler");
            ClientDevice device = client.OpenDevice("gpu0");
            using ClientBuffer buffer = device.Allocate("one", 64 << 10);
            using ClientRing ring = device.OpenRing(8);
            ring.Attach(buffer);
            byte[] entry = new byte[64];
            for (int n = 0; n < 50; n++)
            {
                Span<byte> bytes = ring.Memory.Bytes;
                new RingCommand(
                    (RingOperation)random.Next(1, 3), random.Next(4) == 0, (ulong)n, 0, 0, 0, 4096, 4096).Write(entry);
                entry.CopyTo(bytes[(4096 + (random.Next(8) * 64))..]);
                bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
                MemoryMarshal.Cast<byte, uint>(bytes)[128 / 4] += (uint)random.Next(0, 4);
                ring.Doorbell.Signal();
            }
        }

        using BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        other.OpenDevice("gpu0").Allocate("x", 4096).Dispose();
        Assert.Empty(Host.GetViolations());
    }

    [Fact]
    public async Task The_end_of_a_program_with_copies_under_way_leaves_nothing()
    {
        ulong before = UsedBytes();
        for (int round = 0; round < 20; round++)
        {
            BrokerClient client = BrokerClient.Connect(Server.SocketPath, "leaver");
            ClientDevice device = client.OpenDevice("gpu0");
            ClientBuffer buffer = device.Allocate("left", 8 << 20);
            using ClientRing ring = device.OpenRing(8);
            uint slot = ring.Attach(buffer);
            for (ulong n = 0; n < 8; n++)
            {
                ring.TrySubmit(new RingCommand(RingOperation.Copy, false, n, slot, slot, 0, 4 << 20, 4 << 20));
            }

            client.Dispose();
        }

        await UntilAsync("the memory is back", () => UsedBytes() == before);
        Assert.Empty(Host.GetViolations());
    }

    [Fact]
    public void A_host_that_ends_wakes_who_waits_at_a_ring()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "waiter");
        using ClientRing ring = client.OpenDevice("gpu0").OpenRing(8);
        Thread stopper = new(Server.Dispose);
        stopper.Start();
        BrokerException gone = Assert.Throws<BrokerException>(() => ring.Wait(out _, Timeout.InfiniteTimeSpan));
        Assert.Equal(Errno.ECONNRESET, gone.Errno);
        stopper.Join();
    }

    private static Dictionary<ulong, Errno> Run(ClientRing ring, params RingCommand[] commands)
    {
        foreach (RingCommand command in commands)
        {
            Assert.True(ring.TrySubmit(command));
        }

        Dictionary<ulong, Errno> ended = [];
        for (int n = 0; n < commands.Length; n++)
        {
            Assert.True(ring.Wait(out RingCompletion completion, Patience.Max));
            ended.Add(completion.Tag, completion.Errno);
        }

        return ended;
    }

    private static void Write(ClientRing ring, string what)
    {
        Span<byte> bytes = ring.Memory.Bytes;
        Span<uint> words = MemoryMarshal.Cast<byte, uint>(bytes);
        new RingCommand(RingOperation.Nothing, false, 1).Write(bytes[4096..]);
        switch (what)
        {
            case "operation":
                words[4096 / 4] = 99;
                words[128 / 4] = 1;
                break;
            case "flags":
                words[(4096 / 4) + 1] = 2;
                words[128 / 4] = 1;
                break;
            case "zeros":
                bytes[4096 + 63] = 1;
                words[128 / 4] = 1;
                break;
            case "submitted":
                words[128 / 4] = 9;
                break;
            case "taken": // is looked at when all slots have been used
                words[768 / 4] = 9;
                for (int slot = 0; slot < 8; slot++)
                {
                    new RingCommand(RingOperation.Nothing, false, 1).Write(bytes[(4096 + (slot * 64))..]);
                }

                words[128 / 4] = 8;
                break;
            default:
                bytes.Fill(0xEE);
                break;
        }
    }

    private static bool IsGone(BrokerClient client)
    {
        try
        {
            client.OpenDevice("gpu0");
            return false;
        }
        catch (BrokerException e) when (e.Errno == Errno.ECONNRESET)
        {
            return true;
        }
    }
}
