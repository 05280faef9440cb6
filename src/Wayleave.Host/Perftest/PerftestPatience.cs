using System.Diagnostics;
using Wayleave.Core;

namespace Wayleave.Host.Perftest;

/// <summary>
/// Gives up when the peer is silent: soon, if it is known to have ended.
/// </summary>
/// <param name="isPeerGone">Whether the exchange has said that the peer has ended.</param>
/// <param name="readProgress">Changes with everything that gets on.</param>
/// <param name="options">For how long, and what the peer is called.</param>
internal sealed class PerftestPatience(Func<bool> isPeerGone, Func<long> readProgress, PerftestOptions options)
{
    private const int BusyLooksMax = 4096;

    // To ask how far the peer is takes the port from others for a moment.
    private static readonly TimeSpan s_pause = TimeSpan.FromMilliseconds(5);

    // What a peer has sent before its end, or an acknowledgement, may come behind the news of it.
    private static readonly TimeSpan s_afterEnd = TimeSpan.FromSeconds(1);

    private int _busyLooks;
    private bool _isIdle;
    private long _idleSince;
    private long _progress;
    private long _since = Stopwatch.GetTimestamp();

    /// <summary>
    /// After each look at the completion queue. A look that finds nothing may give the processor away and last as long
    /// as others have it: what is counted is time.
    /// </summary>
    /// <param name="isBusy">Whether that found, or did, something.</param>
    /// <param name="cancellation">Ends the run.</param>
    /// <exception cref="WayleaveException">ECONNRESET: the peer has ended; ETIMEDOUT: it is silent.</exception>
    public void Look(bool isBusy, CancellationToken cancellation)
    {
        // Who sends what nobody acknowledges is busy for ever.
        if (isBusy && !isPeerGone())
        {
            _isIdle = false;
            if (++_busyLooks >= BusyLooksMax)
            {
                _busyLooks = 0;
                cancellation.ThrowIfCancellationRequested();
            }

            return;
        }

        if (!_isIdle)
        {
            (_isIdle, _idleSince) = (true, Stopwatch.GetTimestamp());
        }

        if (Stopwatch.GetElapsedTime(_idleSince) < s_pause)
        {
            return;
        }

        _isIdle = false;
        cancellation.ThrowIfCancellationRequested();
        long progress = readProgress();
        if (progress != _progress)
        {
            (_progress, _since) = (progress, Stopwatch.GetTimestamp());
            return;
        }

        TimeSpan silence = Stopwatch.GetElapsedTime(_since);
        if (isPeerGone() && silence > s_afterEnd)
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
