using System.Collections.Concurrent;
using System.Diagnostics;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

// One thread serves a ring, and nobody else: what a program writes there can make that thread wait, and no other. It
// takes commands while there is room for their completions, gives work to the engines, and publishes what has ended.
// An engine's thread only leaves a note (HandleEnded), so that it never writes to memory or a descriptor of a program.
//
//   spinning --50 us without anything--> both flags are up --looked again, nothing--> sleeping (epoll)
//   sleeping --doorbell, note, or the end--> spinning
//
// _isAsleep is for the notes what the flag in the ring is for the doorbell: whoever leaves something writes it first
// and then reads the flag, and this thread writes the flag first and then looks.

/// <summary>
/// The host's end of a program's ring. Whatever is in it, it ends that program's connection at worst.
/// </summary>
internal sealed class BrokerRing : IBrokerUse, IDisposable
{
    private const ulong DoorbellKey = 1;
    private const ulong NoteKey = 2;
    private const int SpinIterations = 1; // about 40 ns: as long as a look at the ring
    private const int SpinsBeforeYield = 64;
    private const int SpinsPerLookAtClock = 16;

    private static readonly TimeSpan s_spin = TimeSpan.FromMicroseconds(50);
    private static readonly TimeSpan s_endMax = TimeSpan.FromSeconds(2);

    private readonly HostContext _context;
    private readonly RingCopies _copies;
    private readonly RingJobs _jobs;
    private readonly RingFences _fences;
    private readonly Action _garbage;
    private readonly RingMemory _memory;
    private readonly RingConsumer _commands;
    private readonly RingProducer _completions;
    private readonly EventFd _doorbell = new();
    private readonly EventFd _completed = new();
    private readonly EventFd _note = new();
    private readonly DescriptorWatch _watch = new();
    private readonly ConcurrentQueue<RingCompletion> _ended = new();
    private readonly byte[] _entry = new byte[RingMemory.CommandBytes]; // its thread's
    private readonly byte[] _answer = new byte[RingMemory.CompletionBytes]; // its thread's
    private readonly Thread _thread;
    private RingCommand? _held; // a barrier that waits for what is before it; its thread's
    private byte[] _heldWork = []; // what came with it
    private volatile bool _isTaking; // what was taken may not be under way yet
    private int _inFlight; // taken and not answered; its thread's
    private bool _isAsleep;
    private volatile bool _stopping;

    /// <param name="context">Of the host.</param>
    /// <param name="copies">What the ring's commands do; ended by this object.</param>
    /// <param name="jobs">Likewise.</param>
    /// <param name="fences">Of both.</param>
    /// <param name="slots">Of either ring.</param>
    /// <param name="garbage">
    /// What is in the ring cannot be: ends the connection, and does not wait. On the ring's thread, once.
    /// </param>
    /// <param name="name">Of the thread.</param>
    public BrokerRing(
        HostContext context,
        RingCopies copies,
        RingJobs jobs,
        RingFences fences,
        int slots,
        Action garbage,
        string name)
    {
        (_context, _copies, _jobs, _fences, _garbage) = (context, copies, jobs, fences, garbage);
        _memory = RingMemory.Create(slots);
        _commands = RingConsumer.OfCommands(_memory);
        _completions = RingProducer.OfCompletions(_memory);
        _watch.AddEdges(DoorbellKey, _doorbell.Descriptor);
        _watch.AddEdges(NoteKey, _note.Descriptor);
        _thread = new Thread(Run) { IsBackground = true, Name = name };
        _thread.Start();
    }

    public RingCopies Copies => _copies;

    public RingJobs Jobs => _jobs;

    public int Slots => _memory.Slots;

    /// <summary>What the program gets: the memory, the doorbell, and what it sleeps on. Stay this object's.</summary>
    public FileDescriptor[] Descriptors => [_memory.Descriptor, _doorbell.Descriptor, _completed.Descriptor];

    /// <summary>The fence of a command that is under way. Of the connection's thread.</summary>
    /// <exception cref="WayleaveException">
    /// EAGAIN: commands wait in the ring, and it may be one of them. ENOENT: no such command is under way: it has
    /// ended, or was refused.
    /// </exception>
    public Fence FindFence(ulong tag)
    {
        if (_fences.Find(tag) is { } fence)
        {
            return fence;
        }

        // Taken between the two looks, it is found by the second.
        bool isWaiting = _commands.HasEntry || _isTaking;
        return _fences.Find(tag)
            ?? throw (isWaiting
                ? new WayleaveException(Errno.EAGAIN, "find a fence", $"command {tag} may not be taken yet")
                : new WayleaveException(Errno.ENOENT, "find a fence", $"no command {tag} is under way"));
    }

    /// <inheritdoc/>
    public void End() => Dispose();

    /// <summary>
    /// Ends the ring: its thread, then its copies, then its memory. A thread that the program keeps in a write to the
    /// program's own eventfd is let go by taking the count; one that it keeps there again is left behind with all that
    /// the ring has, on the program's account, and nobody waits for it.
    /// </summary>
    public void Dispose()
    {
        if (_stopping)
        {
            return;
        }

        _stopping = true;
        _note.Signal();
        if (!_thread.Join(s_endMax))
        {
            new Thread(() => _completed.Take()) { IsBackground = true, Name = $"{_thread.Name} end" }.Start();
        }

        if (!_thread.Join(s_endMax))
        {
            _context.Trace("broker.ring_left", _thread.Name ?? "");
            return;
        }

        _jobs.Dispose();
        _copies.Dispose();
        _watch.Dispose();
        _note.Dispose();
        _completed.Dispose();
        _doorbell.Dispose();
        _memory.Dispose();
    }

