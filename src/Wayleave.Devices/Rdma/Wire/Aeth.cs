using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>What bits 6 and 5 of an AETH syndrome say.</summary>
public enum AethKind
{
    /// <summary>Acknowledged; the low five bits are a credit count.</summary>
    Acknowledge,

    /// <summary>No receive was posted; the low five bits are the RNR timer code.</summary>
    ReceiverNotReady,

    /// <summary>Not assigned, or bit 7 set: the packet is malformed and is dropped.</summary>
    Reserved,

    /// <summary>Refused; the low five bits say why.</summary>
    NegativeAcknowledge,
}

/// <summary>
/// The acknowledge extended transport header. <paramref name="Msn"/> is the responder's 24-bit count of completed
/// messages. This stack neither counts nor honours credits: it answers <see cref="AckUnlimited"/>, and an RNR NAK
/// covers the lack of receives.
/// </summary>
public readonly record struct Aeth(byte Syndrome, uint Msn)
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 4;

    /// <summary>ACK with credit code 31: no credit information.</summary>
    public const byte AckUnlimited = 0x1F;

    /// <summary>ACK with credit code 0: no credit is left. Only as a fault.</summary>
    public const byte AckWithoutCredit = 0x00;

    /// <summary>RNR NAK; or it with the timer code.</summary>
    public const byte ReceiverNotReady = 0x20;

    public const byte NakPsnSequence = 0x60;
    public const byte NakInvalidRequest = 0x61;
    public const byte NakRemoteAccess = 0x62;
    public const byte NakRemoteOperation = 0x63;

    public AethKind Kind => (Syndrome >> 5) switch
    {
        0 => AethKind.Acknowledge,
        1 => AethKind.ReceiverNotReady,
        3 => AethKind.NegativeAcknowledge,
        _ => AethKind.Reserved,
    };

    /// <summary>The low five bits: credit code, RNR timer code or NAK code, by <see cref="Kind"/>.</summary>
    public int Value => Syndrome & 0x1F;

    /// <summary>Reads the first <see cref="Size"/> bytes; false when there are fewer.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out Aeth header)
    {
        bool whole = BinaryPrimitives.TryReadUInt32BigEndian(bytes, out uint word);
        header = new Aeth((byte)(word >> 24), word & Psn.Mask);
        return whole;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination) =>
        BinaryPrimitives.WriteUInt32BigEndian(destination, (uint)Syndrome << 24 | (Msn & Psn.Mask));
}
