using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Linux;

namespace Wayleave.Ports;

// Who calls what:
//
//   engine thread   Step, one after the other. It drives by PortDriver.Drive, which takes the port token for each turn;
//                   away, spinning or asleep it holds nothing. Where the driver has no engine there is no such thread;
//                   the end of a turn is noted all the same, since every turn asks AwaitsSendRoom
//   token holder    NoteApplicationTurn, NoteFullSocket, NoteTurn: nobody else writes those words
//   any thread      NotePoll, before it tries the token; WakeForWorkLeft, behind its turn, when it has given the token
//                   back; ExpectWait; Wake. None of them blocks, and none needs a lock
//
// DriverSleep and StandBack say which barriers let one side see what the other wrote.

/// <summary>
/// The thread that drives the port of a <see cref="PortDriver"/> when nobody else does: how it stands back while an
/// application polls, looks for work, and sleeps.
/// </summary>
internal sealed class PortEngine
{
    private readonly PortDriver _driver;
    private readonly UdpEndpoint[] _endpoints;
    private readonly UdpEndpoint _first; // whose wake event everybody uses
    private readonly GroupSockets _groups;
    private readonly HostContext _host;
    private readonly PortDriverOptions _options;
    private readonly Thread? _thread;
    private readonly DriverSleep _sleep = new();
    private readonly StandBack _standBack;
    private long _seenPolls; // engine thread
    private long _applicationPolls;
    private long _applicationTurn; // when the last one began; ticks of the host's clock
    private int _fullPort = 1; // whose socket it was; written before the end of the turn is noted
    private volatile bool _isStopping;
    private volatile Exception? _failure;

    /// <summary>Made, not started.</summary>
    /// <param name="driver">Whose turns it takes.</param>
    /// <param name="endpoints">Of that driver, which closes them once this has stopped.</param>
    /// <param name="groups">Of that driver too.</param>
    /// <param name="host">Whose clock the port uses.</param>
    /// <param name="options">How to drive.</param>
    public PortEngine(
        PortDriver driver,
        UdpEndpoint[] endpoints,
        GroupSockets groups,
        HostContext host,
        PortDriverOptions options)
    {
        _driver = driver;
        _endpoints = endpoints;
        _first = endpoints[0];
        _groups = groups;
        _host = host;
        _options = options;
        _standBack = new StandBack(options.EngineStandBack.Ticks, options.EngineStandBackMax.Ticks);
        _thread = options.HasEngine ? new Thread(Run) { IsBackground = true, Name = "wayleave port engine" } : null;
    }

    /// <summary>As <see cref="PortDriver.Failure"/>.</summary>
    public Exception? Failure => _failure;

    /// <summary>It relies on an application for longer than it does at first. Any thread, a moment old.</summary>
    public bool IsAwayForLong => _standBack.IsLong;

    /// <summary>How often its sleep was ended; any thread.</summary>
    public long Wakes => _first.KernelWakes;

    /// <summary>The last turn left something that its socket did not take. Any thread.</summary>
    public bool AwaitsSendRoom => _sleep.AwaitsSendRoom;

    /// <summary>Lets the thread run, if the driver has one. Once; the driver is complete.</summary>
    public void Start() => _thread?.Start();

    /// <summary>Stops the thread and returns when it has ended. Without the token.</summary>
    /// <returns>False: somebody else has stopped it, or is about to.</returns>
    public bool TryStop()
    {
        if (_isStopping)
        {
            return false;
        }

        _isStopping = true;
        Wake();
        _thread?.Join();
        return true;
    }

    /// <summary>Ends its sleep, or the next one; away, it drives at once. A system call only if it sleeps.</summary>
    public void Wake() => _first.Wake();

    /// <summary>An application polls.</summary>
    public void NotePoll() => _applicationPolls++; // a lost count only lets the engine look once more

    /// <summary>An application has begun a turn. Token held.</summary>
    public void NoteApplicationTurn(TimeSpan now) => Volatile.Write(ref _applicationTurn, now.Ticks);

