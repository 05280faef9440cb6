namespace Wayleave.Devices.Ethernet.Tcp;

// RFC 9293 figure 5. LISTEN is a TcpListener, and a SYN-RECEIVED that came from it an entry of its SynQueue: no
// connection exists before the third packet of the handshake.
//
//   Closed --Connect--> SynSent --SynAckReceived--> Established --Close--> FinWait1 --FinAcked--> FinWait2
//                         |                            |   ^                  |                      |
//                    SynReceived                 FinReceived |            FinReceived            FinReceived
//                         v                            v   | Accept           v                      v
//                    SynReceived --HandshakeDone--> (as Established)       Closing --FinAcked--> TimeWait
//                                                   CloseWait --Close--> LastAck --FinAcked--> Closed
//   any --Reset, Abort, Expired--> Closed

/// <summary>The states of RFC 9293 3.3.2, with those of a listener left out.</summary>
public enum TcpState
{
    Closed,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

/// <summary>What moves a connection from one <see cref="TcpState"/> to the next.</summary>
public enum TcpEvent
{
    /// <summary>An active open.</summary>
    Connect,

    /// <summary>A passive open was completed by the third packet of its handshake.</summary>
    Accept,

    /// <summary>A SYN without an acknowledgement met ours (simultaneous open).</summary>
    SynReceived,

    /// <summary>A SYN that acknowledges ours.</summary>
    SynAckReceived,

    /// <summary>Our SYN was acknowledged after both had been sent.</summary>
    HandshakeDone,

    /// <summary>Our side has nothing more to send.</summary>
    Close,

    /// <summary>Everything up to and with our FIN was acknowledged.</summary>
    FinAcked,

    /// <summary>The peer's FIN, with everything before it.</summary>
    FinReceived,

    /// <summary>The peer reset the connection, or we did.</summary>
    Reset,

    /// <summary>Twice the maximum segment lifetime, or the patience for an orphan or a dead peer, has passed.</summary>
    Expired,
}

/// <summary>The transitions of <see cref="TcpState"/>.</summary>
public static class TcpStates
{
    /// <summary>The next state; null when the event does not apply.</summary>
    public static TcpState? Next(this TcpState state, TcpEvent ev) => (state, ev) switch
    {
        (TcpState.Closed, TcpEvent.Connect) => TcpState.SynSent,
        (TcpState.Closed, TcpEvent.Accept) => TcpState.Established,
        (TcpState.Closed, _) => null,
        (_, TcpEvent.Reset or TcpEvent.Expired) => TcpState.Closed,
        (TcpState.SynSent, TcpEvent.SynReceived) => TcpState.SynReceived,
        (TcpState.SynSent, TcpEvent.SynAckReceived) => TcpState.Established,
        (TcpState.SynSent, TcpEvent.Close) => TcpState.Closed,
        (TcpState.SynReceived, TcpEvent.HandshakeDone) => TcpState.Established,
        (TcpState.Established, TcpEvent.Close) => TcpState.FinWait1,
        (TcpState.Established, TcpEvent.FinReceived) => TcpState.CloseWait,
        (TcpState.FinWait1, TcpEvent.FinAcked) => TcpState.FinWait2,
        (TcpState.FinWait1, TcpEvent.FinReceived) => TcpState.Closing,
        (TcpState.FinWait2, TcpEvent.FinReceived) => TcpState.TimeWait,
        (TcpState.CloseWait, TcpEvent.Close) => TcpState.LastAck,
        (TcpState.Closing, TcpEvent.FinAcked) => TcpState.TimeWait,
        (TcpState.LastAck, TcpEvent.FinAcked) => TcpState.Closed,
        _ => null,
    };

    /// <summary>Whether both SYNs have been acknowledged (RFC 9293 3.3.2, "synchronized").</summary>
    public static bool IsSynchronized(this TcpState state) => state >= TcpState.Established;

    /// <summary>Whether our side may still hand over data.</summary>
    public static bool CanSend(this TcpState state) => state is TcpState.Established or TcpState.CloseWait
        or TcpState.SynSent or TcpState.SynReceived;

    /// <summary>Whether data of the peer can still arrive.</summary>
    public static bool CanReceive(this TcpState state) =>
        state is TcpState.Established or TcpState.FinWait1 or TcpState.FinWait2;
}
