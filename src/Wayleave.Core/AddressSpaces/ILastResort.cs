namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// Somebody who holds pages that reclaim must pass over, and who would rather end than be the reason why there is no
/// memory: what the OOM killer looks for. Host lock held by the caller of its members.
/// </summary>
public interface ILastResort
{
    /// <summary>How many pages would be free afterwards.</summary>
    long PageCount { get; }

    /// <summary>
    /// Begins to end; returns at once. Called at most once, when an allocation has found nothing left to take.
    /// </summary>
    void GiveUp();
}
