namespace Wayleave.Core.Topology;

/// <summary>
/// Access Control Services of a port or function (<c>PCI_ACS_*</c> of <c>pci_regs.h</c>, same bits): which requests it
/// sends upstream although their target is its neighbour.
/// </summary>
[Flags]
public enum AcsControl
{
    None = 0,
    SourceValidation = 0x01,
    TranslationBlocking = 0x02,

    /// <summary>Peer requests go to the root complex.</summary>
    RequestRedirect = 0x04,

    /// <summary>Completions of peer requests go to the root complex.</summary>
    CompletionRedirect = 0x08,
    UpstreamForwarding = 0x10,

    /// <summary>Egress control: the port decides by a table, which the kernel takes for a redirect.</summary>
    EgressControl = 0x20,
    DirectTranslated = 0x40,

    /// <summary>What <c>pci_bridge_has_acs_redir</c> looks at.</summary>
    AnyRedirect = RequestRedirect | CompletionRedirect | EgressControl,
}
