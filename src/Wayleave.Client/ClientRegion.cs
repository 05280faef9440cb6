using Wayleave.Client.Wire;

namespace Wayleave.Client;

/// <summary>How a registration holds on to the memory.</summary>
public enum ClientRegionKind
{
    /// <summary>It follows the memory when that moves, and ends when it is taken back.</summary>
    Dynamic = 0,

    /// <summary>It holds the memory in place, and ends when it is taken back.</summary>
    PinnedRevocable = 1,

    /// <summary>It holds the memory in place for good; storage that must be revocable refuses it.</summary>
    Pinned = 2,
}

/// <summary>What a peer may do with registered memory; as <c>enum ibv_access_flags</c>.</summary>
[Flags]
public enum ClientRegionAccess
{
    None = 0,

    /// <summary>What a remote write or atomic needs beside its own right.</summary>
    LocalWrite = 1,

    RemoteWrite = 2,

    RemoteRead = 4,

    RemoteAtomic = 8,
}

/// <summary>
/// A buffer that is registered with an RDMA NIC of the host. Peers of the queue pairs of the same connection reach it
/// by <see cref="Key"/>, at addresses that count from the start of the buffer. The owner's revoke ends the key; it is
/// not used again before this is disposed. Disposing deregisters; disposing twice is fine.
/// </summary>
public sealed class ClientRegion : IDisposable
{
    private readonly BrokerClient _client;
    private readonly uint _number;
    private int _isClosed;

    internal ClientRegion(BrokerClient client, uint number, uint key) =>
        (_client, _number, Key) = (client, number, key);

    /// <summary>The rkey, for the peer.</summary>
    public uint Key { get; }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isClosed, 1) == 0)
        {
            _client.Close("deregister", _number);
        }
    }
}

/// <summary>One end of an RDMA connection, as the other end has to know it.</summary>
/// <param name="Gid">The 16 bytes of its address, in network order; an IPv4 address is mapped.</param>
/// <param name="UdpPort">Where it listens.</param>
/// <param name="QueuePair">24 bits.</param>
/// <param name="Psn">The first packet number of its requests; 24 bits.</param>
/// <param name="PathMtuBytes">The largest payload that it takes: 256 to 4096.</param>
/// <param name="ReceiveBufferBytes">
/// Of its socket, so that the other end keeps less than that on its way; 0 if that is not known.
/// </param>
public sealed record ClientRdmaEnd(
    ReadOnlyMemory<byte> Gid, ushort UdpPort, uint QueuePair, uint Psn, int PathMtuBytes, int ReceiveBufferBytes);

/// <summary>
/// A queue pair of the host's NIC that answers a peer's reads and writes of what this connection has registered, and of
/// nothing else. Disposing destroys it; disposing twice is fine.
/// </summary>
public sealed class ClientQueuePair : IDisposable
{
    private readonly BrokerClient _client;
    private readonly uint _number;
    private int _isClosed;

    internal ClientQueuePair(BrokerClient client, uint number, ClientRdmaEnd local) =>
        (_client, _number, Local) = (client, number, local);

    /// <summary>Our end, for the peer.</summary>
    public ClientRdmaEnd Local { get; }

    /// <summary>Connects it to a peer, once.</summary>
    /// <exception cref="BrokerException">EINVAL: the numbers make no sense, or it is connected.</exception>
    public void Connect(ClientRdmaEnd peer)
    {
        ArgumentNullException.ThrowIfNull(peer);
        ArgumentOutOfRangeException.ThrowIfNotEqual(peer.Gid.Length, 16);
        _client.Ask("connect a queue pair", BrokerOperation.ConnectQueuePair, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteBytes(peer.Gid.Span);
            body.WriteUInt32(peer.UdpPort);
            body.WriteUInt32(peer.QueuePair);
            body.WriteUInt32(peer.Psn);
            body.WriteUInt32((uint)peer.PathMtuBytes);
            body.WriteUInt32((uint)peer.ReceiveBufferBytes);
        });
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isClosed, 1) == 0)
        {
            _client.Close("destroy a queue pair", _number);
        }
    }
}
