namespace Wayleave.Core.Topology;

/// <summary>The processor of a host, as far as peer-to-peer depends on it.</summary>
/// <param name="Vendor">As CPUID says it: <c>AuthenticAMD</c>, <c>GenuineIntel</c>.</param>
/// <param name="Family">With the extended family added: 0x17 is Zen.</param>
public sealed record BootProcessor(string Vendor, int Family)
{
    /// <summary>No processor that anybody has heard of: only the allow list counts.</summary>
    public static BootProcessor Unknown { get; } = new("unknown", 0);

    /// <summary><c>cpu_supports_p2pdma</c>: every AMD processor since Zen.</summary>
    public bool ForwardsPeerRequests => Vendor == "AuthenticAMD" && Family >= 0x17;
}

/// <summary>
/// Host bridges that are known to pass requests from one root port to another (<c>pci_p2pdma_whitelist</c> of
/// <c>drivers/pci/p2pdma.c</c>, 7.2).
/// </summary>
public static class HostBridgeAllowList
{
    private const ushort Intel = 0x8086;
    private const ushort Google = 0x1ae0;

    /// <summary>Good for two functions below one of them, not for two bridges.</summary>
    private static readonly HashSet<PciId> s_sameBridgeOnly =
    [
        new(Intel, 0x3c00), new(Intel, 0x3c01), // Xeon E5
        new(Intel, 0x2f00), new(Intel, 0x2f01), // Xeon E7 v3
    ];

    private static readonly HashSet<PciId> s_any =
    [
        new(Intel, 0x2020), // Sky Lake-E, and its root ports
        new(Intel, 0x2030), new(Intel, 0x2031), new(Intel, 0x2032), new(Intel, 0x2033),
        new(Intel, 0x09a2), // Ice Lake-SP and Sapphire Rapids
        new(Intel, 0x0b25), new(Intel, 0x0cfe), // DSA, IAX of Sapphire Rapids
        new(Intel, 0x11fb), new(Intel, 0x1212), new(Intel, 0x1216), // DSA, IAX of Granite Rapids D and Diamond Rapids
        new(Intel, 0x4940), new(Intel, 0x4942), new(Intel, 0x4944), new(Intel, 0x4946), new(Intel, 0x4948), // QAT
    ];

    /// <summary>Whether the bridge that <paramref name="identity"/> stands for is listed.</summary>
    public static bool Contains(PciId identity, bool isSameBridge) =>
        identity.Vendor == Google || s_any.Contains(identity) || (isSameBridge && s_sameBridgeOnly.Contains(identity));

    /// <summary>Whether it is listed, but only for two functions below one bridge.</summary>
    public static bool IsSameBridgeOnly(PciId identity) => s_sameBridgeOnly.Contains(identity);
}
