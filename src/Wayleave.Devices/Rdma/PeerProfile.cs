namespace Wayleave.Devices.Rdma;

/// <summary>How the ICRC of a peer's packets can be checked (roce.md A3.2).</summary>
public enum IcrcMode
{
    /// <summary>
    /// Our own sender over IPv4: segment i of a super-packet has identification i. All 32 bits are checked when the
    /// batch arrives as it was sent; a segment that arrives alone has its identification solved and held against the
    /// largest possible one.
    /// </summary>
    OwnIdentification,

    /// <summary>IPv6, or the caller saw the IP header: all 32 bits are checked.</summary>
    Full,

    /// <summary>
    /// A foreign IPv4 sender on a plain socket: its identification is unknown and is solved, so 16 bits are checked.
    /// </summary>
    SolveIdentification,
}

/// <summary>
/// Where implementations of RC differ on the wire, and which way a queue pair goes. <see cref="Default"/> is IBTA as
/// hfi1 reads it;
/// <see cref="Rxe"/> is what packets of Linux's soft RoCE show.
/// </summary>
public sealed record PeerProfile
{
    /// <summary>The most that <see cref="FirstsAhead"/> can be: more would not pay.</summary>
    public const int FirstsAheadMax = 8;

    public static PeerProfile Default { get; } = new();

    public static PeerProfile Rxe { get; } = new()
    {
        AcknowledgesEveryDuplicate = true,
        ReceiveTooSmallIsOperationError = true,
        RetrySevenIsForever = true,
        ReadRestartsAtOnce = false,
        ProbesAfterRnr = false,
        RefusesRepetitions = false,
        CompletionsCarryRxeFlags = true,
        AsksAtEveryMessage = true,
        FlushChecksumRunsTwice = true,
        RetransmitFloor = TimeSpan.Zero,
    };

    /// <summary>Duplicate SENDs and WRITEs are acknowledged even without AckReq (A5.1, Q6).</summary>
    public bool AcknowledgesEveryDuplicate { get; init; }

    /// <summary>
    /// A receive that is too small is NAK 0x63 and LOC_QP_OP_ERR instead of 0x61 and LOC_LEN_ERR (Q7).
    /// </summary>
    public bool ReceiveTooSmallIsOperationError { get; init; }

    /// <summary>A retry count of 7 never runs out (Q9).</summary>
    public bool RetrySevenIsForever { get; init; }

    /// <summary>A gap in READ responses is asked for again at once, not at the time-out (Q8).</summary>
    public bool ReadRestartsAtOnce { get; init; } = true;

    /// <summary>
    /// After an RNR NAK one packet asks whether the receiver is ready, and the rest follows when it is; rxe sends all
    /// of it again.
    /// </summary>
    public bool ProbesAfterRnr { get; init; } = true;

    /// <summary>
    /// A READ asked for again from its middle is answered with Middle and Last, as the rest of the old response; rxe
    /// takes nothing else. False answers with First or Only, which is IBTA's way (A5.1).
    /// </summary>
    public bool AnswersReadRetryWithMiddle { get; init; } = true;

    /// <summary>
    /// A READ that is asked for again, and whose memory is gone, is answered with a NAK, which a peer that has had the
    /// first answer ignores as an old one; the queue pair goes on. rxe in the middle of another READ takes it, so there
    /// nothing is said (A5.1).
    /// </summary>
    public bool RefusesRepetitions { get; init; } = true;

    /// <summary>
    /// Completions have the flags that programs written against rxe see: GRH on every receive (elsewhere only those of
    /// datagrams), and WITH_IMM also where an immediate was sent, not only where it arrived.
    /// </summary>
    public bool CompletionsCarryRxeFlags { get; init; }

    /// <summary>
    /// The last packet of every message asks for an acknowledgement; otherwise one does for several messages when more
    /// are queued behind them.
    /// </summary>
    public bool AsksAtEveryMessage { get; init; }

    /// <summary>A FLUSH has the ICRC that only rxe computes and takes (Q17).</summary>
    public bool FlushChecksumRunsTwice { get; init; }

    /// <summary>
    /// Of so many RDMA WRITEs that are queued behind one that begins, the First goes out with its First, before its
    /// turn, and the peer holds it until that comes; it executes everything in the order of the PSNs. Of what answers
    /// as many READs, First and Last go likewise. Both ends must have agreed on it: to anybody else a packet that comes
    /// ahead is a gap. 0, or up to <see cref="FirstsAheadMax"/>.
    /// </summary>
    public int FirstsAhead { get; init; }

    /// <summary>
    /// The acknowledge timeout is never shorter: a peer that is merely descheduled must not be asked again. Null takes
    /// the port's.
    /// </summary>
    public TimeSpan? RetransmitFloor { get; init; }
}
