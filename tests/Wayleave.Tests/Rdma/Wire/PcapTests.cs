using System.Buffers;
using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

public class PcapTests
{
    private static readonly byte[] s_frame = [.. Enumerable.Range(0, 70).Select(i => (byte)i)];

    public static TheoryData<bool, bool> Variants =>
        new() { { false, false }, { false, true }, { true, false }, { true, true } };

    [Theory]
    [MemberData(nameof(Variants))]
    public void Either_byte_order_and_either_resolution_is_read(bool bigEndian, bool nanoseconds)
    {
        byte[] capture =
        [
            .. Header(bigEndian, nanoseconds),
            .. Record(bigEndian, 7, 123_456, s_frame, 70),
            .. Record(bigEndian, 8, 0, [], 0),
        ];
        Assert.Equal(PcapStatus.Success, PcapReader.TryOpen(capture, out PcapReader? reader));
        Assert.Equal(PcapStatus.Success, reader!.TryRead(out PcapRecord first));
        Assert.Equal(7_000_000_000 + 123_456 * (nanoseconds ? 1 : 1000), first.TimestampNanoseconds);
        Assert.Equal(s_frame, first.Frame.ToArray());
        Assert.True(first.IsComplete);
        Assert.Equal(PcapStatus.Success, reader.TryRead(out PcapRecord second));
        Assert.True(second.Frame.IsEmpty);
        Assert.Equal(PcapStatus.End, reader.TryRead(out _));
        Assert.Equal(2, reader.RecordCount);
        Assert.Equal(capture.Length, reader.OffsetBytes);
    }

    [Fact]
    public void A_record_that_kept_only_the_start_of_its_frame_says_so()
    {
        byte[] record = Record(bigEndian: false, 0, 0, s_frame, 1514);
        byte[] capture = [.. Header(bigEndian: false, nanoseconds: false), .. record];
        Assert.Equal(PcapStatus.Success, PcapReader.TryOpen(capture, out PcapReader? reader));
        Assert.Equal(PcapStatus.Success, reader!.TryRead(out PcapRecord read));
        Assert.Equal(1514u, read.OriginalBytes);
        Assert.False(read.IsComplete);
    }

    [Fact]
    public void Every_truncation_gives_the_whole_records_and_then_says_that_one_is_cut_off()
    {
        byte[] record = Record(bigEndian: false, 1, 2, s_frame, 70);
        byte[] capture = [.. Header(bigEndian: false, nanoseconds: true), .. record, .. record];
        for (int length = 0; length < capture.Length; length++)
        {
            PcapStatus opened = PcapReader.TryOpen(capture.AsMemory(0, length), out PcapReader? reader);
            if (length < PcapWriter.HeaderBytes)
            {
                Assert.Equal(PcapStatus.TruncatedHeader, opened);
                Assert.Null(reader);
                continue;
            }

            PcapStatus status;
            while ((status = reader!.TryRead(out _)) == PcapStatus.Success)
            {
            }

            (int whole, int rest) = Math.DivRem(length - PcapWriter.HeaderBytes, record.Length);
            Assert.Equal(whole, reader.RecordCount);
            Assert.Equal(rest == 0 ? PcapStatus.End : PcapStatus.TruncatedRecord, status);
            Assert.Equal(status, reader.TryRead(out _));
            Assert.Equal(PcapWriter.HeaderBytes + whole * record.Length, reader.OffsetBytes);
        }
    }

    [Theory]
    [InlineData("00000000", PcapStatus.NotACapture)]
    [InlineData("0A0D0D0A", PcapStatus.NextGeneration)]
    [InlineData("A1B2C3D5", PcapStatus.NotACapture)]
    public void A_file_of_another_format_is_named(string magic, PcapStatus expected)
    {
        byte[] capture = [.. Convert.FromHexString(magic), .. new byte[60]];
        Assert.Equal(expected, PcapReader.TryOpen(capture, out _));
    }

