using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// One numbered port of a device (what <c>rdma link</c> shows): an address, a state and counters. All ports of a device
/// are driven under one token, because a queue pair may complete into the queue of another on the other port.
/// </summary>
public sealed class PortLink
{
    private PortCounters _counters;
    private volatile PortState _state = PortState.Active;

    internal PortLink(int number, PortAddress address, RdmaDeviceOptions options)
    {
        (Number, Address) = (number, address);
        ReadBudget = new ReceiveBudget(
            options.ReadWindowBytes, options.ReadWindowEmptyBytes ?? options.ReadWindowBytes);
        Datagrams = new DatagramCheck(address.UdpPort);
    }

    /// <summary>From 1, as in <see cref="QueuePairAttributes.Port"/>.</summary>
    public int Number { get; }

    public PortAddress Address { get; }

    public Gid Gid => Address.Gid;

    public ushort UdpPort => Address.UdpPort;

    /// <summary>
    /// Readable from any thread; changed by <see cref="RdmaPort.SetPortState"/>. A device begins with all ports active.
    /// </summary>
    public PortState State
    {
        get => _state;
        internal set => _state = value;
    }

    /// <summary>They only grow. A reader without the token sees each of some recent moment.</summary>
    public ref readonly PortCounters Counters => ref _counters;

    internal ref PortCounters Count => ref _counters;

    /// <summary>What READs of all its queue pairs may have on its way to its socket. Port token held.</summary>
    internal ReceiveBudget ReadBudget { get; }

    internal DatagramCheck Datagrams { get; }

    /// <summary>Queue pair 1 of this port, and who serves it; null when nobody does. Port token held.</summary>
    internal QueuePair? ManagementPair { get; set; }

    /// <inheritdoc cref="ManagementPair"/>
    internal IManagementAgent? Agent { get; set; }
}
