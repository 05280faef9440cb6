using System.Text.Json.Serialization;

namespace Wayleave.Host.Control;

/// <summary><c>POST /v1/devices/{device}/unplug</c>.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record UnplugDeviceDocument
{
    /// <summary>Out of the bus first, and then everybody learns of it.</summary>
    public bool Surprise { get; set; }

    /// <summary>How long to wait for proofs and for what is under way, in milliseconds.</summary>
    public int TimeoutMs { get; set; } = 5000;
}

/// <summary>What the removal of a device did.</summary>
public sealed record UnpluggedDocument
{
    public string Schema { get; set; } = "wayleave.unplug.v1";

    public required string Host { get; init; }

    public required string Device { get; init; }

    public required bool Surprise { get; init; }

    public required long ElapsedUs { get; init; }

    /// <summary>Leases that ended with it.</summary>
    public required int Leases { get; init; }

    /// <summary>Transfers to other hosts that ended with it.</summary>
    public required int Transfers { get; init; }

    /// <summary>One for each object that it had.</summary>
    public required IReadOnlyList<ProofDocument> Proofs { get; init; }

    /// <summary>What had not let go in time, by name; its memory is in quarantine and never given out.</summary>
    public required IReadOnlyList<string> Late { get; init; }
}

/// <summary>
/// <c>POST /v1/devices/{device}/reset</c>: what a reset of a VFIO function took back, or what one of an Ethernet NIC
/// threw away.
/// </summary>
public sealed record ResetDocument
{
    public string Schema { get; set; } = "wayleave.reset.v1";

    public required string Host { get; init; }

    public required string Device { get; init; }

    /// <summary>From the request to the moment at which buffers could be mapped again.</summary>
    public required long ElapsedUs { get; init; }

    /// <summary>
    /// One for each buffer that was alive: who was told to stop, and how it is known that he did. They are about the
    /// buffer's life before the reset.
    /// </summary>
    public required IReadOnlyList<ProofDocument> Proofs { get; init; }

    /// <summary>Receive queues that were started anew; absent for a VFIO function.</summary>
    public int? Queues { get; init; }

    /// <summary>Frames in their rings, which senders send again; absent for a VFIO function.</summary>
    public long? FramesDropped { get; init; }
}
