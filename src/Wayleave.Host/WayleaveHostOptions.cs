using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux;
using Wayleave.Ports;

namespace Wayleave.Host;

/// <summary>How a host runs, beyond what it is made of (<see cref="Configuration.HostConfig"/>).</summary>
public sealed record WayleaveHostOptions
{
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>Takes the events of the host, or null.</summary>
    public ITraceSink? Trace { get; init; }

    /// <summary>
    /// Makes the capture of a port, given its GID and UDP port; or null for none. Disposed with the host if disposable.
    /// </summary>
    public Func<Gid, ushort, IDatagramTap>? Tap { get; init; }

    /// <summary>How ports are driven.</summary>
    public PortDriverOptions Driver { get; init; } = new();

    /// <summary>How the sockets of ports are set up.</summary>
    public UdpEndpointOptions Socket { get; init; } = new();

    /// <summary>Switches defences off, for the demonstration that their absence is noticed.</summary>
    public ResponderDefences? Defences { get; init; }

    /// <summary>Faults that every NIC inflicts on itself, for testing what runs over it; null for none.</summary>
    public FaultOptions? Faults { get; init; }
}
