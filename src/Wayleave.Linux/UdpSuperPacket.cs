namespace Wayleave.Linux;

/// <summary>One super-packet of several that go to the kernel by one call (<c>struct mmsghdr</c>).</summary>
/// <param name="Destination">Of the same IP version as the sending socket.</param>
/// <param name="OffsetBytes">Where its first datagram begins in the bytes of the call.</param>
/// <param name="LengthBytes">Of all its datagrams together.</param>
/// <param name="SegmentBytes">Payload of each datagram; the last may be shorter.</param>
/// <param name="HopLimit">
/// Routers that it may pass, and one more; 0 is what the socket has: 1 for a group, the system's default otherwise.
/// </param>
public readonly record struct UdpSuperPacket(
    EndpointAddress Destination, int OffsetBytes, int LengthBytes, int SegmentBytes, byte HopLimit = 0);
