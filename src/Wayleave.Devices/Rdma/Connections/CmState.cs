namespace Wayleave.Devices.Rdma.Connections;

//   active    Idle --Connect--> RequestSent --REP: to RTS, RTU--> Established
//   passive   RequestReceived --Accept: to RTS, REP--> ReplySent --RTU, or data--> Established
//             RequestReceived --Reject: REJ--> Closed
//             RequestSent --REP, if the application moves the pair--> ReplyReceived --Establish: RTU--> Established
//   datagrams RequestSent --SIDR_REP--> Closed;  RequestReceived --Accept: SIDR_REP--> Established, --Reject--> Closed
//   both      RequestSent, ReplySent --REJ, or nobody answers--> Closed
//             Established --Disconnect: ERR, DREQ--> DisconnectSent --DREP, DREQ, or nobody answers--> TimeWait
//             Established --DREQ: ERR, DREP--> TimeWait --time--> Closed
//             Established --REJ of the REP: ERR--> TimeWait

/// <summary>Where a connection is (IBTA 12.9.7).</summary>
public enum CmState
{
    /// <summary>The peer was asked.</summary>
    RequestSent,

    /// <summary>The peer asks, and the application has not said what to do.</summary>
    RequestReceived,

    /// <summary>The peer was told yes; its queue pair may send already.</summary>
    ReplySent,

    Established,

    /// <summary>The queue pair is in ERR, and the peer was told.</summary>
    DisconnectSent,

    /// <summary>
    /// The peer said yes; the application takes its queue pair through the states itself, and says when it has.
    /// </summary>
    ReplyReceived,

    /// <summary>
    /// Over, but a late packet may still be on its way: neither the connection's name nor its queue pair's number is
    /// given to another.
    /// </summary>
    TimeWait,

    Closed,
}