    private void Run()
    {
        List<ulong> ready = [];
        long idleSince = Stopwatch.GetTimestamp();
        int spins = 0;
        while (!_stopping)
        {
            if (!TryTurn(out bool hasWorked))
            {
                _isTaking = false;
                _context.Trace("broker.ring_garbage", _thread.Name ?? "");
                _garbage();
                return;
            }

            if (hasWorked)
            {
                (spins, idleSince) = (0, 0);
                continue;
            }

            // After about 3 us somebody else may need this processor: the program itself, perhaps.
            if (++spins <= SpinsBeforeYield)
            {
                Thread.SpinWait(SpinIterations);
            }
            else
            {
                Thread.Yield();
            }

            if (spins % SpinsPerLookAtClock != 0)
            {
                continue;
            }

            idleSince = idleSince == 0 ? Stopwatch.GetTimestamp() : idleSince;
            if (Stopwatch.GetElapsedTime(idleSince) >= s_spin)
            {
                Sleep(ready);
                idleSince = 0;
            }
        }
    }

    private void Sleep(List<ulong> ready)
    {
        Interlocked.Exchange(ref _isAsleep, true);

        // With no room for completions, or a barrier that is held, a command in the ring is no reason to stay awake:
        // room is made without a doorbell, and looked for from time to time.
        bool isStuck = !CanTake();
        if (_ended.IsEmpty && !_stopping)
        {
            if (isStuck)
            {
                _watch.Wait(TimeSpan.FromMilliseconds(1), ready);
            }
            else if (_commands.TryBeginSleep())
            {
                _watch.Wait(Timeout.InfiniteTimeSpan, ready);
                _commands.EndSleep();
            }
        }

        Volatile.Write(ref _isAsleep, false);
    }

    // False when what the program wrote cannot be.
    private bool TryTurn(out bool hasWorked)
    {
        bool isFine = TryTakeAll(out hasWorked);
        if (_isTaking && _held is null)
        {
            _isTaking = false;
        }

        return isFine;
    }

    private bool TryTakeAll(out bool hasWorked)
    {
        hasWorked = false;
        while (_ended.TryDequeue(out RingCompletion completion))
        {
            Publish(completion);
            hasWorked = true;
        }

        while (_completions.TryGetRoom(_inFlight + 1, out int room))
        {
            if (room <= _inFlight)
            {
                return true;
            }

            if (_held is { } held)
            {
                if (_inFlight > 0)
                {
                    return true;
                }

                _held = null;
                _inFlight++;
                Execute(held, _heldWork);
                hasWorked = true;
                continue;
            }

            if (!_commands.HasEntry)
            {
                return true;
            }

            _isTaking = true;
            if (!_commands.TryTake(_entry, out bool isThere) || !isThere
                || !RingCommand.TryRead(_entry, out RingCommand command)
                || !TryTakeWork(command, out byte[] work))
            {
                return false;
            }

            hasWorked = true;
            if (command.IsBarrier && _inFlight > 0)
            {
                (_held, _heldWork) = (command, work);
                return true;
            }

            _inFlight++;
            Execute(command, work);
        }

        return false;
    }

    private bool CanTake() => _completions.TryGetRoom(_inFlight + 1, out int room) && room > _inFlight && _held is null;

    // The entries that a command announces came with it, or it is none: a program that shows it before them is cut off.
    private bool TryTakeWork(in RingCommand command, out byte[] work)
    {
        work = [];
        if (command.Operation != RingOperation.Compute)
        {
            return true;
        }

        if (command.Length >= (ulong)Slots)
        {
            return false;
        }

        work = new byte[(int)command.Length * RingMemory.CommandBytes];
        for (int at = 0; at < work.Length; at += RingMemory.CommandBytes)
        {
            if (!_commands.TryTake(work.AsSpan(at, RingMemory.CommandBytes), out bool isThere) || !isThere)
            {
                return false;
            }
        }

        return true;
    }

    private void Execute(in RingCommand command, byte[] work)
    {
        if (command.Operation == RingOperation.Nothing)
        {
            Publish(new RingCompletion(command.Tag, Errno.Success));
            return;
        }

        ulong tag = command.Tag;
        if (_copies.IsDraining)
        {
            Publish(new RingCompletion(tag, Errno.ESHUTDOWN));
            return;
        }

        Action<Errno> ended = error => HandleEnded(new RingCompletion(tag, error));
        Errno errno = command.Operation == RingOperation.Compute
            ? _jobs.Submit(command.Source, work, tag, ended)
            : _copies.Submit(command, ended);
        if (errno != Errno.Success)
        {
            Publish(new RingCompletion(tag, errno));
        }
    }

    // There is room: a command is taken only when there is.
    private void Publish(in RingCompletion completion)
    {
        _inFlight--;
        completion.Write(_answer);
        _completions.Write(_answer);
        if (_completions.MustWake())
        {
            _completed.SignalShared();
        }
    }

    // On whatever thread ended the work.
    private void HandleEnded(RingCompletion completion)
    {
        _ended.Enqueue(completion);
        Interlocked.MemoryBarrier();
        if (Volatile.Read(ref _isAsleep))
        {
            _note.Signal();
        }
    }
}
