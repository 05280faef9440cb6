using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Devices.Gpu;

namespace Wayleave.Host.Runners;

/// <summary>
/// The thread of a copy or compute engine: it sleeps until a job may be ready and then drives the engine. It takes the
/// engine token, never holds the host lock while it touches memory, and ends when disposed, after the block in hand.
/// </summary>
public sealed class EngineRunner : IDisposable
{
    // Blocks between two looks at the stop flag.
    private const int StepsPerTurn = 64;

    // About what a sleep and a wake cost: who submits one job after the other finds the engine awake.
    private static readonly TimeSpan s_idleSpin = TimeSpan.FromMicroseconds(20);

    // Who rings on the processor of the engine gets it so often before the engine sleeps, however long he keeps it.
    private const int YieldsMin = 4;

    private readonly IDrivenEngine _engine;
    private readonly HostContext _host;
    private readonly AutoResetEvent _work = new(initialState: false);
    private readonly Thread _thread;
    private readonly ProcessorMark _ringer = new();
    private bool _isAsleep; // or about to be
    private volatile bool _stopping;
    private volatile Exception? _failure;

    public EngineRunner(IDrivenEngine engine, HostContext host, string name)
    {
        ArgumentNullException.ThrowIfNull(engine);
        _engine = engine;
        _host = host;
        engine.WorkAvailable = HandleWorkAvailable;
        _thread = new Thread(Run) { IsBackground = true, Name = name };
        _thread.Start();
    }

    /// <summary>What stopped the thread, or null.</summary>
    public Exception? Failure => _failure;

    /// <summary>Where the thread runs, for who spins until the engine is done.</summary>
    internal ProcessorMark Processor { get; } = new();

    public void Dispose()
    {
        if (!_stopping)
        {
            _stopping = true;
            _work.Set(); // whether it sleeps or not: the event stays set for a sleep that is about to begin
            _thread.Join();
            _engine.WorkAvailable = null;
            _work.Dispose();
        }
    }

    // Called behind an interlocked operation: either it sees the announcement, or Sleep sees the job.
    private void HandleWorkAvailable()
    {
        _ringer.Note();
        if (Volatile.Read(ref _isAsleep))
        {
            _work.Set();
        }
    }

    private bool SpinForWork()
    {
        long start = Stopwatch.GetTimestamp();
        int yields = 0;
        while (_engine.IsIdle || !_engine.HasDoorbell)
        {
            bool mustYield = _ringer.IsHere;
            if (_stopping
                || (Stopwatch.GetElapsedTime(start) >= s_idleSpin && !(mustYield && yields < YieldsMin)))
            {
                return false;
            }

            if (mustYield)
            {
                yields++;
                Thread.Yield(); // back at once if the mark is out of date
            }
            else
            {
                Thread.SpinWait(10);
            }
        }

        return true;
    }

    private void Sleep()
    {
        Volatile.Write(ref _isAsleep, true);
        Interlocked.MemoryBarrier();
        if (!_engine.HasDoorbell && !_stopping)
        {
            _work.WaitOne();
        }

        Volatile.Write(ref _isAsleep, false);
    }

    private void Run()
    {
        try
        {
            while (!_stopping)
            {
                Processor.Note();
                if (_engine.Drive(StepsPerTurn) == 0 && !SpinForWork())
                {
                    Sleep();
                }
            }
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // Nobody drives the engine from now on, and a thread that has ended touches no memory: its jobs end with an
            // error. The status says why.
            _failure = e;
            _host.Trace("engine.failed", e.Message);
            using (_host.Enter())
            {
                _engine.HandleDriverEnded();
            }
        }
    }
}
