namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// How many completions share an event (<c>struct ibv_moderate_cq</c>): it comes with the one that makes the count, or
/// so long after the first, whatever is earlier. A failed or solicited completion does not wait.
/// </summary>
/// <param name="Count">1 for an event as soon as there is one.</param>
/// <param name="Period">Zero for no limit.</param>
public readonly record struct EventModeration(int Count, TimeSpan Period)
{
    /// <summary>No moderation.</summary>
    public static EventModeration None { get; } = new(1, TimeSpan.Zero);
}
