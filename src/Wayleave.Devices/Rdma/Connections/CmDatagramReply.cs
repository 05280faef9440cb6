using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>SIDR_REP (IBTA 12.11.2): the queue pair that serves a port, or why there is none.</summary>
public sealed record CmDatagramReply
{
    /// <summary>Bytes that a user may add.</summary>
    public const int PrivateDataMax = 136;

    /// <summary>The queue pair is named.</summary>
    public const int Success = 0;

    /// <summary>Nobody listens there.</summary>
    public const int Unsupported = 1;

    /// <summary>Who listens says no.</summary>
    public const int Rejected = 2;

    private const int PrivateOffset = 96;

    /// <summary>The name that the request gave.</summary>
    public required uint RequestId { get; init; }

    /// <summary><c>enum ib_cm_sidr_status</c>.</summary>
    public required int Status { get; init; }

    public uint QpNumber { get; init; }

    public uint QKey { get; init; }

    public ulong ServiceId { get; init; }

    public ReadOnlyMemory<byte> PrivateData { get; init; }

    /// <summary>Reads the body of a datagram whose header says that it is one.</summary>
    public static CmDatagramReply Parse(ReadOnlySpan<byte> mad)
    {
        ReadOnlySpan<byte> b = mad[MadHeader.Size..];
        return new CmDatagramReply
        {
            RequestId = BinaryPrimitives.ReadUInt32BigEndian(b),
            Status = b[4],
            QpNumber = BinaryPrimitives.ReadUInt32BigEndian(b[8..]) >> 8,
            ServiceId = BinaryPrimitives.ReadUInt64BigEndian(b[12..]),
            QKey = BinaryPrimitives.ReadUInt32BigEndian(b[20..]),
            PrivateData = b.Slice(PrivateOffset, PrivateDataMax).ToArray(),
        };
    }

    /// <summary>Writes the whole datagram.</summary>
    public void WriteTo(Span<byte> mad, ulong transactionId)
    {
        new MadHeader(CmMessageId.ServiceIdReply, transactionId).WriteTo(mad);
        Span<byte> b = mad[MadHeader.Size..MadHeader.MadBytes];
        BinaryPrimitives.WriteUInt32BigEndian(b, RequestId);
        b[4] = (byte)Status;
        BinaryPrimitives.WriteUInt32BigEndian(b[8..], QpNumber << 8);
        BinaryPrimitives.WriteUInt64BigEndian(b[12..], ServiceId);
        BinaryPrimitives.WriteUInt32BigEndian(b[20..], QKey);
        PrivateData.Span.CopyTo(b[PrivateOffset..]);
    }
}
