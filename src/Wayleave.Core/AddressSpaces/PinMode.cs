namespace Wayleave.Core.AddressSpaces;

/// <summary>How pages are held (<c>FOLL_*</c>).</summary>
[Flags]
public enum PinMode
{
    None = 0,

    /// <summary>For writing (<c>FOLL_WRITE</c>).</summary>
    Write = 1 << 0,

    /// <summary>
    /// Until somebody says otherwise, perhaps never (<c>FOLL_LONGTERM</c>): only what may stay for ever.
    /// </summary>
    LongTerm = 1 << 1,

    /// <summary>Pages of BARs are welcome (<c>FOLL_PCI_P2PDMA</c>); not for long.</summary>
    PeerToPeer = 1 << 2,

    /// <summary>A pin: a device will reach the content (<c>FOLL_PIN</c>).</summary>
    Pin = 1 << 3,

    /// <summary>A reference only (<c>FOLL_GET</c>): for who looks at the page and not at its content.</summary>
    Get = 1 << 4,

    /// <summary>Only what is there: no lock, no fault (<c>FOLL_FAST_ONLY</c>).</summary>
    FastOnly = 1 << 5,
}
