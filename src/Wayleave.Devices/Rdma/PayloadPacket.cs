using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>The checksum of a packet whose payload is fed while it is copied. Pure.</summary>
internal static class PayloadPacket
{
    /// <summary>Bytes of a packet, BTH to ICRC.</summary>
    public static int SizeOf(int headerBytes, int payloadBytes) =>
        headerBytes + payloadBytes + (-payloadBytes & 3) + PacketView.IcrcSize;

    /// <summary>The register behind the headers; they are written, the first from <paramref name="bth"/>.</summary>
    public static uint Begin(
        in IcrcFlow flow, int identification, in Bth bth, ReadOnlySpan<byte> packet, int headerBytes)
    {
        uint icrc = flow.Seed(packet.Length, (ushort)identification);
        icrc = Icrc.AppendBth(icrc, bth);
        return Icrc.Append(icrc, packet[Bth.Size..headerBytes]);
    }

    /// <summary>
    /// Clears the pad and writes the ICRC: what the buffer held before must not leave in the pad (H-13).
    /// </summary>
    public static void End(uint icrc, Span<byte> packet, int headerBytes, int payloadBytes)
    {
        Span<byte> pad = packet[(headerBytes + payloadBytes)..^PacketView.IcrcSize];
        pad.Clear();
        Icrc.Finish(Icrc.Append(icrc, pad), packet[^PacketView.IcrcSize..]);
    }
}
