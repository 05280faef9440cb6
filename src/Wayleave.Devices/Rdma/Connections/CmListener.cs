namespace Wayleave.Devices.Rdma.Connections;

/// <summary>A port that peers can connect to (<c>rdma_listen</c>). Port token held by the caller.</summary>
public sealed class CmListener
{
    internal CmListener(ushort port, int backlog, bool isDatagram) =>
        (Port, Backlog, IsDatagram) = (port, backlog, isDatagram);

    /// <summary>In the port space of rdma_cm called TCP, or that called UDP.</summary>
    public ushort Port { get; }

    /// <summary>Whether peers look up a queue pair for datagrams here: another space of ports.</summary>
    public bool IsDatagram { get; }

    /// <summary>Requests that may wait for the application. More are dropped silently.</summary>
    public int Backlog { get; }

    /// <summary>Requests that do, and those that their peers took back while they did. 0 once it is closed.</summary>
    public int Pending { get; internal set; }
}
