namespace Wayleave.Host.Runners;

/// <summary>How a NIC is driven. The defaults are those of docs/adr/0005.</summary>
public sealed record NicDriverOptions
{
    /// <summary>
    /// Frames handled each way while the port token is held: longer holds keep readers from returning their tokens.
    /// </summary>
    public int BatchFrames { get; init; } = 16;

    /// <summary>How long the engine thread stays away while an application drives the port itself.</summary>
    public TimeSpan EngineStandBack { get; init; } = TimeSpan.FromMilliseconds(1);

    /// <summary>How long the engine thread looks for work before it sleeps in poll(2).</summary>
    public TimeSpan EngineIdleSpin { get; init; } = TimeSpan.FromMicroseconds(50);

    /// <summary>The longest sleep; a deadline of the protocols cuts it short.</summary>
    public TimeSpan EngineSleepMax { get; init; } = TimeSpan.FromMilliseconds(100);

    /// <summary>Whether there is an engine thread at all: who always polls may do without.</summary>
    public bool HasEngine { get; init; } = true;
}
