using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary><c>enum ibv_mtu</c>, same numbers.</summary>
public enum PathMtu
{
    Mtu256 = 1,
    Mtu512 = 2,
    Mtu1024 = 3,
    Mtu2048 = 4,
    Mtu4096 = 5,
}

/// <summary>
/// Where a connected queue pair sends (<c>struct ibv_ah_attr</c>). The port number in the GID's world is that of UDP.
/// </summary>
/// <param name="Destination">The peer's GID; requests from any other are dropped silently.</param>
/// <param name="DestinationPort">UDP port of the peer: 4791 unless both sides were told otherwise.</param>
/// <param name="Icrc">How packets of this peer can be checked.</param>
/// <param name="SourcePort">UDP port that our packets leave from, covered by the ICRC; 0 is the port's own.</param>
/// <param name="KeepsSuperPackets">
/// A super-packet reaches the peer's socket in one piece, as on the loopback, so that it costs the receive buffer there
/// <see cref="RdmaDeviceOptions.DatagramChargeBytes"/> once and not for each of its segments. The same is assumed of
/// what the peer sends to us.
/// </param>
/// <param name="HopLimit">
/// How many routers a datagram to a group may pass, and one more; 0 is 1, which leaves the network of the port never.
/// Packets to a port are sent with what the socket has.
/// </param>
public readonly record struct AddressVector(
    Gid Destination,
    ushort DestinationPort = AddressVector.RoceUdpPort,
    IcrcMode Icrc = IcrcMode.OwnIdentification,
    ushort SourcePort = 0,
    bool KeepsSuperPackets = false,
    byte HopLimit = 0)
{
    /// <summary>The registered port of RoCEv2.</summary>
    public const ushort RoceUdpPort = 4791;
}

/// <summary>Sizes of the queues (<c>struct ibv_qp_cap</c>); fixed at creation.</summary>
public sealed record QueuePairCapabilities
{
    /// <summary>Send requests that may be queued; rounded up to a power of two.</summary>
    public int MaxSendWr { get; init; } = 256;

    /// <summary>Receive requests that may be queued; rounded up to a power of two.</summary>
    public int MaxReceiveWr { get; init; } = 256;

    public int MaxSendSge { get; init; } = 4;

    public int MaxReceiveSge { get; init; } = 4;

    /// <summary>Bytes that an inline post may carry.</summary>
    public int MaxInlineData { get; init; } = 64;
}

/// <summary>
/// What a modify sets (<c>struct ibv_qp_attr</c>). Only members named in the mask are looked at, except
/// <see cref="Profile"/> and <see cref="PeerWindowBytes"/>, which are ours and go with
/// <see cref="QueuePairAttributeMask.AddressVector"/>.
/// </summary>
public sealed record QueuePairAttributes
{
    public QueuePairState State { get; init; }

    public QueuePairState CurrentState { get; init; }

    public AccessFlags AccessFlags { get; init; }

    public int PKeyIndex { get; init; }

    public int Port { get; init; } = 1;

    public AddressVector AddressVector { get; init; }

    /// <summary>
    /// Where the peer's implementation differs from ours. A datagram queue pair has no peer, and takes it with
    /// <see cref="QueuePairAttributeMask.QKey"/>.
    /// </summary>
    public PeerProfile Profile { get; init; } = PeerProfile.Default;

    /// <summary>
    /// What may be on its way to the peer's socket (<see cref="RdmaDeviceOptions.WindowBytes"/> says how it is
    /// counted), for all queue pairs to that socket; null for the device's default. Goes with <see
    /// cref="QueuePairAttributeMask.AddressVector"/>.
    /// </summary>
    public int? PeerWindowBytes { get; init; }

    public PathMtu PathMtu { get; init; }

    /// <summary>UD: what a datagram must bring to be received.</summary>
    public uint QKey { get; init; }

    public uint DestQpNumber { get; init; }

