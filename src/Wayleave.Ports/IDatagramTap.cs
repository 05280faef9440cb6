using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Ports;

/// <summary>Sees the datagrams of a port. Called under the port token: returns at once and keeps no span.</summary>
public interface IDatagramTap
{
    void Sent(Gid destination, ushort destinationPort, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now);

    /// <param name="source">Who sent them.</param>
    /// <param name="sourcePort">UDP port there.</param>
    /// <param name="destination">The port's address, or a multicast group.</param>
    /// <param name="bytes">UDP payloads, back to back.</param>
    /// <param name="segmentBytes">Length of each but the last.</param>
    /// <param name="now">When.</param>
    void Received(
        Gid source,
        ushort sourcePort,
        Gid destination,
        ReadOnlySpan<byte> bytes,
        int segmentBytes,
        TimeSpan now);
}
