using System.Text.Json.Serialization;
using Wayleave.Core.Topology;

namespace Wayleave.Host.Control;

/// <summary>
/// <c>POST /v1/objects/{device}/{name}/load</c>, from the Unix socket only: a file of this machine, read by a drive of
/// the host into an object of that name.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record LoadObjectDocument
{
    /// <summary>Absolute.</summary>
    public required string Path { get; init; }

    /// <summary>Which drive; absent for the first.</summary>
    public string? Drive { get; init; }

    /// <summary>Fail rather than let bytes pass through system memory.</summary>
    public bool DenyStaging { get; set; }

    /// <summary>Fail when no command ends for so long; -1 for no limit.</summary>
    public int StallTimeoutMs { get; set; } = DriveEndpoints.StallTimeoutMsDefault;
}

/// <summary>
/// <c>POST /v1/objects/{device}/{name}/save</c>, from the Unix socket only: the object, written by a drive of the host
/// into a file of this machine, which appears under its name when it is whole.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record SaveObjectDocument
{
    /// <summary>Absolute.</summary>
    public required string Path { get; init; }

    /// <summary>Which drive; absent for the first.</summary>
    public string? Drive { get; init; }

    /// <summary>Fail rather than let bytes pass through system memory.</summary>
    public bool DenyStaging { get; set; }

    /// <summary>Fail when no command ends for so long; -1 for no limit.</summary>
    public int StallTimeoutMs { get; set; } = DriveEndpoints.StallTimeoutMsDefault;
}

/// <summary>What a load or a save did.</summary>
public sealed record DriveCopyDocument
{
    /// <summary><c>wayleave.load.v1</c> or <c>wayleave.save.v1</c>.</summary>
    public required string Schema { get; init; }

    public required string Drive { get; init; }

    public required string Device { get; init; }

    public required string Name { get; init; }

    public required ulong Bytes { get; init; }

    /// <summary>Bytes that passed through system memory.</summary>
    public required ulong StagingBytes { get; init; }

    /// <summary>How the drive may reach the device's memory.</summary>
    public required PeerMapType Route { get; init; }

    /// <summary>Hops, or -1.</summary>
    public required int Distance { get; init; }

    /// <summary>Why bytes were staged; absent when none were.</summary>
    public string? StagingReason { get; init; }

    public required long ElapsedUs { get; init; }
}