    [Theory]
    [InlineData(4, PcapStatus.UnknownVersion)]
    [InlineData(6, PcapStatus.UnknownVersion)]
    [InlineData(20, PcapStatus.WrongLinkType)]
    public void A_capture_of_another_version_or_link_type_is_refused(int offset, PcapStatus expected)
    {
        byte[] capture = Header(bigEndian: false, nanoseconds: false);
        capture[offset] = 113;
        Assert.Equal(expected, PcapReader.TryOpen(capture, out PcapReader? reader));
        Assert.Null(reader);
    }

    [Fact]
    public void A_record_longer_than_any_capture_writes_ends_the_capture()
    {
        byte[] record = Record(bigEndian: false, 0, 0, s_frame, 70);
        BinaryPrimitives.WriteUInt32LittleEndian(record.AsSpan(8), 0xFFFF_FFFF);
        byte[] capture = [.. Header(bigEndian: false, nanoseconds: false), .. record];
        Assert.Equal(PcapStatus.Success, PcapReader.TryOpen(capture, out PcapReader? reader));
        Assert.Equal(PcapStatus.OversizedRecord, reader!.TryRead(out _));
        Assert.Equal(PcapStatus.OversizedRecord, reader.TryRead(out _));
    }

    [Fact]
    public void Every_status_has_words_for_it() =>
        Assert.All(Enum.GetValues<PcapStatus>(), status => Assert.NotEmpty(PcapReader.Describe(status)));

    [Fact]
    public void What_is_written_is_read_back()
    {
        ArrayBufferWriter<byte> output = new();
        PcapWriter.WriteHeader(output);
        PcapWriter.WriteFrame(output, 1_234_567_890_123_456_789, s_frame);
        FrameHeader header = new() { Source = Gid.FromIPv4(1), Destination = Gid.FromIPv4(2), SourcePort = 3 };
        PcapWriter.WriteDatagram(output, 0, header, s_frame);

        Assert.Equal(PcapStatus.Success, PcapReader.TryOpen(output.WrittenMemory, out PcapReader? reader));
        Assert.Equal(PcapStatus.Success, reader!.TryRead(out PcapRecord frame));
        Assert.Equal(1_234_567_890_123_456_789, frame.TimestampNanoseconds);
        Assert.Equal(s_frame, frame.Frame.ToArray());
        Assert.Equal(PcapStatus.Success, reader.TryRead(out PcapRecord datagram));
        Assert.Equal(FrameError.None, FrameView.TryParse(datagram.Frame.Span, out FrameView view));
        Assert.Equal(header, view.Header);
        Assert.True(view.UdpPayload.SequenceEqual(s_frame));
        Assert.Equal(PcapStatus.End, reader.TryRead(out _));
    }

    private static byte[] Header(bool bigEndian, bool nanoseconds) =>
    [
        .. UInt32(bigEndian, nanoseconds ? 0xA1B23C4D : 0xA1B2C3D4),
        .. bigEndian ? new byte[] { 0, 2, 0, 4 } : [2, 0, 4, 0],
        .. new byte[8],
        .. UInt32(bigEndian, 262_144),
        .. UInt32(bigEndian, 1),
    ];

    private static byte[] Record(bool bigEndian, uint seconds, uint fraction, byte[] frame, uint originalBytes) =>
    [
        .. UInt32(bigEndian, seconds),
        .. UInt32(bigEndian, fraction),
        .. UInt32(bigEndian, (uint)frame.Length),
        .. UInt32(bigEndian, originalBytes),
        .. frame,
    ];

    private static byte[] UInt32(bool bigEndian, uint value)
    {
        byte[] bytes = new byte[4];
        if (bigEndian)
        {
            BinaryPrimitives.WriteUInt32BigEndian(bytes, value);
        }
        else
        {
            BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        }

        return bytes;
    }
}
