using System.Globalization;

namespace Wayleave.Linux;

/// <summary>How a <see cref="UdpEndpoint"/> is set up.</summary>
public sealed record UdpEndpointOptions
{
    /// <summary>
    /// Bytes asked for with SO_RCVBUF, or null for net.core.rmem_default. The kernel doubles the number and, without
    /// CAP_NET_ADMIN, caps it at net.core.rmem_max; <see cref="UdpEndpoint.ReceiveBufferBytes"/> says what came of it.
    /// </summary>
    /// <remarks>
    /// On the loopback a super-packet is charged with its bytes and 832 more, however many segments it has: 212,992,
    /// the usual cap of an unprivileged user, doubled, holds six full ones, and 4 MiB where the system allows it more
    /// than a hundred. What was read is given back in lumps of up to a quarter of the buffer: count on three quarters.
    /// </remarks>
    public int? ReceiveBufferBytes { get; init; } = 4 << 20;

    /// <summary>
    /// The same for SO_SNDBUF, net.core.wmem_default and net.core.wmem_max. What is sent stays charged until the device
    /// has it; on the loopback, not at all.
    /// </summary>
    public int? SendBufferBytes { get; init; } = 4 << 20;

    /// <summary>
    /// The TOS byte (IPv4) or traffic class (IPv6) of what is sent: DSCP in the upper six bits, ECN in the lower two.
    /// </summary>
    public byte TrafficClass { get; init; }

    /// <summary>
    /// Interface index; needed to bind an IPv6 link-local address, and then used for link-local destinations too.
    /// </summary>
    public uint ScopeId { get; init; }

    /// <summary>
    /// Whether the kernel may hand over several datagrams of one sender as one super-packet (UDP_GRO).
    /// </summary>
    public bool ReceiveOffload { get; init; } = true;

    /// <exception cref="ArgumentException">Names every problem at once.</exception>
    public void Validate()
    {
        List<string> problems = [];
        AddProblem(problems, nameof(ReceiveBufferBytes), ReceiveBufferBytes);
        AddProblem(problems, nameof(SendBufferBytes), SendBufferBytes);
        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }
    }

    private static void AddProblem(List<string> problems, string name, int? bytes)
    {
        // The kernel stores twice the number in an int.
        if (bytes is <= 0 or > int.MaxValue / 2)
        {
            problems.Add(string.Create(
                CultureInfo.InvariantCulture, $"{name} is {bytes}; it must be between 1 and {int.MaxValue / 2} bytes"));
        }
    }
}
