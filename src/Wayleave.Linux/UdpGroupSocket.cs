using Wayleave.Core;
using Wayleave.Linux.Sharing;

namespace Wayleave.Linux;

// Why a socket for each group, bound to the group's address: the destination of a datagram, which the RoCEv2 invariant
// CRC covers, is then known without a control message; and a socket on the wildcard address, which could have joined
// twenty groups, cannot be bound while anybody here has the same port on an address of his own.

/// <summary>
/// What is sent to one multicast group, at the interface of a <see cref="UdpEndpoint"/>, on its UDP port. Any number of
/// these, of this process and of others, may be in the same group: each gets every datagram, also those that were sent
/// from this machine, or from this process. It sends nothing.
/// </summary>
public sealed class UdpGroupSocket : IDisposable
{
    private readonly FileDescriptor _socket;

    private UdpGroupSocket(FileDescriptor socket, EndpointAddress group) => (_socket, Group) = (socket, group);

    /// <summary>What it is bound to.</summary>
    public EndpointAddress Group { get; }

    /// <summary>Joins a group (IGMP, MLD): needs no privilege.</summary>
    /// <param name="endpoint">Whose interface and UDP port are meant.</param>
    /// <param name="group">Of its IP version; the port is not looked at.</param>
    /// <param name="options">Null for the defaults: of those the receive buffer, offload, and interface count.</param>
    /// <exception cref="ArgumentException">No group, or of the other IP version.</exception>
    /// <exception cref="LinuxException">
    /// EMFILE, ENFILE or ENOBUFS where there are too many; ENODEV without the interface; EADDRINUSE where somebody has
    /// the port on every address, as a kernel rxe.
    /// </exception>
    public static UdpGroupSocket Join(
        UdpEndpoint endpoint, in EndpointAddress group, UdpEndpointOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(endpoint);
        options ??= new UdpEndpointOptions();
        options.Validate();
        EndpointAddress local = endpoint.LocalAddress;
        if (!group.IsMulticast || group.IsIPv4 != local.IsIPv4)
        {
            throw new ArgumentException($"{group} is no group that {local} can join", nameof(group));
        }

        EndpointAddress bound = group with { Port = local.Port };
        return new UdpGroupSocket(UdpSocketSetup.OpenGroup(bound, local, options), bound);
    }

    /// <summary>As <see cref="UdpEndpoint.TryReceive"/>.</summary>
    public Errno TryReceive(
        Span<byte> buffer, out int length, out int segmentBytes, out EndpointAddress source, out byte trafficClass) =>
        UdpReceiving.TryReceive(_socket, buffer, out length, out segmentBytes, out source, out trafficClass);

    /// <summary>Lets a watch say when there is something to receive; ends with this object.</summary>
    /// <exception cref="LinuxException">As <see cref="DescriptorWatch.AddInput"/>.</exception>
    public void Watch(DescriptorWatch watch, ulong key)
    {
        ArgumentNullException.ThrowIfNull(watch);
        watch.AddInput(key, _socket);
    }

    /// <summary>Leaves the group. What was not received is lost. Disposing twice is fine.</summary>
    public void Dispose() => _socket.Dispose();
}
