namespace Wayleave.Core;

/// <summary>
/// What keeps an invariant of the core, one flag each. All are on but in a test that shows that the invariant breaks
/// without one of them.
/// </summary>
[Flags]
internal enum CoreDefences
{
    None = 0,

    /// <summary>A younger ticket that holds a lock does not wait behind an older one.</summary>
    WaitDie = 1 << 0,

    /// <summary>A fence that was forced says nothing about its work.</summary>
    ForcedIsNoEvidence = 1 << 1,

    /// <summary>Nobody ends the fences of an engine that may still run.</summary>
    StopBeforeEnd = 1 << 2,

    /// <summary>A wait that closes a circle is refused.</summary>
    WaitGraph = 1 << 3,

    /// <summary>A container hands a deadline on to what it is made of.</summary>
    DeadlineForwarding = 1 << 4,

    /// <summary>The garbage collection of a chain keeps links whose work has not ended.</summary>
    ChainKeepsEvidence = 1 << 5,

    /// <summary>A map that fails gives back the pin it began with.</summary>
    UnpinsFailedMap = 1 << 6,

    /// <summary>A poll reports ready only what no fence keeps busy.</summary>
    PollLooksAtFences = 1 << 7,

    /// <summary>Memory leaves a quarantine by evidence, not when its owner stops waiting.</summary>
    QuarantineWaitsForProof = 1 << 8,

    /// <summary>A revoke waits until every mapping has ended, not only every fence.</summary>
    RevokeWaitsForUnmap = 1 << 9,

    /// <summary>What a mirror saw is used only if nothing was invalidated since it began to look.</summary>
    RetriesMirrors = 1 << 10,

    /// <summary>Pages that somebody else shows or holds are found before they are copied.</summary>
    IsolatesPages = 1 << 11,

    /// <summary>Who pins or holds a page is counted in it.</summary>
    CountsPins = 1 << 12,

    /// <summary>Reclaim tells the mirrors of a page before it takes the page.</summary>
    TellsBeforeReclaim = 1 << 13,

    /// <summary>A migration takes up the pages of a folio that somebody splits on its way.</summary>
    FollowsSplits = 1 << 14,

    /// <summary>Mirrors are told of all pages of a folio that comes home because one was touched.</summary>
    TellsOfFolios = 1 << 15,

    All = WaitDie | ForcedIsNoEvidence | StopBeforeEnd | WaitGraph | DeadlineForwarding | ChainKeepsEvidence
        | UnpinsFailedMap | PollLooksAtFences | QuarantineWaitsForProof | RevokeWaitsForUnmap | RetriesMirrors
        | IsolatesPages | CountsPins | TellsBeforeReclaim | FollowsSplits | TellsOfFolios,
}
