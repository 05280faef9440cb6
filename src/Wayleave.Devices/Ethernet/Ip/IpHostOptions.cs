using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Ip;

/// <summary>How an <see cref="IpHost"/> is made. Copied at construction.</summary>
public sealed record IpHostOptions
{
    /// <summary>Of the NIC below.</summary>
    public MacAddress HardwareAddress { get; init; }

    /// <summary>
    /// At least one. With an IPv6 address among them the host has a link-local one too, made of its hardware address.
    /// </summary>
    public IReadOnlyList<InterfaceAddress> Addresses { get; init; } = [];

    /// <summary>Where packets to other networks go; null for nowhere.</summary>
    public IpAddress? GatewayIPv4 { get; init; }

    /// <summary>As above.</summary>
    public IpAddress? GatewayIPv6 { get; init; }

    /// <summary>The tag of every frame; null for none.</summary>
    public ushort? Vlan { get; init; }

    /// <summary>The endpoint above; its MTU is that of the link.</summary>
    public TcpEndpointOptions Tcp { get; init; } = new();

    /// <summary>Neighbours known at a time; the one unused for longest gives way.</summary>
    public int NeighboursMax { get; init; } = 1024;

    /// <summary>How long a neighbour's address counts without being asked for again.</summary>
    public TimeSpan NeighbourReachable { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>Between questions, of which there are three.</summary>
    public TimeSpan NeighbourRetry { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>Echo replies and ICMP errors per second, each.</summary>
    public int AnswersPerSecond { get; init; } = 1000;

    /// <summary>Answers that wait to be sent; further ones are dropped.</summary>
    public int AnswersMax { get; init; } = 64;

    /// <summary>Throws when the values do not work together, naming every problem at once.</summary>
    /// <exception cref="ArgumentException">One or more values are out of range.</exception>
    public void Validate()
    {
        List<string> problems = [];
        Check(Addresses.Count > 0, $"{nameof(Addresses)} must not be empty");
        Check(
            Addresses.All(a => a.Address.CanBeSource && !a.Address.IsUnspecified),
            $"{nameof(Addresses)} must be addresses of hosts");
        Check(!HardwareAddress.IsMulticast, $"{nameof(HardwareAddress)} must not be a group: {HardwareAddress}");
        Check(NeighboursMax >= 1, $"{nameof(NeighboursMax)} must be at least 1, not {NeighboursMax}");
        Check(AnswersMax >= 1, $"{nameof(AnswersMax)} must be at least 1, not {AnswersMax}");
        Check(AnswersPerSecond >= 0, $"{nameof(AnswersPerSecond)} must not be negative: {AnswersPerSecond}");
        Check(NeighbourReachable > TimeSpan.Zero, $"{nameof(NeighbourReachable)} must be positive");
        Check(NeighbourRetry > TimeSpan.Zero, $"{nameof(NeighbourRetry)} must be positive");
        Check(GatewayIPv4 is not { IsIPv4: false }, $"{nameof(GatewayIPv4)} must be an IPv4 address: {GatewayIPv4}");
        Check(GatewayIPv6 is not { IsIPv4: true }, $"{nameof(GatewayIPv6)} must be an IPv6 address: {GatewayIPv6}");
        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }

        void Check(bool holds, string problem)
        {
            if (!holds)
            {
                problems.Add(problem);
            }
        }
    }
}
