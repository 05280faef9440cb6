using System.Diagnostics;

namespace Wayleave.Host.Perftest;

/// <summary>
/// Whether everything has come that a peer without acknowledgements sent before it ended: its last word came by another
/// way and may be faster. Nothing has come for a while then, or there has been no end for long.
/// </summary>
internal sealed class PerftestDrain
{
    private const int LooksMin = 64;

    private static readonly TimeSpan s_quiet = TimeSpan.FromMilliseconds(5);
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(1);

    private readonly long _start = Stopwatch.GetTimestamp();
    private long _quietSince = Stopwatch.GetTimestamp();
    private int _looks; // since something came

    /// <summary>After each look, the first of which is after the end of the peer.</summary>
    /// <param name="found">Whether something had come.</param>
    /// <returns>Nothing more is waited for.</returns>
    public bool IsOver(bool found)
    {
        if (Stopwatch.GetElapsedTime(_start) > s_longest)
        {
            return true;
        }

        if (found)
        {
            (_quietSince, _looks) = (Stopwatch.GetTimestamp(), 0);
            return false;
        }

        return ++_looks >= LooksMin && Stopwatch.GetElapsedTime(_quietSince) >= s_quiet;
    }
}
