using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux;

namespace Wayleave.Host;

/// <summary>A port of an RDMA NIC of a running host, and its socket.</summary>
public sealed class RdmaPortHandle
{
    private readonly LinkWatch? _watch;
    private bool _hadCable = true;

    internal RdmaPortHandle(PortLink link, UdpEndpoint endpoint)
    {
        Link = link;
        ReceiveBufferBytes = endpoint.ReceiveBufferBytes;
        _watch = LinkWatch.Of(endpoint);
    }

    /// <summary>From 1.</summary>
    public int Number => Link.Number;

    public Gid Gid => Link.Gid;

    public ushort UdpPort => Link.UdpPort;

    /// <summary>State and counters.</summary>
    public PortLink Link { get; }

    /// <summary>The interface of its address, as <c>ip link</c> calls it; null when none has it.</summary>
    public string? InterfaceName => _watch?.InterfaceName;

    /// <inheritdoc cref="NicHandle.ReceiveBufferBytes"/>
    public int ReceiveBufferBytes { get; }

    /// <summary>
    /// Whether the cable was pulled, or came back, since the last look. One thread at a time; one system call.
    /// </summary>
    internal bool HasNews(out bool hasCable)
    {
        hasCable = _watch?.IsRunning() != false;
        bool isNew = hasCable != _hadCable;
        _hadCable = hasCable;
        return isNew;
    }
}
