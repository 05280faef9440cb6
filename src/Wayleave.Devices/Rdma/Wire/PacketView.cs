using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// A RoCEv2 packet read in place: the bytes of a UDP datagram from the BTH to the ICRC. One length check, made by
/// <see cref="TryParse"/>, covers every accessor. The view owns nothing; it is valid as long as the bytes are.
/// </summary>
/// <remarks>
/// The value types (<see cref="Bth"/>, <see cref="Wire.Reth"/> ...) read and write the same headers one by one, for
/// senders and slow paths. The ICRC is not checked here: that takes the addresses; see <see cref="Wire.Icrc"/>.
/// </remarks>
public readonly ref struct PacketView
{
    /// <summary>Bytes of the ICRC, last in every packet.</summary>
    public const int IcrcSize = 4;

    /// <summary>The shortest packet: BTH and ICRC.</summary>
    public const int SizeMin = Bth.Size + IcrcSize;

    private readonly ReadOnlySpan<byte> _bytes;
    private readonly OpcodeTraits _traits;

    private PacketView(ReadOnlySpan<byte> bytes, in OpcodeTraits traits)
    {
        _bytes = bytes;
        _traits = traits;
    }

    /// <summary>The whole packet, BTH to ICRC.</summary>
    public ReadOnlySpan<byte> Bytes => _bytes;

    public Opcode Opcode => (Opcode)_bytes[0];

    public OpcodeTraits Traits => _traits;

    public bool Solicited => (_bytes[1] & 0x80) != 0;

    /// <summary>Pad bytes between payload and ICRC, 0 to 3.</summary>
    public int PadCount => _bytes[1] >> 4 & 3;

    public ushort PKey => BinaryPrimitives.ReadUInt16BigEndian(_bytes[2..]);

    /// <summary>BECN: on a <see cref="Wire.Opcode.CongestionNotification"/> the sign that it is one.</summary>
    public bool BackwardCongestion => (_bytes[4] & 0x40) != 0;

    public uint DestQp => BinaryPrimitives.ReadUInt32BigEndian(_bytes[4..]) & Wire.Psn.Mask;

    public bool AckRequest => (_bytes[8] & 0x80) != 0;

    public uint Psn => BinaryPrimitives.ReadUInt32BigEndian(_bytes[8..]) & Wire.Psn.Mask;

    /// <summary>The BTH as a value, with all its reserved bits.</summary>
    public Bth Bth => Bth.TryParse(_bytes, out Bth header) ? header : default;

    /// <exception cref="InvalidOperationException">The opcode carries none, here and below: the caller asks
    /// <see cref="Traits"/> first.</exception>
    public Reth Reth =>
        Reth.TryParse(Header(ExtensionHeaders.Reth, _traits.RethOffset), out Reth header) ? header : default;

    public Aeth Aeth => Aeth.TryParse(Header(ExtensionHeaders.Aeth, Bth.Size), out Aeth header) ? header : default;

    public AtomicEth AtomicEth =>
        AtomicEth.TryParse(Header(ExtensionHeaders.AtomicEth, Bth.Size), out AtomicEth header) ? header : default;

    /// <summary>The value before the atomic operation.</summary>
    public ulong AtomicAck =>
        BinaryPrimitives.ReadUInt64BigEndian(Header(ExtensionHeaders.AtomicAckEth, Bth.Size + Aeth.Size));

    public Deth Deth => Deth.TryParse(Header(ExtensionHeaders.Deth, Bth.Size), out Deth header) ? header : default;

    public Feth Feth => Feth.TryParse(Header(ExtensionHeaders.Feth, Bth.Size), out Feth header) ? header : default;

    /// <summary>The immediate data as the number whose big-endian form is on the wire.</summary>
    public uint Immediate => BinaryPrimitives.ReadUInt32BigEndian(Header(ExtensionHeaders.ImmDt, _traits.ImmDtOffset));

    /// <summary>The remote key to invalidate.</summary>
    public uint InvalidateKey => BinaryPrimitives.ReadUInt32BigEndian(Header(ExtensionHeaders.Ieth, Bth.Size));

    /// <summary>The data, without pad and ICRC. Its length has not been held against the opcode's rule.</summary>
    public ReadOnlySpan<byte> Payload => _bytes.Slice(_traits.HeaderBytes, PayloadBytes);

    public int PayloadBytes => _bytes.Length - _traits.HeaderBytes - PadCount - IcrcSize;

    /// <summary>
    /// Whether the pad brings the payload to a multiple of four and no further, as every sender must.
    /// </summary>
    public bool HasProperPad => PadCount == (-PayloadBytes & 3);

    /// <summary>The last four bytes, least significant first on the wire.</summary>
    public uint Icrc => BinaryPrimitives.ReadUInt32LittleEndian(_bytes[^IcrcSize..]);

    /// <summary>
    /// Looks at a UDP payload. <see cref="DropReason.None"/> means that every header the opcode calls for is there and
    /// all accessors are safe. Otherwise one of <see cref="DropReason.TooShort"/>,
    /// <see cref="DropReason.UnknownOpcode"/>, <see cref="DropReason.WrongVersion"/>,
    /// <see cref="DropReason.NoDestination"/>, and the view is empty. Never throws.
    /// </summary>
    public static DropReason TryParse(ReadOnlySpan<byte> udpPayload, out PacketView packet)
    {
        packet = default;
        if (udpPayload.Length < SizeMin)
        {
            return DropReason.TooShort;
        }

        ref readonly OpcodeTraits traits = ref OpcodeTraits.Of((Opcode)udpPayload[0]);
        if (!traits.IsDefined)
        {
            return DropReason.UnknownOpcode;
        }

        byte flags = udpPayload[1];
        if (udpPayload.Length < traits.HeaderBytes + (flags >> 4 & 3) + IcrcSize)
        {
            return DropReason.TooShort;
        }

        if ((flags & 0x0F) != 0)
        {
            return DropReason.WrongVersion;
        }

        if ((BinaryPrimitives.ReadUInt32BigEndian(udpPayload[4..]) & Wire.Psn.Mask) == 0)
        {
            return DropReason.NoDestination;
        }

        packet = new PacketView(udpPayload, traits);
        return DropReason.None;
    }

    private ReadOnlySpan<byte> Header(ExtensionHeaders header, int offset) =>
        _traits.Has(header)
            ? _bytes[offset..]
            : throw new InvalidOperationException($"{OpcodeTraits.NameOf(Opcode)} carries no {header}");
}
