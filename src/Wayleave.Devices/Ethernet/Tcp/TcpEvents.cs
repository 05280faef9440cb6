namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// What happened to a connection since its user last asked (<c>EPOLLIN</c> and its kin, edge-triggered).
/// </summary>
[Flags]
public enum TcpEvents
{
    None = 0,

    /// <summary>The handshake of an active open is over.</summary>
    Connected = 1,

    /// <summary>There is something to read: data, or the end of it.</summary>
    Readable = 2,

    /// <summary>Something was acknowledged: there is room to send, and device memory may be the user's again.</summary>
    Acknowledged = 4,

    /// <summary>The connection is over; see <see cref="TcpConnection.Error"/>.</summary>
    Closed = 8,
}
