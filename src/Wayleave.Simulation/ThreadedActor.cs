using System.Globalization;
using System.Runtime.ExceptionServices;
using Wayleave.Core;

namespace Wayleave.Simulation;

// One baton between the explorer's thread and the actor's. Whoever has it runs; the other waits for it on _baton.
//
//   explorer: Steps().MoveNext ----gives----> thread: runs the code under test to its next point
//   explorer: asks, chooses, checks <---gives back--- thread: parked in Stop, or finished
//   explorer: drops the run ----gives, _abandoned---> thread: Stop throws, the code unwinds, the thread ends

/// <summary>
/// Runs ordinary threaded code one piece at a time: the thread stops at every <see cref="Interleave"/> point and goes
/// on when it is chosen. Of all threads of a scenario one runs; so every order of the pieces can be made, and made
/// again.
/// </summary>
/// <remarks>
/// Between two points the code may not wait for another actor of the scenario: where it would, as at a lock, stands
/// <see cref="Interleave.Wait"/>. What this explores is orders of whole pieces under one memory order; weaker orders
/// are for a stress test on real threads.
/// </remarks>
public sealed class ThreadedActor
{
    // Not a limit on speed: a thread that has not come to a point by then waits for something the explorer cannot see.
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);

    [ThreadStatic]
    private static ThreadedActor? s_current;

    private readonly object _baton = new();
    private readonly Action _body;
    private Thread? _thread;
    private bool _threadHasBaton;
    private bool _finished;
    private bool _abandoned;
    private string _point = "start";
    private Func<bool>? _ready;
    private ExceptionDispatchInfo? _failure;

    static ThreadedActor()
    {
        Interleave.Hook = Stop;
        Interleave.WaitHook = StopUntil;
    }

    /// <param name="body">
    /// Runs once, on a thread of its own that is started with the first step and ends with the run.
    /// </param>
    /// <exception cref="InvalidOperationException">
    /// The process runs with its interleaving points off, so that nothing would be explored.
    /// </exception>
    public ThreadedActor(Action body)
    {
        ArgumentNullException.ThrowIfNull(body);
        if (!Interleave.Enabled)
        {
            throw new InvalidOperationException(
                "the interleaving points are off: start the process with the runtime option Wayleave.Interleave=true");
        }

        _body = body;
    }

    /// <summary>
    /// A point of the test's own, in code that an actor runs; does nothing on threads that no actor owns.
    /// </summary>
    public static void Stop(string point) => s_current?.Park(point, ready: null);

    /// <summary>As <see cref="Stop"/>, and the thread is not chosen before <paramref name="ready"/> holds.</summary>
    public static void StopUntil(string point, Func<bool> ready) => s_current?.Park(point, ready);

    /// <summary>
    /// The pieces of the body, for an <see cref="Actor"/>. Enumerated once; disposing the enumerator ends the thread.
    /// </summary>
    public IEnumerable<Step> Steps()
    {
        try
        {
            while (!_finished)
            {
                yield return new Step(_point, _ready);
                RunToNextPoint();
            }
        }
        finally
        {
            End();
        }
    }

    private void RunToNextPoint()
    {
        lock (_baton)
        {
            _threadHasBaton = true;
            if (_thread is null)
            {
                _thread = new Thread(Run) { IsBackground = true, Name = "explored" };
                _thread.Start();
            }

            Monitor.PulseAll(_baton);
            while (_threadHasBaton)
            {
                if (!Monitor.Wait(_baton, s_patience))
                {
                    throw new InvalidOperationException(string.Create(
                        CultureInfo.InvariantCulture,
                        $"no point for {s_patience.TotalSeconds:F0} s after '{_point}': the code waits out of sight"));
                }
            }
        }

        _failure?.Throw();
    }

    private void End()
    {
        if (_thread is null)
        {
            return;
        }

        lock (_baton)
        {
            if (_threadHasBaton)
            {
                return; // stuck between two points, and reported as such: there is no way to end it
            }

            _abandoned = true;
            _threadHasBaton = true;
            Monitor.PulseAll(_baton);
        }

        if (!_thread.Join(s_patience))
        {
            throw new InvalidOperationException(
                $"the thread does not end after '{_point}': its code swallows every exception");
        }
    }

    private void Run()
    {
        s_current = this;
        try
        {
            _body();
        }
        catch (Exception) when (_abandoned)
        {
            // The run is over: what unwinds here is the end of the thread, not a finding.
        }
        catch (Exception e)
        {
            _failure = ExceptionDispatchInfo.Capture(e);
        }

        lock (_baton)
        {
            _finished = true;
            _threadHasBaton = false;
            Monitor.PulseAll(_baton);
        }
    }

    private void Park(string point, Func<bool>? ready)
    {
        lock (_baton)
        {
            // Every point of an abandoned run throws, those in finally blocks too: a loop must not outlive its run.
            if (!_abandoned)
            {
                (_point, _ready) = (point, ready);
                _threadHasBaton = false;
                Monitor.PulseAll(_baton);
                while (!_threadHasBaton)
                {
                    Monitor.Wait(_baton);
                }
            }

            if (_abandoned)
            {
                throw new OperationCanceledException("the explorer has dropped this run");
            }
        }
    }
}
