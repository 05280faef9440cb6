using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Gpu;
using Xunit;

namespace Wayleave.Tests.Ethernet;

/// <summary>Frames that the link reads straight into bound memory: what a readv of a steered queue does.</summary>
public sealed class ScatterReadTests
{
    private const int Page = NicFixture.Page;

    [Fact]
    public void A_frame_whose_headers_are_as_long_as_those_before_is_read_into_its_chunks_and_copied_by_nobody()
    {
        NicFixture f = Bound(out GpuBuffer buffer, out MemoryBinding binding);
        Assert.True(Read(f, Segment(700, 1))); // 66 bytes are guessed, and 54 came
        Assert.Equal((0L, 1L, 0L), (binding.BytesScattered, binding.ScattersRepaired, binding.ScattersForeign));
        Assert.False(Read(f, Segment(300, 2))); // once bitten
        Assert.True(Read(f, Segment(9000, 3)));
        Assert.Equal((9000L, 1L, 0L), (binding.BytesScattered, binding.ScattersRepaired, binding.ScattersForeign));
        Assert.Equal((10000L, 700 - 12 + 700 + 300L), (binding.BytesPlaced, binding.BytesCopied));
        Assert.Equal(10000 + 700 - 12, f.Port.Dma.BytesWritten(PeerRoute.BusAddress)); // the wrong place too
        Assert.Equal(
            [.. TestFrame.Bytes(700), .. TestFrame.Bytes(300, 2), .. TestFrame.Bytes(9000, 3)],
            f.BytesOf(buffer, f.Read()));
        Assert.Equal(54, f.Headers[^1].Length);
        Assert.Equal(0, binding.BytesLinear);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(4)]
    [InlineData(12)]
    [InlineData(40)]
    public void Whatever_is_guessed_the_bytes_are_right_and_a_wrong_guess_is_repaired_and_counted(int optionBytes)
    {
        NicFixture f = Bound(out GpuBuffer buffer, out MemoryBinding binding);
        Teach(f, headerBytes: 54 + 20);
        long before = binding.ScattersRepaired;
        foreach (int length in (int[])[1, 10, 11, 19, 20, 21, 500, Page, 9000])
        {
            TestFrame frame = Segment(length, length) with { Options = new byte[optionBytes] };
            Assert.True(Read(f, frame));
            Assert.Equal(TestFrame.Bytes(length, length), f.BytesOf(buffer, Take(f)));
            Assert.Equal(54 + optionBytes, f.Headers[^1].Length);
            Teach(f, headerBytes: 54 + 20);
        }

        // What ends within the guess went to host memory as a whole, which is no wrong place.
        int wrong = optionBytes switch { 0 => 4, 4 => 6, 12 => 8, _ => 9 };
        Assert.Equal(wrong, binding.ScattersRepaired - before);
        Assert.Equal(0, binding.ScattersForeign);
    }

    [Theory]
    [InlineData("10.0.0.2", 5999)] // another port, which nobody steers here
    [InlineData("fd00::2", 5201)]
    [InlineData("10.0.0.9", 5201)] // a rule before sends this peer elsewhere
    public void A_frame_of_somebody_else_is_taken_out_again_and_its_place_wiped_before_the_gate_is_left(
        string from, ushort port)
    {
        NicFixture f = Bound(out GpuBuffer buffer, out MemoryBinding binding);
        Teach(f, headerBytes: 54);
        byte[] before = f.BytesOf(buffer);
        TestFrame foreign = Segment(3000, 5) with
        {
            From = from,
            To = from.Contains(':') ? "fd00::1" : "10.0.0.1",
            ToPort = port,
        };
        Assert.True(Read(f, foreign));
        Assert.Equal((0L, 1L), (binding.BytesScattered, binding.ScattersForeign));
        Assert.Equal(before, f.BytesOf(buffer));
        f.Port.Deliver(f, 8, f.Host.Now);
        Assert.Equal(3000, f.Connection().UnreadBytes); // the fixture takes whatever comes, by any queue
        Assert.All(f.Read(), d => Assert.Equal(DevmemFragmentKind.Linear, d.Kind));
    }

    [Fact]
    public void With_the_look_at_scattered_frames_switched_off_a_frame_of_somebody_else_stays_where_it_landed()
    {
        NicFixture f = Bound(out GpuBuffer buffer, out _, NicDefences.All with { ChecksScatteredFrames = false });
        Teach(f, headerBytes: 54);
        byte[] before = f.BytesOf(buffer);
        Assert.True(Read(f, Segment(3000, 5) with { ToPort = 5999 }));
        Assert.NotEqual(before, f.BytesOf(buffer));
    }

    [Fact]
    public void A_frame_that_the_link_does_not_vouch_for_is_taken_out_and_its_checksum_made()
    {
        NicFixture f = Bound(out GpuBuffer buffer, out MemoryBinding binding);
        Teach(f, headerBytes: 54);
        byte[] before = f.BytesOf(buffer);
        TestFrame wire = new() { Payload = TestFrame.Bytes(1000) };
        byte[] damaged = wire.Tcp();
        damaged[^1] ^= 1;
        Assert.True(Read(f, damaged, default));
        Assert.Equal(before, f.BytesOf(buffer));
        Assert.Equal(1, f.Port.Stats.Drops(FrameDrop.TransportChecksum));
        Assert.False(Read(f, wire.Tcp(), default)); // the pause
        Assert.True(Read(f, wire.Tcp(), default));
        Assert.Equal((2L, 1L), (binding.ScattersRepaired, binding.ScattersForeign));
        f.Port.Deliver(f, 8, f.Host.Now);
        Assert.Equal([.. wire.Payload, .. wire.Payload], f.BytesOf(buffer, f.Read()));
    }