    /// <summary>First PSN of the peer's requests.</summary>
    public uint RqPsn { get; init; }

    /// <summary>First PSN of our requests.</summary>
    public uint SqPsn { get; init; }

    /// <summary>READs that we may have outstanding.</summary>
    public int MaxRdAtomic { get; init; }

    /// <summary>READs that the peer may have outstanding; 0 refuses them.</summary>
    public int MaxDestRdAtomic { get; init; }

    /// <summary>RNR timer code that our RNR NAKs carry: 0 is 655 ms, 12 is 0.64 ms.</summary>
    public int MinRnrTimer { get; init; }

    /// <summary>Acknowledge timeout: 4.096 us times two to this power; 0 waits for ever.</summary>
    public int Timeout { get; init; }

    /// <summary>Retransmissions after a timeout or a sequence error, 0 to 7.</summary>
    public int RetryCount { get; init; }

    /// <summary>Retransmissions after an RNR NAK, 0 to 7; 7 is for ever.</summary>
    public int RnrRetry { get; init; }

    /// <summary>Kept, and without effect: that a queue has drained is always told, as by rxe (roce.md A8).</summary>
    public bool EnableSqdNotify { get; init; }

    /// <summary>These, and over them those that the mask names.</summary>
    internal QueuePairAttributes With(QueuePairAttributes newer, QueuePairAttributeMask mask)
    {
        bool Sets(QueuePairAttributeMask bit) => (mask & bit) != 0;
        bool hasPath = Sets(QueuePairAttributeMask.AddressVector);
        bool hasQKey = Sets(QueuePairAttributeMask.QKey);
        return new QueuePairAttributes
        {
            State = newer.State,
            CurrentState = newer.CurrentState,
            AccessFlags = Sets(QueuePairAttributeMask.AccessFlags) ? newer.AccessFlags : AccessFlags,
            PKeyIndex = Sets(QueuePairAttributeMask.PKeyIndex) ? newer.PKeyIndex : PKeyIndex,
            Port = Sets(QueuePairAttributeMask.Port) ? newer.Port : Port,
            AddressVector = hasPath ? newer.AddressVector : AddressVector,
            Profile = hasPath || hasQKey ? newer.Profile : Profile,
            PeerWindowBytes = hasPath ? newer.PeerWindowBytes : PeerWindowBytes,
            PathMtu = Sets(QueuePairAttributeMask.PathMtu) ? newer.PathMtu : PathMtu,
            QKey = hasQKey ? newer.QKey : QKey,
            DestQpNumber = Sets(QueuePairAttributeMask.DestQpNumber) ? newer.DestQpNumber : DestQpNumber,
            RqPsn = Sets(QueuePairAttributeMask.RqPsn) ? newer.RqPsn : RqPsn,
            SqPsn = Sets(QueuePairAttributeMask.SqPsn) ? newer.SqPsn : SqPsn,
            MaxRdAtomic = Sets(QueuePairAttributeMask.MaxRdAtomic) ? newer.MaxRdAtomic : MaxRdAtomic,
            MaxDestRdAtomic = Sets(QueuePairAttributeMask.MaxDestRdAtomic) ? newer.MaxDestRdAtomic : MaxDestRdAtomic,
            MinRnrTimer = Sets(QueuePairAttributeMask.MinRnrTimer) ? newer.MinRnrTimer : MinRnrTimer,
            Timeout = Sets(QueuePairAttributeMask.Timeout) ? newer.Timeout : Timeout,
            RetryCount = Sets(QueuePairAttributeMask.RetryCount) ? newer.RetryCount : RetryCount,
            RnrRetry = Sets(QueuePairAttributeMask.RnrRetry) ? newer.RnrRetry : RnrRetry,
            EnableSqdNotify = Sets(QueuePairAttributeMask.EnableSqdNotify) ? newer.EnableSqdNotify : EnableSqdNotify,
        };
    }
}
