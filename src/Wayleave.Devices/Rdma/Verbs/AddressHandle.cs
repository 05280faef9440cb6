namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// Where a datagram goes (<c>struct ibv_ah</c>). Made and destroyed under the port token; posting with it needs none.
/// </summary>
public sealed class AddressHandle
{
    internal AddressHandle(ProtectionDomain domain, Peer peer) => (Domain, Peer) = (domain, peer);

    public ProtectionDomain Domain { get; }

    /// <summary>Null once destroyed.</summary>
    internal Peer? Peer { get; private set; }

    internal void Destroy() => Peer = null;
}
