using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Linux;

namespace Wayleave.Host.Runners;

// Progress by whoever polls, as PortDriver (docs/adr/0005).
//
//   application thread   TryProgress while it waits for data, WithToken to read, send, return tokens and configure:
//                        takes the port token if it is free, else rings, and the holder looks again before it goes
//   engine thread        stands back while an application polls; else drives, spins for 50 us, then sleeps in poll(2)
//                        on the link and the wake event, at most until the next deadline of the protocols
//
// Under the token: this object's buffers, the port, the protocols above it, connections and their queues. The holder
// may take the host lock (the last chunk of a binding unmaps the memory); a thread that holds the host lock never takes
// the token. Neither is held while sleeping.

/// <summary>
/// Moves frames between one link and one NIC, and gives the protocols above the NIC their frames and their time.
/// </summary>
public sealed class NicDriver : IDisposable
{
    private const long Awake = long.MinValue;

    private readonly NicPort _port;
    private readonly INicHost _protocols;
    private readonly IFrameLink _link;
    private readonly HostContext _host;
    private readonly NicDriverOptions _options;
    private readonly MappedMemory _buffers;
    private readonly Memory<byte> _receive;
    private readonly Memory<byte> _transmit;
    private readonly SteeredQueues? _steered;
    private readonly Thread? _engine;
    private int _pendingBytes; // a frame that the link did not take is in _transmit
    private bool _awaitsSendRoom; // the same, for the engine; written under the token
    private bool _engineAwaitsSendRoom;
    private int _controlWaiters;
    private long _applicationPolls;
    private long _engineSeenPolls; // engine thread
    private long _deadline = long.MaxValue; // of the protocols, in ticks of the host's clock; written under the token
    private long _engineSleepsUntil = Awake; // ticks
    private volatile bool _stopping;
    private volatile bool _closed; // the token is never given back
    private volatile Exception? _failure;

    /// <param name="port">Driven by this object alone from now on.</param>
    /// <param name="protocols">Stands above the port.</param>
    /// <param name="link">Owned by this object and closed with it.</param>
    /// <param name="host">The host whose clock and lock the port uses.</param>
    /// <param name="options">How to drive.</param>
    public NicDriver(
        NicPort port, INicHost protocols, IFrameLink link, HostContext host, NicDriverOptions? options = null)
    {
        (_port, _protocols, _link, _host) = (port, protocols, link, host);
        _options = options ?? new NicDriverOptions();
        const int Rounded = (TapDevice.FrameBytesMax + 4095) & ~4095;
        _buffers = MappedMemory.AllocateAnonymous(2L * Rounded, hugePages: false);
        _receive = _buffers.Memory[..Rounded];
        _transmit = _buffers.Memory.Slice(Rounded, Rounded);
        _steered = link is ISteeredLink steered ? new SteeredQueues(port, steered, port.Address) : null;
        _port.Waker = _link.Wake;
        if (_options.HasEngine)
        {
            _engine = new Thread(RunEngine) { IsBackground = true, Name = "wayleave nic engine" };
            _engine.Start();
        }
    }

    /// <summary>The interface, or whatever else the frames travel by.</summary>
    public string LinkName => _link.Name;

    /// <summary>What stopped the engine thread, or null.</summary>
    public Exception? Failure => _failure;

    /// <summary>
    /// What the last look at the link failed with; Success while it works. An interface that was deleted says EBADFD.
    /// </summary>
    public Errno LinkError { get; private set; }

    /// <summary>
    /// Why payload of bound queues is copied once on its way, and not read into their memory at once; null when there
    /// is no reason. Port token held by the caller.
    /// </summary>
    public string? WhyCopied => _steered is { } steered ? steered.WhyCopied : $"{LinkName} has one queue for all";

    /// <summary>Frames that the link refused for another reason than that it was full.</summary>
    public long SendErrors { get; private set; }

    /// <summary>Times that the link was full.</summary>
    public long SendStalls { get; private set; }

    /// <summary>
    /// Does what there is to do now, if nobody else is at it. Called while waiting for data; any thread, without the
    /// host lock. Never blocks, allocates nothing.
    /// </summary>
    /// <returns>Whether something was done: a caller that polls goes on at once.</returns>
    public bool TryProgress()
    {
        _applicationPolls++; // a lost count only lets the engine look once more
        bool worked = Drive();
        WakeEngineIfDue();
        return worked;
    }

