using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>The first 24 bytes of a management datagram (IBTA 13.4.3), as the connection manager uses them.</summary>
/// <param name="Attribute">Which message.</param>
/// <param name="TransactionId">
/// An answer repeats that of what it answers; only a DREQ of either side has its own.
/// </param>
/// <param name="ClassVersion">2; what else came is answered with a REJ.</param>
public readonly record struct MadHeader(
    CmMessageId Attribute, ulong TransactionId, byte ClassVersion = MadHeader.CmClassVersion)
{
    /// <summary>Bytes of a whole datagram.</summary>
    public const int MadBytes = 256;

    /// <summary>Bytes of the header.</summary>
    public const int Size = 24;

    /// <summary>The version of the connection management class.</summary>
    public const byte CmClassVersion = 2;

    private const byte BaseVersion = 1;
    private const byte CmClass = 7;
    private const byte MethodSend = 3;

    /// <summary>
    /// Reads a datagram of the connection manager. False for any other length, class, method or base version: those
    /// are dropped silently (roce.md A13, 9).
    /// </summary>
    public static bool TryParse(ReadOnlySpan<byte> mad, out MadHeader header)
    {
        header = default;
        bool isOurs = mad.Length == MadBytes
            && mad[0] == BaseVersion && mad[1] == CmClass && mad[3] == MethodSend;
        if (isOurs)
        {
            header = new MadHeader(
                (CmMessageId)BinaryPrimitives.ReadUInt16BigEndian(mad[16..]),
                BinaryPrimitives.ReadUInt64BigEndian(mad[8..]),
                mad[2]);
        }

        return isOurs;
    }

    /// <summary>Clears the datagram and writes its header.</summary>
    public void WriteTo(Span<byte> mad)
    {
        mad = mad[..MadBytes];
        mad.Clear();
        (mad[0], mad[1], mad[2], mad[3]) = (BaseVersion, CmClass, ClassVersion, MethodSend);
        BinaryPrimitives.WriteUInt64BigEndian(mad[8..], TransactionId);
        BinaryPrimitives.WriteUInt16BigEndian(mad[16..], (ushort)Attribute);
    }
}
