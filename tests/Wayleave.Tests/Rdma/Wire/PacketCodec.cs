using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Wire;

/// <summary>Takes packets apart into values and builds them again from these alone.</summary>
internal static class PacketCodec
{
    /// <summary>
    /// The packet made anew from its header values, payload, pad and ICRC. The input must be accepted by the parser.
    /// </summary>
    public static byte[] Reencode(ReadOnlySpan<byte> udpPayload)
    {
        Assert.Equal(DropReason.None, PacketView.TryParse(udpPayload, out PacketView packet));
        byte[] built = new byte[udpPayload.Length];
        Span<byte> rest = built;
        packet.Bth.WriteTo(rest);
        rest = rest[Bth.Size..];
        if (packet.Traits.Has(ExtensionHeaders.Deth))
        {
            packet.Deth.WriteTo(rest);
            rest = rest[Deth.Size..];
        }

        if (packet.Traits.Has(ExtensionHeaders.Feth))
        {
            packet.Feth.WriteTo(rest);
            rest = rest[Feth.Size..];
        }

        if (packet.Traits.Has(ExtensionHeaders.Reth))
        {
            packet.Reth.WriteTo(rest);
            rest = rest[Reth.Size..];
        }

        if (packet.Traits.Has(ExtensionHeaders.AtomicEth))
        {
            packet.AtomicEth.WriteTo(rest);
            rest = rest[AtomicEth.Size..];
        }

        if (packet.Traits.Has(ExtensionHeaders.Aeth))
        {
            packet.Aeth.WriteTo(rest);
            rest = rest[Aeth.Size..];
        }

        if (packet.Traits.Has(ExtensionHeaders.AtomicAckEth))
        {
            new AtomicAckEth(packet.AtomicAck).WriteTo(rest);
            rest = rest[AtomicAckEth.Size..];
        }

        if (packet.Traits.Has(ExtensionHeaders.ImmDt))
        {
            new ImmDt(packet.Immediate).WriteTo(rest);
            rest = rest[ImmDt.Size..];
        }

        if (packet.Traits.Has(ExtensionHeaders.Ieth))
        {
            new Ieth(packet.InvalidateKey).WriteTo(rest);
            rest = rest[Ieth.Size..];
        }

        packet.Payload.CopyTo(rest);
        rest = rest[packet.PayloadBytes..];

        // A hostile pad need not be zero; the ICRC covers it as it is.
        udpPayload.Slice(packet.Traits.HeaderBytes + packet.PayloadBytes, packet.PadCount).CopyTo(rest);
        rest = rest[packet.PadCount..];
        Assert.Equal(PacketView.IcrcSize, rest.Length);
        Icrc.Finish(~packet.Icrc, rest);
        return built;
    }
}