    /// <summary>
    /// Runs work that needs the port token: to read, to return tokens, to bind, to configure. It waits for the turn in
    /// progress, a few frames at most: while somebody waits, nobody begins another. Never with the host lock held.
    /// </summary>
    public T WithToken<T>(Func<T> action)
    {
        ArgumentNullException.ThrowIfNull(action);
        Enter();
        T result;
        try
        {
            result = action();
        }
        finally
        {
            _port.Exit();
        }

        Drive();
        WakeEngineIfDue();
        return result;
    }

    /// <summary>As above.</summary>
    public void WithToken(Action action)
    {
        ArgumentNullException.ThrowIfNull(action);
        WithToken(() =>
        {
            action();
            return true;
        });
    }

    /// <summary>
    /// Takes the port token, for callers that must not allocate; ends with <see cref="Exit"/> on the same thread.
    /// </summary>
    /// <exception cref="ObjectDisposedException">The driver is closed.</exception>
    public void Enter() => ObjectDisposedException.ThrowIf(!TryEnter(), this);

    /// <summary>As <see cref="WithToken(Action)"/>, for work that is done with once the driver is closed.</summary>
    /// <returns>False when it is closed, and nothing was run.</returns>
    public bool TryWithToken(Action action)
    {
        ArgumentNullException.ThrowIfNull(action);
        if (!TryEnter())
        {
            return false;
        }

        try
        {
            action();
        }
        finally
        {
            Exit();
        }

        return true;
    }

    /// <summary>Gives the token back, and does what the work under it has left to do: an answer, a window.</summary>
    public void Exit()
    {
        _port.Exit();
        Drive();
        WakeEngineIfDue();
    }

    /// <summary>
    /// Lets the engine thread look: something was left to do by a thread that could not take the token.
    /// </summary>
    public void Wake()
    {
        _port.Ring();
        _link.Wake();
    }

    /// <summary>
    /// Stops the engine thread, then closes the link. What the protocols still had to send is not sent.
    /// </summary>
    public void Dispose()
    {
        if (_stopping)
        {
            return;
        }

        _stopping = true;
        _link.Wake();
        _engine?.Join();

        // An application thread may still be inside: the token is kept for ever, so that nobody touches the closed
        // link.
        SpinWait spin = default;
        while (!_port.TryEnter())
        {
            spin.SpinOnce(sleep1Threshold: -1);
        }

        _closed = true;
        _port.Waker = null;
        _link.Dispose();
        ((IDisposable)_buffers).Dispose();
    }

    // Waits for the holder, who looks for those that wait; false once the token is kept for ever.
    private bool TryEnter()
    {
        Interlocked.Increment(ref _controlWaiters);
        try
        {
            SpinWait spin = default;
            while (!_port.TryEnter())
            {
                if (_closed)
                {
                    return false;
                }

                spin.SpinOnce(sleep1Threshold: -1);
            }

            return true;
        }
        finally
        {
            Interlocked.Decrement(ref _controlWaiters);
        }
    }

    // One turn after the other, until there is nothing that only we know of.
    private bool Drive()
    {
        bool worked = false;
        while (Volatile.Read(ref _controlWaiters) == 0 && _port.TryEnter())
        {
            bool leavesWork = false;
            try
            {
                worked |= TakeTurn(out leavesWork);
            }
            finally
            {
                long deadline = _protocols.NextDeadline?.Ticks ?? long.MaxValue;
                Volatile.Write(ref _deadline, leavesWork ? 0 : deadline);
                Volatile.Write(ref _awaitsSendRoom, _pendingBytes > 0);
                _port.Exit();
            }

            if (!_port.HasDoorbell || Volatile.Read(ref _awaitsSendRoom))
            {
                return worked;
            }
        }

        return worked;
    }

    private bool TakeTurn(out bool leavesWork)
    {
        TimeSpan now = _host.Now;
        int received = Receive(now, out bool isMore);
        int delivered = _port.Deliver(_protocols, int.MaxValue, now);
        bool worked = received > 0 || delivered > 0;
        if (_protocols.NextDeadline is { } deadline && deadline <= now)
        {
            _protocols.HandleTimeout(now);
            worked = true;
        }

        int room = _options.BatchFrames;
        worked |= Transmit(now, ref room);
        leavesWork = isMore || (room == 0 && _pendingBytes == 0);
        return worked;
    }

