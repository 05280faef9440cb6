using System.Net;
using System.Net.Sockets;
using Wayleave.Lab.Machine;
using static Wayleave.Lab.Rdma.TransportCases;

namespace Wayleave.Lab.Rdma;

/// <summary>
/// A group that both programs of <c>rxe-multicast</c> are in: our device on the host, the kernel's in the guest.
/// </summary>
/// <param name="Name">For files and messages.</param>
/// <param name="Host">Our end.</param>
/// <param name="Guest">The kernel's end.</param>
/// <param name="Group">What both are attached to.</param>
/// <param name="Other">What neither is.</param>
internal sealed record MulticastCase(string Name, IPAddress Host, IPAddress Guest, IPAddress Group, IPAddress Other)
{
    /// <summary>A datagram with a pad.</summary>
    internal const int Bytes = 1_001;

    /// <summary>Of a group.</summary>
    internal const uint QueuePair = 0xFFFFFF;

    /// <summary>Datagrams each way with mckey, whose Q_Key is that of rdma_cm for datagrams.</summary>
    internal const int MckeyCount = 5;

    internal const int MckeyBytes = 100;

    internal const uint MckeyQKey = 0x01234567;

    internal static IReadOnlyList<MulticastCase> All { get; } =
    [
        new("ipv4", Parse(HostNetwork.HostAddress), Parse(HostNetwork.GuestAddress), Parse("239.88.1.1"),
            Parse("239.88.1.2")),
        new("ipv6", Parse(HostNetwork.HostAddress6), Parse(HostNetwork.GuestAddress6), Parse("ff15::88:1"),
            Parse("ff15::88:2")),
    ];

    /// <summary>The group that mckey joins.</summary>
    internal static MulticastCase Mckey { get; } = All[0] with { Name = "mckey", Group = Parse("239.88.1.3") };

    /// <summary>
    /// Whether what stands before the data says that it was sent to the group: the header of its network layer, in the
    /// last bytes if that is IPv4.
    /// </summary>
    internal string? CheckHeader(ReadOnlySpan<byte> header)
    {
        byte[] group = Group.GetAddressBytes();
        ReadOnlySpan<byte> said = header.Slice(DatagramHeaderBytes - group.Length, group.Length);
        return said.SequenceEqual(group) ? null : $"the header says {new IPAddress(said)} and not {Group}";
    }

    /// <summary>Also a program without a socket of its own is heard where its host is in the group.</summary>
    internal Socket Join()
    {
        Socket socket = new(Group.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
        if (Group.AddressFamily == AddressFamily.InterNetwork)
        {
            socket.SetSocketOption(
                SocketOptionLevel.IP, SocketOptionName.AddMembership, new MulticastOption(Group, Guest));
        }
        else
        {
            int index = System.Net.NetworkInformation.NetworkInterface.GetAllNetworkInterfaces()
                .Single(i => i.Name == "eth0").GetIPProperties().GetIPv6Properties().Index;
            socket.SetSocketOption(
                SocketOptionLevel.IPv6, SocketOptionName.AddMembership, new IPv6MulticastOption(Group, index));
        }

        return socket;
    }

    private static IPAddress Parse(string text) => IPAddress.Parse(text);
}
