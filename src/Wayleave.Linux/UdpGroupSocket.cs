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
    private readonly EndpointAddress _local;
    private readonly uint _interface;
    private DescriptorWatch? _watch;

    private UdpGroupSocket(FileDescriptor socket, EndpointAddress group, EndpointAddress local, uint index) =>
        (_socket, Group, _local, _interface) = (socket, group, local, index);

    /// <summary>What it is bound to.</summary>
    public EndpointAddress Group { get; }

    /// <summary>Joins a group (IGMP, MLD): needs no privilege.</summary>
    /// <param name="endpoint">Whose interface and UDP port are meant.</param>
    /// <param name="group">Of its IP version; the port is not looked at.</param>
    /// <param name="options">
    /// Null for those of the endpoint; the receive buffer, offload, and interface count.
    /// </param>
    /// <exception cref="ArgumentException">No group, or of the other IP version.</exception>
    /// <exception cref="LinuxException">
    /// EMFILE, ENFILE or ENOBUFS where there are too many; ENODEV without the interface, which is not guessed;
    /// EADDRINUSE where somebody has
    /// the port on every address, as a kernel rxe.
    /// </exception>
    public static UdpGroupSocket Join(
        UdpEndpoint endpoint, in EndpointAddress group, UdpEndpointOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(endpoint);
        options ??= endpoint.Options;
        options.Validate();
        EndpointAddress local = endpoint.LocalAddress;
        if (!group.IsMulticast || group.IsIPv4 != local.IsIPv4)
        {
            throw new ArgumentException($"{group} is no group that {local} can join", nameof(group));
        }

        EndpointAddress bound = group with { Port = local.Port };
        FileDescriptor socket = UdpSocketSetup.OpenGroup(bound, local, options, out uint index);
        return new UdpGroupSocket(socket, bound, local, index);
    }

    /// <summary>As <see cref="UdpEndpoint.TryReceive"/>.</summary>
    public Errno TryReceive(
        Span<byte> buffer, out int length, out int segmentBytes, out EndpointAddress source, out byte trafficClass) =>
        UdpReceiving.TryReceive(_socket, buffer, out length, out segmentBytes, out source, out trafficClass);

    /// <summary>Lets a watch, one, say when there is something to receive; ends with this object.</summary>
    /// <exception cref="LinuxException">As <see cref="DescriptorWatch.AddInput"/>.</exception>
    public void Watch(DescriptorWatch watch, ulong key)
    {
        ArgumentNullException.ThrowIfNull(watch);
        watch.AddInput(key, _socket);
        _watch = watch;
    }

    /// <summary>
    /// Leaves the group, and its watch; also where a forked child has a copy of the socket. What was not received is
    /// lost. Disposing twice is fine. Not beside another call.
    /// </summary>
    public void Dispose()
    {
        if (_socket.IsClosed)
        {
            return;
        }

        // Closing does both only with the last copy.
        _watch?.Remove(_socket);
        UdpSocketSetup.LeaveGroup(_socket, Group, _local, _interface);
        _socket.Dispose();
    }
}
