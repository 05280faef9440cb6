namespace Wayleave.Host.Configuration;

/// <summary>
/// Whether a NIC registers memory of devices as PeerDirect did, by which the key dies when the owner moves or frees the
/// memory, and what becomes of the client then.
/// </summary>
public enum LegacyPeerPolicy
{
    /// <summary>The client finds its region dead, and goes on.</summary>
    Tell,

    /// <summary>The client is ended with everything that it has, as some drivers did.</summary>
    EndProcess,

    /// <summary>No such regions (EOPNOTSUPP): what the kernel says that never took PeerDirect in.</summary>
    Refuse,
}
