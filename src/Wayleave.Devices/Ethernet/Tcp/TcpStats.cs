namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// What an endpoint has done since it was made: the names of <c>/proc/net/netstat</c> are in the comments. Written by
/// the holder of the token; a reader without it sees each number whole but not all of one moment.
/// </summary>
public sealed class TcpStats
{
    public long SegmentsReceived { get; internal set; }

    /// <summary>Segments handed out; a super-packet counts as its segments.</summary>
    public long SegmentsSent { get; internal set; }

    public long BytesDelivered { get; internal set; }

    public long BytesSent { get; internal set; }

    /// <summary>Segments sent again (RetransSegs), probes included.</summary>
    public long Retransmits { get; internal set; }

    /// <summary>TCPTimeouts.</summary>
    public long Timeouts { get; internal set; }

    /// <summary>Recoveries begun by acknowledgements (TCPFastRetrans).</summary>
    public long FastRecoveries { get; internal set; }

    /// <summary>TCPLossProbes.</summary>
    public long LossProbes { get; internal set; }

    /// <summary>DSACKs received: something was sent again without need (TCPDSACKRecv).</summary>
    public long DuplicatesReported { get; internal set; }

    /// <summary>Segments that began beyond the next byte awaited (TCPOFOQueue).</summary>
    public long OutOfOrderSegments { get; internal set; }

    /// <summary>Segments with bytes that had arrived before.</summary>
    public long DuplicateSegments { get; internal set; }

    /// <summary>PAWSEstab.</summary>
    public long OldTimestamps { get; internal set; }

    /// <summary>TCPChallengeACK.</summary>
    public long Challenges { get; internal set; }

    /// <summary>Challenges and other answers that a budget withheld (TCPACKSkipped...).</summary>
    public long AnswersWithheld { get; internal set; }

    /// <summary>Resets sent (OutRsts).</summary>
    public long ResetsSent { get; internal set; }

    /// <summary>Connections reset by their peers (EstabResets).</summary>
    public long ResetsReceived { get; internal set; }

    /// <summary>ActiveOpens.</summary>
    public long ActiveOpens { get; internal set; }

    /// <summary>PassiveOpens.</summary>
    public long PassiveOpens { get; internal set; }

    /// <summary>SYNs dropped because the SYN queue was full (TCPReqQFullDrop).</summary>
    public long SynsDropped { get; internal set; }

    /// <summary>Handshakes that the accept queue had no place for (ListenOverflows).</summary>
    public long AcceptOverflows { get; internal set; }

    /// <summary>SyncookiesSent.</summary>
    public long CookiesSent { get; internal set; }

    /// <summary>SyncookiesRecv.</summary>
    public long CookiesAccepted { get; internal set; }

    /// <summary>SyncookiesFailed.</summary>
    public long CookiesRefused { get; internal set; }

    /// <summary>Connections pushed out of TIME-WAIT before their time (TCPTimeWaitOverflow).</summary>
    public long TimeWaitEvictions { get; internal set; }

    /// <summary>Connections ended because memory that held unread data was taken back.</summary>
    public long Revoked { get; internal set; }

    /// <summary>Zero-window probes sent (TCPWinProbe).</summary>
    public long WindowProbes { get; internal set; }

    /// <summary>TCPKeepAlive.</summary>
    public long KeepAlives { get; internal set; }
}
