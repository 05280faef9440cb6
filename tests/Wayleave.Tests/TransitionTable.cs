using System.Text;

namespace Wayleave.Tests;

/// <summary>Every state by every event of a machine, as text for a snapshot.</summary>
internal static class TransitionTable
{
    public static string Of<TState, TEvent>(Func<TState, TEvent, TState?> next)
        where TState : struct, Enum
        where TEvent : struct, Enum
    {
        StringBuilder text = new();
        foreach (TState state in Enum.GetValues<TState>())
        {
            foreach (TEvent ev in Enum.GetValues<TEvent>())
            {
                text.Append($"{state,-12} {ev,-15} {next(state, ev)?.ToString() ?? "-"}\n");
            }
        }

        return text.ToString();
    }
}
