using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Wire;
using Xunit;

namespace Wayleave.Tests.Ethernet;

public sealed class FrameCutterTests
{
    [Theory]
    [InlineData("10.0.0.2", "10.0.0.1", 5000, 1460, 4)]
    [InlineData("10.0.0.2", "10.0.0.1", 2920, 1460, 2)]
    [InlineData("fd00::2", "fd00::1", 5000, 1440, 4)]
    [InlineData("10.0.0.2", "10.0.0.1", 1, 1460, 1)]
    public void A_super_packet_becomes_segments_that_stand_alone(
        string from, string to, int payloadBytes, ushort gsoBytes, int pieces)
    {
        TestFrame made = new()
        {
            From = from,
            To = to,
            Payload = TestFrame.Bytes(payloadBytes),
            GsoBytes = gsoBytes,
            Sequence = uint.MaxValue - 100,
            Flags = TcpFlags.Ack | TcpFlags.Psh | TcpFlags.Fin | TcpFlags.Cwr,
        };
        List<byte[]> cut = Cut(made.Tcp(), made);

        Assert.Equal(pieces, cut.Count);
        List<byte> payload = [];
        for (int i = 0; i < cut.Count; i++)
        {
            Assert.Equal(FrameDrop.None, FrameParser.Parse(cut[i], default, out FrameLayout layout));
            Assert.Equal(unchecked(uint.MaxValue - 100 + (uint)payload.Count), layout.Tcp.Sequence);
            bool isLast = i == cut.Count - 1;
            Assert.Equal(isLast, (layout.Tcp.Flags & TcpFlags.Fin) != 0 && (layout.Tcp.Flags & TcpFlags.Psh) != 0);
            Assert.Equal(i == 0, (layout.Tcp.Flags & TcpFlags.Cwr) != 0);
            Assert.InRange(layout.PayloadBytes, 1, gsoBytes);
            payload.AddRange(cut[i][layout.PayloadOffset..layout.EndOffset]);
        }

        Assert.Equal(made.Payload, payload);
    }

    [Fact]
    public void A_frame_whose_checksum_was_left_to_the_link_gets_it_and_another_comes_out_as_it_is()
    {
        TestFrame partial = new() { LeavesChecksum = true, Payload = TestFrame.Bytes(99) };
        Assert.Equal(FrameDrop.TransportChecksum, FrameParser.Parse(partial.Tcp(), default, out _));
        Assert.Equal(FrameDrop.None, FrameParser.Parse(Assert.Single(Cut(partial.Tcp(), partial)), default, out _));
        TestFrame empty = partial with { Payload = [] };
        Assert.Equal(FrameDrop.None, FrameParser.Parse(Assert.Single(Cut(empty.Tcp(), empty)), default, out _));

        TestFrame whole = new() { Payload = TestFrame.Bytes(99) };
        Assert.Equal(whole.Tcp(), Assert.Single(Cut(whole.Tcp(), whole)));
        Assert.Equal(whole.Arp(), Assert.Single(Cut(whole.Arp(), whole)));
    }

    [Fact]
    public void What_is_no_frame_is_cut_into_nothing()
    {
        FrameCutter cutter = new(new byte[10], default);
        Assert.False(cutter.TryNext(new byte[100], out int length));
        Assert.Equal(0, length);
    }

    private static List<byte[]> Cut(byte[] frame, TestFrame made)
    {
        List<byte[]> pieces = [];
        byte[] buffer = new byte[SuperFrame.BufferBytes];
        FrameCutter cutter = new(frame, made.Link(frame));
        while (cutter.TryNext(buffer, out int length))
        {
            pieces.Add(buffer[..length]);
        }

        return pieces;
    }
}
