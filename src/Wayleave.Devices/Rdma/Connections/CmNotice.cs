using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>
/// The messages that name a connection and say little more: RTU, DREQ, DREP, REJ and MRA (IBTA 12.6.6 to 12.6.11).
/// </summary>
public sealed record CmNotice
{
    /// <summary>Bytes that a user may add to a REJ.</summary>
    public const int RejectPrivateDataMax = 148;

    /// <summary>Bytes that a user may add to a DREQ.</summary>
    public const int DisconnectPrivateDataMax = 220;

    private const int ReadyPrivateOffset = 8;
    private const int DisconnectPrivateOffset = 12;
    private const int RejectPrivateOffset = 84;

    public required CmMessageId Kind { get; init; }

    /// <summary>The sender's name for the connection; 0 when it never gave one.</summary>
    public required uint LocalId { get; init; }

    /// <summary>The receiver's name for it.</summary>
    public required uint RemoteId { get; init; }

    /// <summary>DREQ: the receiver's queue pair. Any other number is none of this connection.</summary>
    public uint RemoteQpNumber { get; init; }

    /// <summary>REJ and MRA: about which message.</summary>
    public CmSubject About { get; init; }

    /// <summary>REJ.</summary>
    public CmRejectReason Reason { get; init; }

    /// <summary>MRA: how much longer the answer may take, as code.</summary>
    public int ServiceTimeout { get; init; }

    public ReadOnlyMemory<byte> PrivateData { get; init; }

    /// <summary>Reads the body of a datagram whose header says that it is one of these.</summary>
    public static CmNotice Parse(ReadOnlySpan<byte> mad, CmMessageId kind)
    {
        ReadOnlySpan<byte> b = mad[MadHeader.Size..];
        bool isReject = kind == CmMessageId.ConnectReject;
        int offset = PrivateOffsetOf(kind);
        return new CmNotice
        {
            Kind = kind,
            LocalId = BinaryPrimitives.ReadUInt32BigEndian(b),
            RemoteId = BinaryPrimitives.ReadUInt32BigEndian(b[4..]),
            RemoteQpNumber = kind == CmMessageId.DisconnectRequest
                ? BinaryPrimitives.ReadUInt32BigEndian(b[8..]) >> 8
                : 0,
            About = kind is CmMessageId.MessageReceipt or CmMessageId.ConnectReject
                ? (CmSubject)(b[8] >> 6)
                : CmSubject.None,
            Reason = isReject ? (CmRejectReason)BinaryPrimitives.ReadUInt16BigEndian(b[10..]) : CmRejectReason.None,
            ServiceTimeout = kind == CmMessageId.MessageReceipt ? b[9] >> 3 : 0,
            PrivateData = offset == 0 ? default : b[offset..].ToArray(),
        };
    }

    /// <summary>Writes the whole datagram.</summary>
    public void WriteTo(Span<byte> mad, ulong transactionId)
    {
        new MadHeader(Kind, transactionId).WriteTo(mad);
        Span<byte> b = mad[MadHeader.Size..MadHeader.MadBytes];
        BinaryPrimitives.WriteUInt32BigEndian(b, LocalId);
        BinaryPrimitives.WriteUInt32BigEndian(b[4..], RemoteId);
        switch (Kind)
        {
            case CmMessageId.DisconnectRequest:
                BinaryPrimitives.WriteUInt32BigEndian(b[8..], RemoteQpNumber << 8);
                break;
            case CmMessageId.ConnectReject:
                b[8] = (byte)((int)About << 6);
                BinaryPrimitives.WriteUInt16BigEndian(b[10..], (ushort)Reason);
                break;
            case CmMessageId.MessageReceipt:
                (b[8], b[9]) = ((byte)((int)About << 6), (byte)(ServiceTimeout << 3));
                break;
            default:
                break;
        }

        int offset = PrivateOffsetOf(Kind);
        if (offset != 0)
        {
            PrivateData.Span.CopyTo(b[offset..]);
        }
    }

    private static int PrivateOffsetOf(CmMessageId kind) => kind switch
    {
        CmMessageId.ConnectReject => RejectPrivateOffset,
        CmMessageId.DisconnectRequest => DisconnectPrivateOffset,
        CmMessageId.MessageReceipt => 0,
        _ => ReadyPrivateOffset,
    };
}
