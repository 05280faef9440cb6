using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// A packet is sealed for its place in the super-packet, which becomes its IPv4 identification (Transmit). Here it comes
// to another place, or leaves alone later: its ICRC is changed with the place, or the faults would damage what they
// only let overtake. What is held back has the identification of one that leaves alone, zero.

/// <summary>
/// Faults of the path from this port: takes super-packets apart before they leave. Port token held by the caller.
/// </summary>
internal sealed class DepartureFaults(FaultOptions options)
{
    private readonly FaultInjector _injector = new(options, FaultDirections.Departing);

    /// <summary>When something that was held back leaves.</summary>
    public TimeSpan Deadline => _injector.Deadline;

    /// <summary>Leaves in a super-packet what leaves now, in order; keeps the rest.</summary>
    /// <param name="bytes">The super-packet; what is left of it stands at its start.</param>
    /// <param name="transmit">Shortened.</param>
    /// <param name="link">The port that it leaves from.</param>
    /// <param name="now">The time.</param>
    /// <returns>False when nothing is left.</returns>
    public bool TryFilter(Span<byte> bytes, ref Transmit transmit, PortLink link, TimeSpan now)
    {
        int segment = transmit.SegmentBytes > 0 ? transmit.SegmentBytes : transmit.LengthBytes;
        Arrival to = new(transmit.Destination, transmit.HopLimit, 0, link); // what a departure has instead of a class
        bool isIPv4 = transmit.Destination.IsIPv4;
        int kept = 0;
        ushort place = 0, left = 0;
        for (int at = 0; at < transmit.LengthBytes; at += segment, place++)
        {
            Span<byte> packet = bytes.Slice(at, Math.Min(segment, transmit.LengthBytes - at));
            bool isFlushForRxe = isIPv4 && IsFlushForRxe(packet, transmit, link, place);
            if (isIPv4)
            {
                Icrc.Reidentify(packet, place, 0, isFlushForRxe);
            }

            int copies = _injector.Admit(
                to, transmit.DestinationPort, packet, now, out ReadOnlySpan<byte> admitted);
            if (copies == 2)
            {
                _injector.TryHoldUntil(to, transmit.DestinationPort, admitted, now);
            }

            if (copies > 0)
            {
                Span<byte> leaving = bytes.Slice(kept, admitted.Length);
                admitted.CopyTo(leaving);
                kept += leaving.Length;
                if (isIPv4)
                {
                    Icrc.Reidentify(leaving, 0, left++, isFlushForRxe);
                }
            }
        }

        transmit = transmit with { LengthBytes = kept, SegmentBytes = Math.Min(segment, kept) };
        return kept > 0;
    }

    /// <summary>A packet that was held back and is due.</summary>
    public bool TryRelease(TimeSpan now, Span<byte> buffer, out Transmit transmit)
    {
        bool found = _injector.TryRelease(now, out Arrival to, out ushort port, out ReadOnlySpan<byte> packet);
        packet.CopyTo(buffer);
        transmit = found
            ? new Transmit(to.Source, port, packet.Length, packet.Length, to.Link.Number, to.TrafficClass)
            : default;
        return found;
    }

    private static bool IsFlushForRxe(ReadOnlySpan<byte> packet, in Transmit transmit, PortLink link, ushort place) =>
        packet[0] == (byte)Opcode.RcFlush
        && Icrc.VerifyFlushFromRxe(
            new IcrcFlow(link.Gid, transmit.Destination, link.UdpPort, transmit.DestinationPort), place, packet);
}
