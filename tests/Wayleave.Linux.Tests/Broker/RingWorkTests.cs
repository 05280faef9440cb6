using System.Runtime.InteropServices;
using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Broker;
using Wayleave.Host.Configuration;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Work of compute engines whose commands are in a ring: of gpu0 by addresses, of gpu1 by handles.</summary>
public sealed class RingWorkTests : BrokerTest
{
    private const int Size = 64 << 10;
    private const int Header = 4096; // of the first command in a ring
    private const int Submitted = 128;

    protected override HostConfig Devices
    {
        get
        {
            GpuConfig gpu = base.Devices.Gpus[0];
            ComputeConfig parsed = gpu.Compute with { Mode = GpuCommandMode.Parsed };
            return base.Devices with { Gpus = [gpu, gpu with { Name = "gpu1", Compute = parsed }] };
        }
    }

    public static TheoryData<string> Gpus => ["gpu0", "gpu1"];

    [Theory]
    [MemberData(nameof(Gpus))]
    public void Work_in_a_ring_is_done_when_its_completion_is_there(string name)
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "ring");
        ClientDevice gpu = client.OpenDevice(name);
        using ClientBuffer buffer = gpu.Allocate("x", Size);
        using ClientMapping mapping = buffer.Map();
        ClientBinding binding = gpu.Bind(buffer);
        using ClientQueue queue = gpu.OpenQueue("q");
        using ClientRing ring = gpu.OpenRing(8);
        (uint to, uint at) = (ring.AttachQueue(queue), ring.Attach(buffer));
        byte[] work = [.. Fill(binding, 0, 4096, 1), .. Commands.Spin(4), .. Fill(binding, 4096, 4096, 2)];

        // Copies what the work has written: behind it by a barrier where that is by address, for then the buffer says
        // nothing of the work.
        for (ulong tag = 0; tag < 30; tag += 2)
        {
            mapping.Memory.Span.Clear();
            Assert.True(ring.TrySubmit(to, tag, work));
            Assert.True(ring.TrySubmit(new RingCommand(RingOperation.Copy, true, tag + 1, at, at, 4096, 8192, 4096)));
            Assert.Equal((tag, Errno.Success), Take(ring));
            Assert.Equal((tag + 1, Errno.Success), Take(ring));
            Span<uint> words = MemoryMarshal.Cast<byte, uint>(mapping.Memory.Span);
            Assert.Equal((1u, 2u, 2u, 0u), (words[1023], words[1024], words[3071], words[3072]));
        }
    }

    [Theory]
    [MemberData(nameof(Gpus))]
    public void Work_in_a_ring_reaches_what_its_connection_has_bound_and_nothing_else(string name)
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "ring");
        using BrokerClient stranger = BrokerClient.Connect(Server.SocketPath, "stranger");
        ClientDevice gpu = client.OpenDevice(name), theirs = stranger.OpenDevice(name);
        using ClientBuffer buffer = gpu.Allocate("x", Size), locked = gpu.Allocate("locked", Size);
        (ClientBinding binding, ClientBinding readOnly) = (gpu.Bind(buffer), gpu.Bind(locked, FenceUse.Read));
        using ClientQueue queue = theirs.OpenQueue("q"), own = gpu.OpenQueue("own");
        using ClientRing ring = theirs.OpenRing(8), ownRing = gpu.OpenRing(8);
        (uint to, uint ownTo) = (ring.AttachQueue(queue), ownRing.AttachQueue(own));
        bool isParsed = !queue.UsesAddresses;

        Assert.True(ownRing.TrySubmit(ownTo, 1, Fill(readOnly, 0, 4096, 1)));
        Assert.Equal((1UL, Errno.EACCES), Take(ownRing));
        Assert.True(ring.TrySubmit(to, 2, Fill(binding, 0, 4096, 1)));
        Assert.Equal((2UL, isParsed ? Errno.ENOENT : Errno.EFAULT), Take(ring));

        // A queue that faulted is lost where it has addresses; a parser refuses, and the queue goes on.
        Assert.True(ring.TrySubmit(to, 3, Commands.Spin(1)));
        Assert.Equal((3UL, isParsed ? Errno.Success : Errno.ECANCELED), Take(ring));
        using ClientMapping one = buffer.Map(), other = locked.Map();
        Assert.False(one.Memory.Span.ContainsAnyExcept((byte)0) || other.Memory.Span.ContainsAnyExcept((byte)0));
    }

    [Theory]
    [MemberData(nameof(Gpus))]
    public void What_the_engine_does_not_take_is_refused_in_its_completion_and_the_ring_goes_on(string name)
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "ring");
        ClientDevice gpu = client.OpenDevice(name);
        ClientQueue queue = gpu.OpenQueue("q");
        using ClientRing ring = gpu.OpenRing(8);
        uint to = ring.AttachQueue(queue);
        byte[] unknown = Commands.Spin(1);
        unknown[0] = 77;
        Assert.True(ring.TrySubmit(to, 1, unknown));
        Assert.Equal((1UL, Errno.EINVAL), Take(ring));
        Assert.True(ring.TrySubmit(to, 2, [.. Commands.Spin(1), .. unknown]));
        Assert.Equal((2UL, Errno.EINVAL), Take(ring));
        Assert.True(ring.TrySubmit(15, 3, Commands.Spin(1)) && ring.TrySubmit(uint.MaxValue, 4, Commands.Spin(1)));
        Assert.Equal((3UL, Errno.EBADF), Take(ring));
        Assert.Equal((4UL, Errno.EBADF), Take(ring));
        Assert.True(ring.TrySubmit(to, 5, Commands.Spin(1)));
        Assert.Equal((5UL, Errno.Success), Take(ring));
        queue.Dispose();
        Assert.True(ring.TrySubmit(to, 6, Commands.Spin(1)));
        Assert.Equal((6UL, Errno.ECANCELED), Take(ring));
        ring.DetachQueue(to);
        Assert.True(ring.TrySubmit(to, 7, Commands.Spin(1)));
        Assert.Equal((7UL, Errno.EBADF), Take(ring));
        Assert.Equal(Errno.EBADF, Refusal(() => ring.DetachQueue(to)));
        Assert.Throws<ArgumentException>(() => ring.TrySubmit(to, 8, new byte[8 * 64]));
        Assert.Throws<ArgumentException>(() => ring.TrySubmit(to, 8, new byte[63]));
        Assert.Throws<ArgumentException>(() => ring.TrySubmit(new RingCommand(RingOperation.Compute, false, 8)));
        Assert.Equal(0, AccountOf(Environment.ProcessId, BrokerAccount.Jobs));
    }

    [Theory]
    [MemberData(nameof(Gpus))]
    public void The_fence_of_work_in_a_ring_is_waited_for_by_others_and_has_its_error(string name)
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "ring");
        using BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        ClientDevice gpu = client.OpenDevice(name), theirs = other.OpenDevice(name);
        using ClientBuffer buffer = gpu.Allocate("x", Size), target = theirs.Allocate("y", Size);
        ClientBinding binding = gpu.Bind(buffer);
        using FileDescriptor handle = buffer.Export();
        using ClientBuffer imported = other.Import(handle);
        using ClientQueue queue = gpu.OpenQueue("q");
        using ClientRing ring = gpu.OpenRing(8);
        uint to = ring.AttachQueue(queue);

        // Again with more to do, until the fence is asked for before the work has ended.
        ClientFence? done = null;
        for (ulong blocks = 2000; done is null; blocks *= 4)
        {
            Assert.True(ring.TrySubmit(to, 1, [.. Commands.Spin(blocks), .. Fill(binding, 0, Size, 0x5A5A5A5A)]));
            done = TryFence(ring, 1);
            if (done is null)
            {
                Assert.Equal((1UL, Errno.Success), Take(ring));
            }
        }

        using ClientFence copied = theirs.Copy(imported, 0, target, 0, Size, done);
        Assert.True(copied.Wait(Patience.Max));
        Assert.Equal((1UL, Errno.Success), Take(ring));
        done.Dispose();
        using ClientMapping seen = target.Map();
        Assert.False(seen.Memory.Span.ContainsAnyExcept((byte)0x5A));
        Assert.Equal(Errno.ENOENT, Refusal(() => ring.ExportFence(1)));

        Assert.True(ring.TrySubmit(to, 2, Commands.Spin(ulong.MaxValue)));
        ClientFence lost = TryFence(ring, 2)!;
        client.Dispose();
        Assert.True(lost.Wait(Patience.Max) && lost.TryGetResult(out Errno error, out _) && error == Errno.ECANCELED);
        lost.Dispose();
    }

    [Fact]
    public void A_ring_that_is_closed_waits_for_no_work_which_goes_on()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "ring");
        ClientDevice gpu = client.OpenDevice("gpu0");
        using ClientQueue queue = gpu.OpenQueue("q");
        ClientRing ring = gpu.OpenRing(8);
        Assert.True(ring.TrySubmit(ring.AttachQueue(queue), 1, Commands.Spin(ulong.MaxValue)));
        using ClientFence endless = TryFence(ring, 1)!;
        ring.Dispose();
        Assert.False(endless.Wait(TimeSpan.Zero));
        Assert.Equal(1, AccountOf(Environment.ProcessId, BrokerAccount.Jobs));
    }

    public static TheoryData<string> Garbage =>
        ["nothing behind it", "too few", "none", "too many", "target", "offset"];

    [Theory]
    [MemberData(nameof(Garbage))]
    public async Task Work_that_is_announced_and_not_there_ends_its_connection_and_no_other(string what)
    {
        using BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "garbage");
        ClientDevice gpu = client.OpenDevice("gpu0");
        using ClientQueue queue = gpu.OpenQueue("q");
        using ClientRing ring = gpu.OpenRing(8);
        uint to = ring.AttachQueue(queue);
        RingCommand command = new(RingOperation.Compute, false, 1, to, Length: 1);
        (command, uint entries) = what switch
        {
            "nothing behind it" => (command, 1u),
            "too few" => (command with { Length = 3 }, 3u),
            "none" => (command with { Length = 0 }, 2u),
            "too many" => (command with { Length = 8 }, 8u),
            "target" => (command with { Target = 1 }, 2u),
            _ => (command with { TargetOffset = 1 }, 2u),
        };
        command.Write(ring.Memory.Bytes[Header..]);
        for (int n = 1; n < 8; n++)
        {
            Commands.Spin(1).CopyTo(ring.Memory.Bytes[(Header + (64 * n))..]);
        }

        MemoryMarshal.Cast<byte, uint>(ring.Memory.Bytes)[Submitted / 4] = entries;
        ring.Doorbell.Signal();
        await UntilAsync("the connection is cut", () => IsGone(client));
        other.OpenDevice("gpu0").Allocate("kept", 4096).Dispose();
        Assert.Empty(Host.GetViolations());
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public async Task Whatever_is_scribbled_over_work_while_the_host_reads_it_nothing_of_others_changes(int seed)
    {
        Random random = new(seed);
        using BrokerClient owner = BrokerClient.Connect(Server.SocketPath, "owner");
        using ClientBuffer kept = owner.OpenDevice("gpu0").Allocate("kept", Size);
        using ClientMapping witness = kept.Map();
        witness.Memory.Span.Fill(0x5E);
        for (int round = 0; round < 20; round++)
        {
            using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "scribbler");
            ClientDevice gpu = client.OpenDevice(round % 2 == 0 ? "gpu0" : "gpu1");
            using ClientBuffer buffer = gpu.Allocate("one", Size);
            ClientBinding binding = gpu.Bind(buffer);
            using ClientQueue queue = gpu.OpenQueue("q");
            using ClientRing ring = gpu.OpenRing(8);
            ring.AttachQueue(queue);
            byte[] header = new byte[64];
            for (int n = 0; n < 50; n++)
            {
                Span<byte> bytes = ring.Memory.Bytes;
                int count = random.Next(1, 4);
                new RingCommand(RingOperation.Compute, random.Next(4) == 0, (ulong)n, 0, Length: (ulong)count)
                    .Write(header);
                header.CopyTo(bytes[(Header + (random.Next(8) * 64))..]);
                Fill(binding, (ulong)random.Next(2 * Size) & ~3UL, (ulong)random.Next(1, Size) & ~3UL, 7)
                    .CopyTo(bytes[(Header + (random.Next(8) * 64))..]);
                bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
                MemoryMarshal.Cast<byte, uint>(bytes)[Submitted / 4] += (uint)random.Next(0, 4);
                ring.Doorbell.Signal();
            }
        }

        Assert.False(witness.Memory.Span.ContainsAnyExcept((byte)0x5E));
        await UntilAsync(
            "only the witness is left", () => AccountOf(Environment.ProcessId, BrokerAccount.Bytes) == Size);
        Assert.Empty(Host.GetViolations());
    }

    [Fact]
    public async Task The_end_of_a_program_with_work_in_rings_leaves_nothing()
    {
        for (int round = 0; round < 20; round++)
        {
            BrokerClient client = BrokerClient.Connect(Server.SocketPath, "leaver");
            ClientDevice gpu = client.OpenDevice(round % 2 == 0 ? "gpu0" : "gpu1");
            ClientBuffer buffer = gpu.Allocate("left", 4 << 20);
            ClientBinding binding = gpu.Bind(buffer);
            ClientQueue queue = gpu.OpenQueue("q");
            using ClientRing ring = gpu.OpenRing(16);
            uint to = ring.AttachQueue(queue);
            for (ulong n = 0; n < 8; n++)
            {
                Assert.True(ring.TrySubmit(to, n, n == 3 ? Commands.Spin(ulong.MaxValue) : Fill(binding, 0, 4096, 1)));
            }

            client.Dispose();
        }

        await UntilAsync("nobody has anything", () => AccountOf(Environment.ProcessId, BrokerAccount.Bytes) == 0
            && AccountOf(Environment.ProcessId, BrokerAccount.Queues) == 0
            && AccountOf(Environment.ProcessId, BrokerAccount.Jobs) == 0);
        Assert.Empty(Host.GetViolations());
    }

    private static byte[] Fill(ClientBinding binding, ulong offset, ulong bytes, uint value) =>
        Commands.Fill(binding.Address == 0 ? binding.Handle : 0, binding.Address + offset, bytes, value);

    private static (ulong Tag, Errno Errno) Take(ClientRing ring)
    {
        Assert.True(ring.Wait(out RingCompletion completion, Patience.Max));
        return (completion.Tag, completion.Errno);
    }

    // Null when it has ended.
    private static ClientFence? TryFence(ClientRing ring, ulong tag)
    {
        while (true)
        {
            try
            {
                return ring.ExportFence(tag);
            }
            catch (BrokerException e) when (e.Errno == Errno.EAGAIN)
            {
                Thread.Yield(); // the host has not taken it yet
            }
            catch (BrokerException e) when (e.Errno == Errno.ENOENT)
            {
                return null;
            }
        }
    }

    private static Errno Refusal(Action action) => Assert.Throws<BrokerException>(action).Errno;

    private static Errno Refusal<T>(Func<T> action) => Refusal(() => { action(); });

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
