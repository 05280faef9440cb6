namespace Wayleave.Devices.Ethernet;

/// <summary>
/// The defences of the receive path, each of which a test can take away to show that its absence is noticed. Everything
/// is on in a product.
/// </summary>
public sealed record NicDefences
{
    public static NicDefences All { get; } = new();

    /// <summary>
    /// Every frame looks for the current translation; without it, the first one ever is good enough.
    /// </summary>
    public bool ReadsTranslationPerFrame { get; init; } = true;

    /// <summary>Every access to bound memory goes through the gate of its translation.</summary>
    public bool EntersGate { get; init; } = true;

    /// <summary>
    /// A frame that a link read straight into bound memory is looked at like any other, and taken out again when it is
    /// not the binding's.
    /// </summary>
    public bool ChecksScatteredFrames { get; init; } = true;

    /// <summary>A binding that was given up keeps its memory until every chunk has come home.</summary>
    public bool KeepsMemoryForTokens { get; init; } = true;

    /// <summary>A reset gives back the references of the ring and nobody else's.</summary>
    public bool ResetKeepsForeignReferences { get; init; } = true;

    /// <summary>A token that was returned does not name the next piece that is handed out.</summary>
    public bool AgesTokens { get; init; } = true;
}