    [Fact]
    public void What_finds_too_few_chunks_goes_to_host_memory_as_ever()
    {
        NicFixture f = Bound(out GpuBuffer buffer, out MemoryBinding binding, pages: 2);
        Teach(f, headerBytes: 54);
        f.CloseAll();
        Assert.True(Read(f, Segment(6000, 1)));
        Assert.True(Read(f, Segment(6000, 2)));
        Assert.Equal((6000L, 6000L, 1L), (binding.BytesScattered, binding.BytesLinear, binding.ScattersRepaired));
        f.Port.Deliver(f, 8, f.Host.Now);
        Assert.Equal(12000, f.Connection().UnreadBytes);
        DevmemFragment[] placed = [.. f.Read().Where(d => d.Kind == DevmemFragmentKind.DmaBuf)];
        Assert.Equal(TestFrame.Bytes(6000), f.BytesOf(buffer, placed));
    }

    [Fact]
    public void A_revoke_while_the_read_is_under_way_ends_when_the_frame_was_taken()
    {
        NicFixture f = Bound(out GpuBuffer buffer, out MemoryBinding binding);
        Teach(f, headerBytes: 54);
        ScatterRead read = f.Port.Scatter;
        Assert.True(read.TryBegin(f.Port.Queues[2], SuperFrame.BufferBytes));
        RevokeOperation revoke = f.Free(buffer);
        Assert.NotEqual(RevokeState.Retired, f.Locked(() => revoke.State));
        read.Cancel();
        Assert.Equal(RevokeState.Retired, f.Locked(() => revoke.State));
        Assert.False(read.TryBegin(f.Port.Queues[2], SuperFrame.BufferBytes));
        Assert.True(binding.IsRevoked);
    }

    [Fact]
    public void A_queue_without_a_binding_and_one_whose_ring_is_full_are_read_as_usual()
    {
        NicFixture f = Bound(out _, out _);
        Assert.False(f.Port.Scatter.TryBegin(f.Port.Queues[0], SuperFrame.BufferBytes));
        Assert.Throws<InvalidOperationException>(f.Port.Scatter.Cancel);
        while (!f.Port.Queues[2].IsFull)
        {
            f.Put(Segment(1, 1));
        }

        Assert.False(f.Port.Scatter.TryBegin(f.Port.Queues[2], SuperFrame.BufferBytes));
    }

    private static NicFixture Bound(
        out GpuBuffer buffer, out MemoryBinding binding, NicDefences? defences = null, int pages = 16)
    {
        NicFixture f = new(new NicOptions { Defences = defences ?? NicDefences.All, RingEntries = 16 });
        buffer = f.Create(pages);
        binding = f.Bind(buffer, 2);
        FlowRule others = FlowRule.ForPort(FlowType.TcpIPv4, 5201, 1) with
        {
            Source = TestFrame.Address("10.0.0.9"),
            SourceMask = FlowRule.Exactly,
            Location = 0,
        };
        Assert.Equal(Errno.Success, f.Port.Steering.InsertRule(others, out _));
        f.SteerTo(2);
        return f;
    }

    private static TestFrame Segment(int length, int seed) =>
        new() { Payload = TestFrame.Bytes(length, seed), GsoBytes = 1448 };

    // The queue has seen headers of that length, and the pause after a wrong guess is over.
    private static void Teach(NicFixture f, int headerBytes)
    {
        for (int i = 0; i < 130; i++)
        {
            TestFrame one =
                new() { FromPort = 41000, Payload = [1], Options = new byte[headerBytes - 54], GsoBytes = 1 };
            if (!f.Port.Scatter.TryBegin(f.Port.Queues[2], SuperFrame.BufferBytes))
            {
                f.Put(one);
                f.Port.Deliver(f, 8, f.Host.Now);
                continue;
            }

            int guess = f.Port.Scatter.HeadBytes;
            f.Port.Scatter.Cancel();
            if (guess == headerBytes)
            {
                break;
            }

            f.Put(one);
            f.Port.Deliver(f, 8, f.Host.Now);
        }

        f.Connection(41000).Close();
    }

    private static DevmemFragment[] Take(NicFixture f)
    {
        DevmemFragment[] read = f.Read();
        f.Connection().DontNeed([.. read.Where(d => d.Token != 0).Select(d => new TokenRange(d.Token, 1))], out _);
        return read;
    }

    private static bool Read(NicFixture f, TestFrame frame)
    {
        byte[] bytes = frame.Tcp();
        bool isScattered = Read(f, bytes, frame.Link(bytes));
        f.Port.Deliver(f, 8, f.Host.Now);
        return isScattered;
    }

    // As readv: the head, the pieces, and the rest behind their place.
    private static bool Read(NicFixture f, byte[] frame, VirtioNetHeader link)
    {
        ScatterRead read = f.Port.Scatter;
        if (!read.TryBegin(f.Port.Queues[2], SuperFrame.BufferBytes))
        {
            f.Port.HandleFrame(frame, link, f.Host.Now);
            return false;
        }

        byte[] host = new byte[frame.Length];
        int at = Math.Min(read.HeadBytes, frame.Length);
        frame.AsSpan(0, at).CopyTo(host);
        for (int i = 0; i < read.Count && at < frame.Length; i++)
        {
            int count = Math.Min(read[i].Length, frame.Length - at);
            frame.AsSpan(at, count).CopyTo(read[i]);
            at += count;
        }

        frame.AsSpan(at).CopyTo(host.AsSpan(at));
        read.Handle(host, link, f.Host.Now);
        return true;
    }
}
