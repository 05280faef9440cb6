namespace Wayleave.Devices.Ethernet.Steering;

/// <summary>What is hashed in place of the tuple (<c>RXH_XFRM_*</c>).</summary>
public enum RssTransform
{
    /// <summary>The tuple as it is.</summary>
    None,

    /// <summary>S^D, S^D, s^d, s^d: both directions of a flow hash alike.</summary>
    SymmetricXor,

    /// <summary>S|D, S^D, s|d, s^d: as above, and fewer flows hash alike.</summary>
    SymmetricOrXor,
}
