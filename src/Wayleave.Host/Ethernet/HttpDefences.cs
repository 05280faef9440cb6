namespace Wayleave.Host.Ethernet;

/// <summary>
/// The defences of uploads against hostile requests, each of which a test can take away to show that its absence is
/// noticed. Everything is on in a product.
/// </summary>
internal sealed record HttpDefences
{
    public static HttpDefences All { get; } = new();

    /// <summary>RFC 9112 6.3: a length that is said twice, or beside a transfer coding, is refused.</summary>
    public bool RefusesAmbiguousLengths { get; init; } = true;

    /// <summary>An object that did not come by the same reception is not replaced.</summary>
    public bool KeepsOthersObjects { get; init; } = true;
}