    private int Receive(TimeSpan now, out bool isMore)
    {
        Span<byte> buffer = _receive.Span;
        int received = 0;
        while (received < _options.BatchFrames)
        {
            Errno errno = _link.TryRead(buffer, out int length);
            if (errno != Errno.Success)
            {
                LinkError = errno == Errno.EAGAIN ? Errno.Success : errno;
                break;
            }

            received++;
            if (VirtioNetHeader.TryParse(buffer[..length], out VirtioNetHeader header))
            {
                _port.HandleFrame(buffer[VirtioNetHeader.Size..length], header, now);
            }
        }

        isMore = received == _options.BatchFrames;
        if (_steered is not null)
        {
            received += _steered.Receive(buffer, _options.BatchFrames, now, out bool isMoreSteered);
            isMore |= isMoreSteered;
        }

        return received;
    }

    private bool Transmit(TimeSpan now, ref int room)
    {
        Span<byte> buffer = _transmit.Span;
        bool worked = false;
        for (; room > 0; room--)
        {
            if (_pendingBytes == 0)
            {
                SuperFrame frame = new(buffer[VirtioNetHeader.Size..], _port.Dma);
                if (!_port.PollTransmit(_protocols, now, ref frame))
                {
                    return worked;
                }

                frame.Link.WriteTo(buffer);
                _pendingBytes = VirtioNetHeader.Size + frame.LengthBytes;
            }

            Errno errno = _link.TryWrite(buffer[.._pendingBytes]);
            if (errno is Errno.EAGAIN or Errno.ENOBUFS)
            {
                SendStalls++;
                room = 0;
                return worked;
            }

            // Any other error is a frame lost on the wire: the protocols' timers are the answer to that.
            SendErrors += errno == Errno.Success ? 0 : 1;
            _pendingBytes = 0;
            worked = true;
        }

        return worked;
    }

    // The deadline was written before the token was given back, a full barrier; see SleepUntilWork for the other half.
    private void WakeEngineIfDue()
    {
        long sleepsUntil = Volatile.Read(ref _engineSleepsUntil);
        if (Volatile.Read(ref _deadline) < sleepsUntil
            || (sleepsUntil != Awake
                && Volatile.Read(ref _awaitsSendRoom)
                && !Volatile.Read(ref _engineAwaitsSendRoom)))
        {
            _link.Wake();
        }
    }

    private void RunEngine()
    {
        try
        {
            while (!_stopping)
            {
                long polls = Volatile.Read(ref _applicationPolls);
                if (StandBackWhilePolled(polls) || Drive())
                {
                    continue;
                }

                if (!SpinForWork())
                {
                    SleepUntilWork();
                }
            }
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // Named by Failure and in the trace. Who polls still drives the port; a passive one looks like a peer that
            // is gone.
            _failure = e;
            _host.Trace("nic.engine_failed", e.Message);
        }
    }

    private bool StandBackWhilePolled(long polls)
    {
        if (polls == _engineSeenPolls)
        {
            return false;
        }

        _engineSeenPolls = polls;
        _link.WaitForWake(_options.EngineStandBack);
        return true;
    }

    private bool SpinForWork()
    {
        long start = Stopwatch.GetTimestamp();
        long polls = Volatile.Read(ref _applicationPolls);
        while (Stopwatch.GetElapsedTime(start) < _options.EngineIdleSpin && !_stopping)
        {
            if (Drive() || polls != Volatile.Read(ref _applicationPolls))
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
        long deadline = Volatile.Read(ref _deadline);
        long until = Math.Min(deadline, now + _options.EngineSleepMax.Ticks);
        if (until <= now)
        {
            return;
        }

        // Announced before the last look: whoever leaves work either sees the announcement or was seen.
        bool awaitsSendRoom = Volatile.Read(ref _awaitsSendRoom);
        Volatile.Write(ref _engineAwaitsSendRoom, awaitsSendRoom);
        Interlocked.Exchange(ref _engineSleepsUntil, until);
        bool isUnchanged = Volatile.Read(ref _deadline) == deadline
            && Volatile.Read(ref _awaitsSendRoom) == awaitsSendRoom
            && !_port.HasDoorbell;
        if (isUnchanged && !_stopping)
        {
            TimeSpan timeout = TimeSpan.FromTicks(until - now);
            _ = awaitsSendRoom ? _link.WaitForSendRoom(timeout)
                : LinkError == Errno.Success ? _link.Wait(timeout)
                : _link.WaitForWake(timeout < s_downPause ? timeout : s_downPause);
        }

        Volatile.Write(ref _engineSleepsUntil, Awake);
    }

    // An interface that is gone is readable at once, with an error: look again after a while instead.
    private static readonly TimeSpan s_downPause = TimeSpan.FromMilliseconds(20);
}
