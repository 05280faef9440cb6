using System.Diagnostics;

namespace Wayleave.Host.Perftest;

/// <summary>
/// Whether everything has come that a peer without acknowledgements sent before it ended: its last word came by another
/// way and may be faster. Nothing has come for a while then, or more than a socket can hold: others may send for ever.
/// </summary>
internal sealed class PerftestDrain
{
    private const int LooksMin = 512;
    private const int LooksMax = 1 << 20; // a million packets: more than any buffer has

    private static readonly TimeSpan s_quiet = TimeSpan.FromMilliseconds(5);

    private long _quietSince = Stopwatch.GetTimestamp();
    private int _looks; // since something came
    private int _all;

    /// <summary>After each look, the first of which is after the end of the peer.</summary>
    /// <param name="found">Whether something had come.</param>
    /// <returns>Nothing more is waited for.</returns>
    public bool IsOver(bool found)
    {
        _all++;
        if (found)
        {
            (_quietSince, _looks) = (Stopwatch.GetTimestamp(), 0);
            return _all >= LooksMax;
        }

        return ++_looks >= LooksMin && Stopwatch.GetElapsedTime(_quietSince) >= s_quiet;
    }
}
