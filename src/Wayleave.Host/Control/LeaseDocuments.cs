using System.Text.Json.Serialization;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Control;

/// <summary>One end of an RDMA connection, as the other end must know it.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record ConnectionEndDocument
{
    /// <summary>The port's address: IPv4 dotted or IPv6.</summary>
    public required string Gid { get; init; }

    public required ushort UdpPort { get; init; }

    public required uint QpNumber { get; init; }

    /// <summary>The first PSN of its requests.</summary>
    public required uint Psn { get; init; }

    /// <summary>The largest payload it takes; both ends use the smaller one.</summary>
    public required int PathMtuBytes { get; init; }

    /// <summary>Its socket's receive buffer as the kernel accounts it; null when it is not known.</summary>
    public int? ReceiveBufferBytes { get; init; }

    /// <summary>How many packets it holds that come before their turn; 0 is none.</summary>
    public int FirstsAhead { get; init; }

    public static ConnectionEndDocument From(ConnectionEnd end)
    {
        ArgumentNullException.ThrowIfNull(end);
        return new ConnectionEndDocument
        {
            Gid = end.Gid.ToString(),
            UdpPort = end.UdpPort,
            QpNumber = end.QpNumber,
            Psn = end.Psn,
            PathMtuBytes = end.PathMtuBytes,
            ReceiveBufferBytes = end.ReceiveBufferBytes,
            FirstsAhead = end.FirstsAhead,
        };
    }

    /// <exception cref="WayleaveException">
    /// EINVAL: the address is none, or a number has more than the 24 bits it may have.
    /// </exception>
    public ConnectionEnd ToEnd()
    {
        const string Operation = "read the peer's end";
        const uint Bits24 = 0xFF_FFFF;
        if (!Devices.Rdma.Wire.Gid.TryParse(Gid, out Gid gid))
        {
            throw new WayleaveException(Errno.EINVAL, Operation, $"'{Gid}' is not an IPv4 or IPv6 address");
        }

        bool isSound = QpNumber <= Bits24 && Psn <= Bits24 && UdpPort != 0 && ReceiveBufferBytes is null or > 0
            && FirstsAhead >= 0;
        return isSound
            ? new ConnectionEnd(gid, UdpPort, QpNumber, Psn, PathMtuBytes)
            {
                ReceiveBufferBytes = ReceiveBufferBytes,
                FirstsAhead = FirstsAhead,
            }
            : throw new WayleaveException(
                Errno.EINVAL,
                Operation,
                "a queue pair's number and a PSN have 24 bits, a port is not 0, and a buffer has bytes");
    }
}

/// <summary>
/// <c>POST /v1/objects/{id}/leases</c>; answered by a stream of <see cref="LeaseEventDocument"/>, one per line.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record LeaseRequestDocument
{
    public required LeaseAccess Access { get; init; }

    /// <summary><c>dynamic</c> follows the object when it moves; <c>pinned_revocable</c> holds it in place.</summary>
    public ImporterKind Region { get; set; } = ImporterKind.Dynamic;

    public required ConnectionEndDocument Peer { get; init; }

    /// <summary>The port of the host's NIC; null for the one that its routes name.</summary>
    public int? Port { get; init; }
}

/// <summary>
/// <c>POST /v1/leases/{id}/connections</c>: one more queue pair of the same peer; answered by the host's end of it.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record ReconnectDocument
{
    public required ConnectionEndDocument Peer { get; init; }
}

/// <summary>A permission to reach an object over RDMA. It lasts as long as the stream that it came on.</summary>
public sealed record LeaseDocument
{
    public required ulong Id { get; init; }

    /// <summary>DEVICE/NAME.</summary>
    public required string ObjectName { get; init; }

    public required ulong ObjectId { get; init; }

    /// <summary>The host's end.</summary>
    public required ConnectionEndDocument Local { get; init; }

    public required uint Rkey { get; init; }

    /// <summary>The virtual address of the first byte.</summary>
    public required ulong Va { get; init; }

    public required ulong LengthBytes { get; init; }

    internal static LeaseDocument From(Lease lease) => new()
    {
        Id = lease.Id,
        ObjectName = lease.Target.ToString(),
        ObjectId = lease.Target.Id,
        Local = ConnectionEndDocument.From(lease.Local),
        Rkey = lease.Region.Key,
        Va = lease.Region.Iova,
        LengthBytes = lease.Region.LengthBytes,
    };
}

/// <summary>What a line of the stream says.</summary>
public enum LeaseEventKind
{
    /// <summary>The first line: the permission.</summary>
    Lease,

    /// <summary>Once a second: the host is alive.</summary>
    Heartbeat,

    /// <summary>The owner took the memory back. The key is dead, and stays taken until the holder leaves.</summary>
    Revoked,

    /// <summary>A last line: the object got its name, so nobody writes to it any more.</summary>
    Committed,

    /// <summary>A last line: the host ended the permission. A stream that ends without a last line was cut.</summary>
    Ended,
}

/// <summary>One line of the stream of a lease.</summary>
public sealed record LeaseEventDocument
{
    public string Schema { get; set; } = "wayleave.lease_event.v1";

    public required LeaseEventKind Event { get; init; }

    /// <summary>On the host's clock, in microseconds since it started.</summary>
    public required double AtUs { get; init; }

    public LeaseDocument? Lease { get; init; }

    /// <summary>Why it ended.</summary>
    public string? Reason { get; init; }
}
