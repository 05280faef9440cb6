using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>REP (IBTA 12.6.8).</summary>
public sealed record CmReply
{
    /// <summary>Bytes that a user may add.</summary>
    public const int PrivateDataMax = 196;

    private const int PrivateOffset = 36;

    /// <summary>The sender's name for the connection.</summary>
    public required uint LocalId { get; init; }

    /// <summary>The name that the REQ gave it.</summary>
    public required uint RemoteId { get; init; }

    public required uint QpNumber { get; init; }

    /// <summary>The PSN that the <em>receiver</em> uses for its first request.</summary>
    public required uint StartingPsn { get; init; }

    public required int ResponderResources { get; init; }

    public required int InitiatorDepth { get; init; }

    /// <summary>How long the sender takes to acknowledge, as code.</summary>
    public int TargetAckDelay { get; init; } = 15;

    public int RnrRetryCount { get; init; } = 7;

    public bool UsesSharedReceives { get; init; }

    public required ulong NodeGuid { get; init; }

    public ReadOnlyMemory<byte> PrivateData { get; init; }

    /// <summary>Reads the body of a datagram whose header says that it is one.</summary>
    public static CmReply Parse(ReadOnlySpan<byte> mad)
    {
        ReadOnlySpan<byte> b = mad[MadHeader.Size..];
        return new CmReply
        {
            LocalId = BinaryPrimitives.ReadUInt32BigEndian(b),
            RemoteId = BinaryPrimitives.ReadUInt32BigEndian(b[4..]),
            QpNumber = BinaryPrimitives.ReadUInt32BigEndian(b[12..]) >> 8,
            StartingPsn = BinaryPrimitives.ReadUInt32BigEndian(b[20..]) >> 8,
            ResponderResources = b[24],
            InitiatorDepth = b[25],
            TargetAckDelay = b[26] >> 3,
            RnrRetryCount = b[27] >> 5,
            UsesSharedReceives = (b[27] & 0x10) != 0,
            NodeGuid = BinaryPrimitives.ReadUInt64BigEndian(b[28..]),
            PrivateData = b.Slice(PrivateOffset, PrivateDataMax).ToArray(),
        };
    }

    /// <summary>Writes the whole datagram.</summary>
    public void WriteTo(Span<byte> mad, ulong transactionId)
    {
        new MadHeader(CmMessageId.ConnectReply, transactionId).WriteTo(mad);
        Span<byte> b = mad[MadHeader.Size..MadHeader.MadBytes];
        BinaryPrimitives.WriteUInt32BigEndian(b, LocalId);
        BinaryPrimitives.WriteUInt32BigEndian(b[4..], RemoteId);
        BinaryPrimitives.WriteUInt32BigEndian(b[12..], QpNumber << 8);
        BinaryPrimitives.WriteUInt32BigEndian(b[20..], StartingPsn << 8);
        (b[24], b[25]) = ((byte)ResponderResources, (byte)InitiatorDepth);
        b[26] = (byte)(TargetAckDelay << 3);
        b[27] = (byte)(RnrRetryCount << 5 | (UsesSharedReceives ? 0x10 : 0));
        BinaryPrimitives.WriteUInt64BigEndian(b[28..], NodeGuid);
        PrivateData.Span.CopyTo(b[PrivateOffset..]);
    }
}
