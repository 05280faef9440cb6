using System.Buffers.Binary;
using System.Text.Json.Serialization;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

/// <summary>Datagram header: who may reach a UD queue pair, and whom it answers.</summary>
public sealed record DethDescription(
    [property: JsonPropertyName("qkey")] string QKey,
    [property: JsonPropertyName("src_qpn")] uint SourceQpn);

/// <summary>Where an RDMA operation goes; the length is that of the whole message, in bytes.</summary>
public sealed record RethDescription(string Va, [property: JsonPropertyName("rkey")] string RKey, uint Length);

/// <summary>Operands of an atomic operation, as numbers.</summary>
public sealed record AtomicDescription(
    string Va, [property: JsonPropertyName("rkey")] string RKey, string SwapOrAdd, string Compare)
{
    internal static AtomicDescription Of(AtomicEth header) =>
        new($"0x{header.Va:x}", $"0x{header.RKey:x8}", $"0x{header.SwapOrAdd:x16}", $"0x{header.Compare:x16}");
}

/// <summary>The value before the atomic operation.</summary>
public sealed record AtomicAckDescription(string Original);

/// <summary>
/// An acknowledgement. Of credit, timer code and NAK code only the one that the kind has is not null.
/// </summary>
public sealed record AethDescription(string Syndrome, string Kind, uint Msn, int? Credit, int? TimerCode, int? Code)
{
    internal static AethDescription Of(Aeth header)
    {
        AethKind kind = header.Kind;
        return new AethDescription(
            $"0x{header.Syndrome:x2}",
            kind switch
            {
                AethKind.Acknowledge => "ACK",
                AethKind.ReceiverNotReady => "RNR_NAK",
                AethKind.NegativeAcknowledge => "NAK",
                _ => "reserved",
            },
            header.Msn,
            kind == AethKind.Acknowledge ? header.Value : null,
            kind == AethKind.ReceiverNotReady ? header.Value : null,
            kind == AethKind.NegativeAcknowledge ? header.Value : null);
    }
}

/// <summary>The common header of a management datagram, as connection management sends them to queue pair 1.</summary>
public sealed record MadDescription(string Class, string Attribute, string Name, string Tid)
{
    internal const uint QueuePair = 1;

    private const int HeaderBytes = 24;

    internal static MadDescription? Of(ReadOnlySpan<byte> payload)
    {
        if (payload.Length < HeaderBytes)
        {
            return null;
        }

        ushort attribute = BinaryPrimitives.ReadUInt16BigEndian(payload[16..]);
        ulong transaction = BinaryPrimitives.ReadUInt64BigEndian(payload[8..]);
        return new MadDescription($"0x{payload[1]:x2}", $"0x{attribute:x4}", NameOf(attribute), $"0x{transaction:x16}");
    }

    // include/rdma/ib_cm.h: CM_REQ_ATTR_ID and its relatives.
    private static string NameOf(ushort attribute) => attribute switch
    {
        0x10 => "ConnectRequest",
        0x11 => "MsgRcptAck",
        0x12 => "ConnectReject",
        0x13 => "ConnectReply",
        0x14 => "ReadyToUse",
        0x15 => "DisconnectRequest",
        0x16 => "DisconnectReply",
        0x17 => "ServiceIDResReq",
        0x18 => "ServiceIDResReqResp",
        0x19 => "LoadAlternatePath",
        0x1A => "AlternatePathResponse",
        _ => "unknown",
    };
}
