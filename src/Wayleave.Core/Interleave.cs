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

    /// <summary>Called at every point with its name. It may stop the calling thread until a scheduler lets it go on.</summary>
    public static Action<string>? Hook { get; set; }

    /// <summary>A place where another thread may run.</summary>
    public static void Point(string name)
    {
        if (Enabled)
        {
            Hook?.Invoke(name);
        }
    }
}
