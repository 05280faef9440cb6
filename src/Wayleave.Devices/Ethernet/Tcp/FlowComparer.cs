namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>Hashes a flow with the process's random seed: a peer cannot choose ports that collide.</summary>
internal sealed class FlowComparer : IEqualityComparer<TcpFlow>
{
    public bool Equals(TcpFlow x, TcpFlow y) => x == y;

    public int GetHashCode(TcpFlow obj) => HashCode.Combine(
        obj.Remote.Low, obj.Remote.High, ((uint)obj.RemotePort << 16) | obj.LocalPort, obj.Local.Low);
}
