using Wayleave.Core.Retirement;

namespace Wayleave.Core.Buffers;

/// <summary>
/// Somebody who reaches a buffer's memory without asking again, until it lets go: what a revoke has to hear from before
/// it is over. Host lock held by the caller.
/// </summary>
internal interface IMemoryHold
{
    /// <summary>For people and proofs.</summary>
    string Name { get; }

    /// <summary>On whose behalf, for the accounts of a quarantine.</summary>
    string Holder { get; }

    string DeviceName { get; }

    ImporterKind Kind { get; }

    /// <summary>Whether it can be made to stop.</summary>
    bool IsRevocable { get; }

    /// <summary>Whether it still reaches the memory.</summary>
    bool IsMapped { get; }

    /// <summary>What it did since it was told to stop, or since nobody could tell it; null before.</summary>
    ImporterEvidence? Evidence { get; }
}
