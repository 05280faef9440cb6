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
