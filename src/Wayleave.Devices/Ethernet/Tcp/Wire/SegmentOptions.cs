using System.Buffers.Binary;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Tcp.Wire;

// Kinds: 0 end, 1 no operation, 2 MSS, 3 window scale, 4 SACK permitted, 5 SACK, 8 timestamps. Others are skipped. An
// option whose length is wrong ends the parsing and not the segment, as in Linux (tcp_parse_options).

/// <summary>The options of one segment that this endpoint knows (RFC 9293 3.2, RFC 2018, RFC 7323).</summary>
public struct SegmentOptions
{
    /// <summary>Bytes that options can take.</summary>
    public const int SizeMax = TcpHeader.SizeMax - TcpHeader.Size;

    /// <summary>Bytes of timestamps with their padding: what each segment of a connection pays for them.</summary>
    public const int TimestampBytes = 12;

    /// <summary>RFC 7323 2.3: a larger shift is used as this one.</summary>
    public const int WindowScaleMax = 14;

    private SackBlocks _sackBlocks;

    /// <summary>Maximum segment size; 0 when the option is absent.</summary>
    public ushort MaximumSegment { get; set; }

    public bool HasWindowScale { get; set; }

    /// <summary>The shift as it stood there; may exceed <see cref="WindowScaleMax"/>.</summary>
    public byte WindowScale { get; set; }

    public bool IsSackPermitted { get; set; }

    public bool HasTimestamps { get; set; }

    public uint TimestampValue { get; set; }

    public uint TimestampEcho { get; set; }

    /// <summary>Blocks in <see cref="GetSackBlock"/>, 0 to 4.</summary>
    public int SackCount { get; private set; }

    /// <summary>Bytes that <see cref="WriteTo"/> writes: a multiple of four.</summary>
    public readonly int SizeBytes =>
        (MaximumSegment == 0 ? 0 : 4)
        + (HasTimestamps ? IsSackPermitted ? 12 : TimestampBytes : IsSackPermitted ? 4 : 0)
        + (HasWindowScale ? 4 : 0)
        + (SackCount == 0 ? 0 : 4 + (SackCount * SackBlock.Size));

    /// <summary>A block in the order in which they stood.</summary>
    public readonly SackBlock GetSackBlock(int index) => _sackBlocks[index];

    /// <summary>Adds a block behind those that are there; false when four are.</summary>
    public bool TryAddSackBlock(SackBlock block)
    {
        if (SackCount == SackBlocks.CountMax)
        {
            return false;
        }

        _sackBlocks[SackCount++] = block;
        return true;
    }

    /// <summary>Reads the options of a header. Never fails: what cannot be read is not there.</summary>
    public static SegmentOptions Parse(ReadOnlySpan<byte> options, bool isSyn)
    {
        SegmentOptions parsed = default;
        while (!options.IsEmpty && options[0] != 0)
        {
            if (options[0] == 1)
            {
                options = options[1..];
                continue;
            }

            if (options.Length < 2 || options[1] < 2 || options[1] > options.Length)
            {
                break;
            }

            parsed.ParseOne(options[0], options[2..options[1]], isSyn);
            options = options[options[1]..];
        }

        return parsed;
    }

    /// <summary>
    /// Writes the options in the order of Linux: MSS, SACK permitted, timestamps, window scale, SACK; padded.
    /// </summary>
    /// <returns>Bytes written: <see cref="SizeBytes"/>.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public readonly int WriteTo(Span<byte> destination)
    {
        int at = 0;
        if (MaximumSegment != 0)
        {
            destination[0] = 2;
            destination[1] = 4;
            BinaryPrimitives.WriteUInt16BigEndian(destination[2..], MaximumSegment);
            at = 4;
        }

        if (HasTimestamps || IsSackPermitted)
        {
            // SACK permitted takes the place of the padding in front of the timestamps.
            (destination[at], destination[at + 1]) = IsSackPermitted ? ((byte)4, (byte)2) : ((byte)1, (byte)1);
            at += 2;
            if (HasTimestamps)
            {
                destination[at] = 8;
                destination[at + 1] = 10;
                BinaryPrimitives.WriteUInt32BigEndian(destination[(at + 2)..], TimestampValue);
                BinaryPrimitives.WriteUInt32BigEndian(destination[(at + 6)..], TimestampEcho);
                at += 10;
            }
            else
            {
                destination.Slice(at, 2).Fill(1);
                at += 2;
            }
        }

        if (HasWindowScale)
        {
            (destination[at], destination[at + 1], destination[at + 2], destination[at + 3]) = (1, 3, 3, WindowScale);
            at += 4;
        }

        return SackCount == 0 ? at : WriteSack(destination, at);
    }

    private readonly int WriteSack(Span<byte> destination, int at)
    {
        (destination[at], destination[at + 1]) = (1, 1);
        (destination[at + 2], destination[at + 3]) = (5, (byte)(2 + (SackCount * SackBlock.Size)));
        at += 4;
        for (int i = 0; i < SackCount; i++, at += SackBlock.Size)
        {
            BinaryPrimitives.WriteUInt32BigEndian(destination[at..], _sackBlocks[i].Left);
            BinaryPrimitives.WriteUInt32BigEndian(destination[(at + 4)..], _sackBlocks[i].Right);
        }

        return at;
    }

    private void ParseOne(byte kind, ReadOnlySpan<byte> body, bool isSyn)
    {
        switch (kind)
        {
            case 2 when body.Length == 2 && isSyn:
                MaximumSegment = BinaryPrimitives.ReadUInt16BigEndian(body);
                break;
            case 3 when body.Length == 1 && isSyn:
                HasWindowScale = true;
                WindowScale = body[0];
                break;
            case 4 when body.Length == 0 && isSyn:
                IsSackPermitted = true;
                break;
            case 5 when body.Length is > 0 and <= SackBlocks.CountMax * SackBlock.Size && !isSyn
                && body.Length % SackBlock.Size == 0:
                ParseSack(body);
                break;
            case 8 when body.Length == 8:
                HasTimestamps = true;
                TimestampValue = BinaryPrimitives.ReadUInt32BigEndian(body);
                TimestampEcho = BinaryPrimitives.ReadUInt32BigEndian(body[4..]);
                break;
            default:
                break;
        }
    }

    private void ParseSack(ReadOnlySpan<byte> body)
    {
        SackCount = 0;
        for (; !body.IsEmpty; body = body[SackBlock.Size..])
        {
            TryAddSackBlock(
                new SackBlock(
                    BinaryPrimitives.ReadUInt32BigEndian(body), BinaryPrimitives.ReadUInt32BigEndian(body[4..])));
        }
    }
}
