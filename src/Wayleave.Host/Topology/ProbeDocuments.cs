using Wayleave.Core.Topology;

namespace Wayleave.Host.Topology;

/// <summary><c>POST /v1/probes</c>: which two devices to try.</summary>
public sealed record StartProbeDocument
{
    public required string One { get; init; }

    public required string Other { get; init; }

    /// <summary>How much to move each way; a multiple of 8.</summary>
    public ulong SizeBytes { get; set; } = 1 << 20;

    /// <summary>Try a route that an earlier probe marked, and lift the mark if all arrives.</summary>
    public bool Again { get; init; }
}

/// <summary>What a probe found. <see cref="Ok"/> is false when bytes of any allowed route did not arrive.</summary>
public sealed record ProbeDocument
{
    public string Schema { get; set; } = "wayleave.probe.v1";

    public required string Host { get; init; }

    public required bool Ok { get; init; }

    /// <summary>One per owner of memory among the two.</summary>
    public required IReadOnlyList<ProbedRouteDocument> Routes { get; init; }
}

/// <summary>What a probe found of one device's reach into the other's memory.</summary>
public sealed record ProbedRouteDocument
{
    /// <summary>Whose memory it was.</summary>
    public required string Owner { get; init; }

    /// <summary>Who reached for it.</summary>
    public required string Client { get; init; }

    /// <summary>What the rules said.</summary>
    public required PeerMapType MapType { get; init; }

    /// <summary>Absent when nothing was sent.</summary>
    public ProbedWayDocument? Write { get; init; }

    /// <summary>Absent when nothing was sent.</summary>
    public ProbedWayDocument? Read { get; init; }

    /// <summary>Requests of the client that vanished without an error.</summary>
    public long LostBytes { get; set; }

    /// <summary>Whether later maps are refused because of this or an earlier probe.</summary>
    public required bool MarkedBad { get; init; }

    /// <summary>Why nothing was sent, or what the mark says.</summary>
    public string? Reason { get; init; }
}

/// <summary>One direction.</summary>
/// <param name="Outcome">How it went.</param>
/// <param name="TriedBytes">What was sent.</param>
/// <param name="BadBytes">What did not arrive.</param>
/// <param name="FirstBadOffset">Where the first of it belonged.</param>
public sealed record ProbedWayDocument(
    ProbeOutcome Outcome, ulong TriedBytes, ulong BadBytes, ulong FirstBadOffset);
