namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// Why a packet vanished without an answer (<c>rxe_recv.c</c>, <c>rxe_net.c</c>): nothing is ever sent back for these,
/// so an off-path sender learns nothing. In the order of the checks. The ICRC comes last although it is the strongest:
/// all the checks before it only read.
/// </summary>
public enum DropReason
{
    /// <summary>Not dropped.</summary>
    None = 0,

    /// <summary>The port that it came to is down.</summary>
    PortDown,

    /// <summary>Shorter than a BTH, or than its opcode's headers, pad and ICRC.</summary>
    TooShort,

    /// <summary>The IP destination is none of our GIDs, nor a group that somebody here is attached to.</summary>
    NotOurAddress,

    /// <summary>An opcode without meaning here, RD and XRC included.</summary>
    UnknownOpcode,

    /// <summary>TVer is not zero.</summary>
    WrongVersion,

    /// <summary>DestQP is zero.</summary>
    NoDestination,

    /// <summary>No queue pair has this number.</summary>
    UnknownQp,

    /// <summary>It came to a group and is not for 0xFFFFFF, or is for that and came to no group.</summary>
    WrongGroup,

    /// <summary>The opcode's transport is not the queue pair's.</summary>
    WrongTransport,

    /// <summary>Requests need RTR or later, responses RTS or later; an ERR queue pair takes nothing.</summary>
    WrongState,

    /// <summary>The queue pair is on another port of the device.</summary>
    WrongPort,

    /// <summary>RC and UC: source or destination address are not those of the queue pair's address vector.</summary>
    WrongPeer,

    /// <summary>The partition keys differ, or both sides are limited members.</summary>
    WrongPKey,

    /// <summary>UD: the Q_Key is not the queue pair's.</summary>
    WrongQKey,

    /// <summary>The invariant CRC does not match.</summary>
    BadIcrc,

    /// <summary>UC: it continues no message.</summary>
    OutOfSequence,

    /// <summary>UC and UD: no receive is there, or it is too small for a datagram.</summary>
    NoReceive,

    /// <summary>UC and UD: what RC would answer with a NAK.</summary>
    NotAllowed,

    /// <summary>UC and UD: the memory has to be mapped first.</summary>
    NotMapped,
}
