using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Ports;

/// <summary>Sees the datagrams of a port. Called under the port token: returns at once and keeps no span.</summary>
public interface IDatagramTap
{
    void Sent(Gid destination, ushort destinationPort, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now);

    void Received(Gid source, ushort sourcePort, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now);
}
