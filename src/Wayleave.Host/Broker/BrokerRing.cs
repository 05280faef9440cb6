using System.Collections.Concurrent;
using System.Diagnostics;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

// One thread serves a ring, and nobody else: what a program writes there can make that thread wait, and no other. It
// takes commands while there is room for their completions, gives copies to the engine, and publishes what has ended.
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
    private int _inFlight; // taken and not answered; its thread's
    private bool _isAsleep;
    private volatile bool _stopping;

    /// <param name="context">Of the host.</param>
    /// <param name="copies">What the ring's commands do; ended by this object.</param>
    /// <param name="slots">Of either ring.</param>
    /// <param name="garbage">
    /// What is in the ring cannot be: ends the connection, and does not wait. On the ring's thread, once.
    /// </param>
    /// <param name="name">Of the thread.</param>
    public BrokerRing(HostContext context, RingCopies copies, int slots, Action garbage, string name)
    {
        (_context, _copies, _garbage) = (context, copies, garbage);
        _memory = RingMemory.Create(slots);
        _commands = RingConsumer.OfCommands(_memory);
        _completions = RingProducer.OfCompletions(_memory);
        _watch.AddEdges(DoorbellKey, _doorbell.Descriptor);
        _watch.AddEdges(NoteKey, _note.Descriptor);
        _thread = new Thread(Run) { IsBackground = true, Name = name };
        _thread.Start();
    }

    public RingCopies Copies => _copies;

    public int Slots => _memory.Slots;

    /// <summary>What the program gets: the memory, the doorbell, and what it sleeps on. Stay this object's.</summary>
    public FileDescriptor[] Descriptors => [_memory.Descriptor, _doorbell.Descriptor, _completed.Descriptor];

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
                Execute(held);
                hasWorked = true;
                continue;
            }

            if (!_commands.TryTake(_entry, out bool isThere))
            {
                return false;
            }

            if (!isThere)
            {
                return true;
            }

            if (!RingCommand.TryRead(_entry, out RingCommand command))
            {
                return false;
            }

            hasWorked = true;
            if (command.IsBarrier && _inFlight > 0)
            {
                _held = command;
                return true;
            }

            _inFlight++;
            Execute(command);
        }

        return false;
    }

    private bool CanTake() => _completions.TryGetRoom(_inFlight + 1, out int room) && room > _inFlight && _held is null;

    private void Execute(in RingCommand command)
    {
        if (command.Operation == RingOperation.Nothing)
        {
            Publish(new RingCompletion(command.Tag, Errno.Success));
            return;
        }

        ulong tag = command.Tag;
        Errno errno = _copies.Submit(command, error => HandleEnded(new RingCompletion(tag, error)));
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

    // On whatever thread ended the copy.
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
