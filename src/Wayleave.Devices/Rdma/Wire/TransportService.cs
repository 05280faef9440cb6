namespace Wayleave.Devices.Rdma.Wire;

/// <summary>The transport of an opcode: its top three bits. A queue pair accepts only its own.</summary>
public enum TransportService
{
    /// <summary>An opcode that no queue pair accepts.</summary>
    None,

    /// <summary>RC: acknowledged, in order, all verbs.</summary>
    ReliableConnection,

    /// <summary>UC: in order or not at all, SEND and WRITE.</summary>
    UnreliableConnection,

    /// <summary>UD: single packets to any queue pair, SEND only.</summary>
    UnreliableDatagram,

    /// <summary>CNP: addressed to a queue pair of any transport.</summary>
    Congestion,
}
