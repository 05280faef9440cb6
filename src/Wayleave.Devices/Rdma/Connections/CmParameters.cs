using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>What a side wants of a connection (<c>struct rdma_conn_param</c>).</summary>
public sealed record CmParameters
{
    /// <summary>READs and atomics that this side answers at a time; 0 refuses them.</summary>
    public int ResponderResources { get; init; } = 16;

    /// <summary>READs and atomics that this side wants to have outstanding.</summary>
    public int InitiatorDepth { get; init; } = 16;

    /// <summary>
    /// Of both queue pairs, 0 to 7: the side that connects says it, and the other one's is not looked at.
    /// </summary>
    public int RetryCount { get; init; } = 7;

    /// <summary>How often the peer's queue pair may be told that no receive is there, 0 to 7; 7 is for ever.</summary>
    public int RnrRetryCount { get; init; } = 7;

    /// <summary>RNR timer code of our RNR NAKs; rdma_cm's own choice, 0, makes a peer wait 655 ms.</summary>
    public int MinRnrTimer { get; init; } = 12;

    /// <summary>The largest packet; the side that accepts takes what it is asked for, up to the port's.</summary>
    public PathMtu PathMtu { get; init; } = PathMtu.Mtu1024;

    /// <summary>
    /// What the peer may do. Null is what the kernel's manager grants: WRITE, and READ, atomics and FLUSH if
    /// <see cref="ResponderResources"/> is not 0.
    /// </summary>
    public AccessFlags? Access { get; init; }

    /// <summary>What may be on its way to the peer's socket; null takes the port's default.</summary>
    public int? PeerWindowBytes { get; init; }

    /// <summary>
    /// Whether the manager takes the queue pair through its states. Otherwise the application does, by what
    /// <see cref="ConnectionManager.Describe"/> says, and the manager never touches it.
    /// </summary>
    public bool MovesPair { get; init; } = true;

    /// <summary>Goes to the peer's application with the message.</summary>
    public ReadOnlyMemory<byte> PrivateData { get; init; }

    /// <summary>Whether every value is one that the message, and a queue pair, can have.</summary>
    internal bool IsSane(int privateDataMax) =>
        ResponderResources is >= 0 and <= RdmaDevice.MaxRdAtomic
        && InitiatorDepth is >= 0 and <= RdmaDevice.MaxRdAtomic
        && RetryCount is >= 0 and <= 7
        && RnrRetryCount is >= 0 and <= 7
        && MinRnrTimer is >= 0 and <= 31
        && PathMtu is >= PathMtu.Mtu256 and <= PathMtu.Mtu4096
        && PrivateData.Length <= privateDataMax;

    internal AccessFlags GrantedAccess => Access ?? (ResponderResources == 0
        ? AccessFlags.RemoteWrite
        : AccessFlags.RemoteWrite | AccessFlags.RemoteRead | AccessFlags.RemoteAtomic | AccessFlags.FlushGlobal
            | AccessFlags.FlushPersistent);
}
