using System.Diagnostics;
using Wayleave.Core;

namespace Wayleave.Host.Perftest;

/// <summary>
/// Gives way to others while nothing happens, and gives up when the peer is silent: soon, if it is known to have ended.
/// </summary>
internal sealed class PerftestPatience(PerftestEnd end, PerftestOptions options)
{
    private const int LooksMax = 4096;

    // What a peer has sent before its end, or an acknowledgement, may come behind the news of it.
    private static readonly TimeSpan s_afterEnd = TimeSpan.FromSeconds(1);

    private int _looks;
    private int _idle;
    private long _progress;
    private long _since = Stopwatch.GetTimestamp();

    /// <summary>After each look at the completion queue.</summary>
    /// <param name="isBusy">Whether that found, or did, something.</param>
    /// <param name="cancellation">Ends the run.</param>
    /// <exception cref="WayleaveException">ECONNRESET: the peer has ended; ETIMEDOUT: it is silent.</exception>
    public void Look(bool isBusy, CancellationToken cancellation)
    {
        if (++_looks >= LooksMax)
        {
            _looks = 0;
            cancellation.ThrowIfCancellationRequested();
        }

        // Who sends what nobody acknowledges is busy for ever.
        _idle = isBusy && !end.IsPeerGone ? 0 : _idle + 1;
        if (_idle < LooksMax)
        {
            return;
        }

        _idle = 0;
        Thread.Yield();
        long progress = end.ReadProgress();
        if (progress != _progress)
        {
            (_progress, _since) = (progress, Stopwatch.GetTimestamp());
            return;
        }

        TimeSpan silence = Stopwatch.GetElapsedTime(_since);
        if (end.IsPeerGone && silence > s_afterEnd)
        {
            throw new WayleaveException(Errno.ECONNRESET, "perftest", "the peer has ended before the run has");
        }

        if (silence > options.Patience)
        {
            throw new WayleaveException(
                Errno.ETIMEDOUT,
                "perftest",
                $"nothing gets on for {options.Patience.TotalSeconds:0.#} s",
                $"is the peer's {options.ToolName} still there, with the same options as here?");
        }
    }
}
