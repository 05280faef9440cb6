namespace Wayleave.Devices.Rdma;

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
        int kept = 0;
        for (int at = 0; at < transmit.LengthBytes; at += segment)
        {
            Span<byte> packet = bytes.Slice(at, Math.Min(segment, transmit.LengthBytes - at));
            int copies = _injector.Admit(
                to, transmit.DestinationPort, packet, now, out ReadOnlySpan<byte> admitted);
            if (copies == 2)
            {
                _injector.TryHoldUntil(to, transmit.DestinationPort, admitted, now);
            }

            if (copies > 0)
            {
                admitted.CopyTo(bytes[kept..]);
                kept += admitted.Length;
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
}
