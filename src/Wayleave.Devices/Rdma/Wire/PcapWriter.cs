using System.Buffers;
using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// Formats a packet capture (<c>pcap-savefile(5)</c>): Ethernet, little endian, nanoseconds. Each method appends to the
/// buffer writer it is given; flushing is the caller's.
/// </summary>
public static class PcapWriter
{
    /// <summary>Bytes of the capture header.</summary>
    public const int HeaderBytes = PcapReader.HeaderBytes;

    /// <summary>Starts a capture.</summary>
    public static void WriteHeader(IBufferWriter<byte> output)
    {
        ArgumentNullException.ThrowIfNull(output);
        Span<byte> header = output.GetSpan(HeaderBytes)[..HeaderBytes];
        header.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(header, PcapReader.MagicNanoseconds);
        BinaryPrimitives.WriteUInt16LittleEndian(header[4..], 2);
        BinaryPrimitives.WriteUInt16LittleEndian(header[6..], 4);
        BinaryPrimitives.WriteUInt32LittleEndian(header[16..], PcapReader.RecordBytesMax);
        BinaryPrimitives.WriteUInt32LittleEndian(header[20..], PcapReader.LinkTypeEthernet);
        output.Advance(HeaderBytes);
    }

    /// <summary>Appends a whole frame, seen that many nanoseconds after the Unix epoch.</summary>
    public static void WriteFrame(IBufferWriter<byte> output, long timestampNanoseconds, ReadOnlySpan<byte> frame)
    {
        ArgumentNullException.ThrowIfNull(output);
        Span<byte> body = BeginRecord(output, timestampNanoseconds, frame.Length);
        frame.CopyTo(body);
        output.Advance(PcapReader.RecordHeaderBytes + frame.Length);
    }

    /// <summary>
    /// Appends what a UDP socket sent or received, completed with the headers it did not show.
    /// <paramref name="udpPayload"/> is the RoCEv2 packet from BTH to ICRC.
    /// </summary>
    public static void WriteDatagram(
        IBufferWriter<byte> output, long timestampNanoseconds, in FrameHeader header, ReadOnlySpan<byte> udpPayload)
    {
        ArgumentNullException.ThrowIfNull(output);
        int frameBytes = header.Size + udpPayload.Length;
        Span<byte> frame = BeginRecord(output, timestampNanoseconds, frameBytes);
        header.WriteTo(frame, udpPayload.Length);
        udpPayload.CopyTo(frame[header.Size..]);
        output.Advance(PcapReader.RecordHeaderBytes + frameBytes);
    }

    private static Span<byte> BeginRecord(IBufferWriter<byte> output, long timestampNanoseconds, int frameBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(timestampNanoseconds);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(frameBytes, PcapReader.RecordBytesMax);
        Span<byte> record = output.GetSpan(PcapReader.RecordHeaderBytes + frameBytes);
        (long seconds, long nanoseconds) = Math.DivRem(timestampNanoseconds, 1_000_000_000L);

        // The format's seconds are 32 bits, unsigned to all its readers: they last until 2106.
        BinaryPrimitives.WriteUInt32LittleEndian(record, (uint)seconds);
        BinaryPrimitives.WriteUInt32LittleEndian(record[4..], (uint)nanoseconds);
        BinaryPrimitives.WriteUInt32LittleEndian(record[8..], (uint)frameBytes);
        BinaryPrimitives.WriteUInt32LittleEndian(record[12..], (uint)frameBytes);
        return record.Slice(PcapReader.RecordHeaderBytes, frameBytes);
    }
}