    /// <summary>The socket of a port took no more in this turn. Token held.</summary>
    public void NoteFullSocket(int port) => Volatile.Write(ref _fullPort, port);

    /// <summary>The end of a turn, as <see cref="DriverSleep.NoteTurn"/>. Token held, about to be given back.</summary>
    public void NoteTurn(long deadlineTicks, bool awaitsSendRoom) => _sleep.NoteTurn(deadlineTicks, awaitsSendRoom);

    /// <summary>
    /// Behind a turn of an application, or behind finding the token taken: work that was left has a deadline that is
    /// over, and we may not come back.
    /// </summary>
    public void WakeForWorkLeft()
    {
        if (_sleep.MustWake())
        {
            Wake();
        }
    }

    /// <summary>As <see cref="PortDriver.ExpectWait"/>.</summary>
    public void ExpectWait()
    {
        if (_standBack.MustWake())
        {
            Wake();
        }
    }

    /// <summary>
    /// One look: stays away from a port that an application polls, or else drives, looks for work and sleeps. The
    /// engine thread; or a test, where the driver has none.
    /// </summary>
    public void Step()
    {
        long polls = CountPolls();
        if (!_standBack.MustDrive(isPolled: polls != 0 && HadApplicationTurn()))
        {
            bool isWoken = _first.WaitForWake(TimeSpan.FromTicks(_standBack.Begin(polls)));
            _standBack.End(isWoken && _options.EngineHeedsWakes);
        }
        else if (!DriveOrStandBack() && !SpinForWork())
        {
            SleepUntilWork();
        }
    }

    private void Run()
    {
        if (_options.EngineProcessor is int processor)
        {
            _ = ProcessorAffinity.TryStayOn(processor);
        }

        try
        {
            while (!_isStopping)
            {
                Step();
            }
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // Named by Failure and in the trace. Who polls still drives the port; a passive one looks like a peer that
            // is gone.
            _failure = e;
            _host.Trace("port.engine_failed", e.Message);
        }
    }

    // Since the last look.
    private long CountPolls()
    {
        long polls = Volatile.Read(ref _applicationPolls);
        long count = polls - _seenPolls;
        _seenPolls = polls;
        return count;
    }

    // Who has polled many times at first and then no more is not relied on again.
    private bool HadApplicationTurn() =>
        _host.Now.Ticks - Volatile.Read(ref _applicationTurn) <= _options.EngineStandBack.Ticks
        || !_options.EngineForgetsOldPolls;

    // Whether the engine goes on without a sleep.
    private bool DriveOrStandBack()
    {
        bool worked = _driver.Drive(byApplication: false, out bool isTaken);
        if (isTaken && !worked)
        {
            _first.WaitForWake(_options.EngineStandBack);
        }

        return worked || isTaken;
    }

    private bool SpinForWork()
    {
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < _options.EngineIdleSpin && !_isStopping)
        {
            if (DriveOrStandBack() || Volatile.Read(ref _applicationPolls) != _seenPolls)
            {
                return true;
            }

            Thread.SpinWait(20);
        }

        return false;
    }

    private void SleepUntilWork()
    {
        long now = _host.Now.Ticks;
        if (_sleep.TryAnnounce(now, _options.EngineSleepMax.Ticks, out long until, out bool awaitsSendRoom)
            && !_isStopping)
        {
            Sleep(TimeSpan.FromTicks(until - now), awaitsSendRoom);
        }

        _sleep.End();
    }

    private void Sleep(TimeSpan timeout, bool awaitsSendRoom)
    {
        if (_endpoints.Length > 1 || _groups.Watch is not null)
        {
            int full = awaitsSendRoom ? Volatile.Read(ref _fullPort) - 1 : -1;
            UdpEndpoint.WaitAny(_endpoints, timeout, full, _groups.Watch);
        }
        else
        {
            _ = awaitsSendRoom ? _first.WaitForSendRoom(timeout) : _first.Wait(timeout);
        }
    }
}
