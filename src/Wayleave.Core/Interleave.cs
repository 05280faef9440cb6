using System.Diagnostics.CodeAnalysis;

namespace Wayleave.Core;

/// <summary>
/// Marks the places of lock-free code where another thread may run. A test sets <see cref="Hook"/> and turns the switch
/// <c>Wayleave.Interleave</c> on; without it the compiler removes the call.
/// </summary>
public static class Interleave
{
    /// <summary>Whether this process was started with the switch on.</summary>
    [FeatureSwitchDefinition("Wayleave.Interleave")]
    public static bool Enabled { get; } = AppContext.TryGetSwitch("Wayleave.Interleave", out bool on) && on;

    /// <summary>
    /// Called at every point with its name. It may stop the calling thread until a scheduler lets it go on.
    /// </summary>
    public static Action<string>? Hook { get; set; }

    /// <summary>
    /// Called where the calling thread is about to wait, with the condition it waits for. It may stop the thread until
    /// a scheduler finds that the condition holds.
    /// </summary>
    public static Action<string, Func<bool>>? WaitHook { get; set; }

    /// <summary>A place where another thread may run.</summary>
    public static void Point(string name)
    {
        if (Enabled)
        {
            Hook?.Invoke(name);
        }
    }

    /// <summary>
    /// Stands before a blocking acquire, so that a scheduler that runs one thread at a time does not choose one that
    /// would block. The acquire itself still follows: outside a test nothing has waited here.
    /// </summary>
    public static void Wait(string name, Func<bool> isReady)
    {
        if (Enabled)
        {
            WaitHook?.Invoke(name, isReady);
        }
    }
}
