using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// A super-packet to be sent: <paramref name="LengthBytes"/> bytes in segments of <paramref name="SegmentBytes"/>, the
/// last of which may be shorter. Segment i must leave with IPv4 identification i, as <c>UDP_SEGMENT</c> on an
/// unconnected socket does.
/// </summary>
/// <param name="Destination">Where it goes.</param>
/// <param name="DestinationPort">UDP port there.</param>
/// <param name="LengthBytes">All segments together.</param>
/// <param name="SegmentBytes">Each but the last.</param>
/// <param name="Port">Which port of the device it leaves from.</param>
/// <param name="HopLimit">As <see cref="Verbs.AddressVector.HopLimit"/>; 0 unless it goes to a group.</param>
public readonly record struct Transmit(
    Gid Destination, ushort DestinationPort, int LengthBytes, int SegmentBytes, int Port = 1, byte HopLimit = 0);
