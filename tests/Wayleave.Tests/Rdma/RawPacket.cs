using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Tests.Rdma;

/// <summary>A packet as a test writes it, right or wrong; <see cref="Build"/> gives it a valid ICRC.</summary>
internal sealed record RawPacket(Opcode Opcode, uint Psn)
{
    public uint DestQp { get; init; }

    public bool AckRequest { get; init; }

    public bool Solicited { get; init; }

    public bool BackwardCongestion { get; init; }

    public ushort PKey { get; init; } = Bth.DefaultPKey;

    public int Version { get; init; }

    public int? Pad { get; init; }

    public Reth Reth { get; init; }

    public Aeth Aeth { get; init; } = new(Aeth.AckUnlimited, 0);

    public AtomicEth Atomic { get; init; }

    /// <summary>Of an atomic acknowledgement.</summary>
    public ulong Original { get; init; }

    public Feth Feth { get; init; }

    public Deth Deth { get; init; }

    public uint InvalidateKey { get; init; }

    public uint Immediate { get; init; }

    public byte[] Payload { get; init; } = [];

    /// <summary>BTH to ICRC.</summary>
    public byte[] Build(in IcrcFlow flow, ushort identification = 0)
    {
        OpcodeTraits traits = OpcodeTraits.Of(Opcode);
        int pad = Pad ?? -Payload.Length & 3;
        byte[] packet = new byte[traits.HeaderBytes + Payload.Length + pad + PacketView.IcrcSize];
        new Bth
        {
            Opcode = Opcode,
            Solicited = Solicited,
            BackwardCongestion = BackwardCongestion,
            PadCount = pad,
            Version = Version,
            PKey = PKey,
            DestQp = DestQp,
            AckRequest = AckRequest,
            Psn = Psn,
        }.WriteTo(packet);
        int at = Bth.Size;
        if (traits.Has(ExtensionHeaders.Deth))
        {
            Deth.WriteTo(packet.AsSpan(at));
            at += Deth.Size;
        }

        if (traits.Has(ExtensionHeaders.Feth))
        {
            Feth.WriteTo(packet.AsSpan(at));
            at += Feth.Size;
        }

        if (traits.Has(ExtensionHeaders.Reth))
        {
            Reth.WriteTo(packet.AsSpan(at));
            at += Reth.Size;
        }

        if (traits.Has(ExtensionHeaders.AtomicEth))
        {
            Atomic.WriteTo(packet.AsSpan(at));
            at += AtomicEth.Size;
        }

        if (traits.Has(ExtensionHeaders.Aeth))
        {
            Aeth.WriteTo(packet.AsSpan(at));
            at += Aeth.Size;
        }

        if (traits.Has(ExtensionHeaders.AtomicAckEth))
        {
            new AtomicAckEth(Original).WriteTo(packet.AsSpan(at));
            at += AtomicAckEth.Size;
        }

        if (traits.Has(ExtensionHeaders.ImmDt))
        {
            new ImmDt(Immediate).WriteTo(packet.AsSpan(at));
            at += ImmDt.Size;
        }

        if (traits.Has(ExtensionHeaders.Ieth))
        {
            new Ieth(InvalidateKey).WriteTo(packet.AsSpan(at));
        }

        Payload.CopyTo(packet.AsSpan(traits.HeaderBytes));
        Icrc.Seal(flow, identification, packet);
        return packet;
    }
}
