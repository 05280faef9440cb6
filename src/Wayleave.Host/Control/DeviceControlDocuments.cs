namespace Wayleave.Host.Control;

/// <summary><c>POST /v1/devices/{device}/reset</c>: what a reset of a VFIO function took back.</summary>
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
}
