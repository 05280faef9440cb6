namespace Wayleave.Devices.Rdma;

/// <summary>What an attempt to add the next packet of a queue pair to a super-packet came to.</summary>
internal enum BuildResult
{
    /// <summary>A packet was added.</summary>
    Built,

    /// <summary>There is one, but this super-packet cannot take it.</summary>
    DoesNotFit,

    /// <summary>Nothing to send until something happens that schedules the queue pair again.</summary>
    Nothing,

    /// <summary>The destination's window is closed; an acknowledgement opens it.</summary>
    WindowClosed,

    /// <summary>The next datagram goes to another peer; the queue pair names it already.</summary>
    OtherPeer,

    /// <summary>A READ waits until the responses of others have arrived.</summary>
    ReadWindowClosed,
}
