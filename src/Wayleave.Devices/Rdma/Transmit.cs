using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// A super-packet to be sent: <paramref name="LengthBytes"/> bytes in segments of <paramref name="SegmentBytes"/>, the
/// last of which may be shorter. Segment i must leave with IPv4 identification i, as <c>UDP_SEGMENT</c> on an
/// unconnected socket does.
/// </summary>
public readonly record struct Transmit(Gid Destination, ushort DestinationPort, int LengthBytes, int SegmentBytes);
