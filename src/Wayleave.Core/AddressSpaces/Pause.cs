using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

/// <summary>A place where an operation lets others run.</summary>
/// <param name="Next">What it does then, for people.</param>
/// <param name="Ready">What it waits for; null when it waits for nothing. Reads state and changes none.</param>
/// <param name="For">Who has it, for the graph of waits; null where that is said elsewhere.</param>
internal readonly record struct Pause(string Next, Func<bool>? Ready = null, IWaitNode? For = null)
{
    /// <summary>
    /// A device is at work on memory that this operation holds: whoever is killed here ends only afterwards.
    /// </summary>
    public bool IsUninterruptible { get; init; }

    public static implicit operator Pause(string next) => new(next);
}
