using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;

namespace Wayleave.Devices.Gpu.Compute;

// A program writes commands into memory that is mapped for the GPU and then says how far, by the doorbell; the engine
// reads them by the process's page table. Nobody checks them before, nobody is asked, and no command has a fence: who
// wants to know how far it is looks at what a Release has written. What keeps memory in its place is the eviction fence
// of the process (GpuEviction).

/// <summary>
/// A ring of a program's own (<c>kfd_queue</c>, an AQL ring). Host lock held by the caller, unless a member says
/// otherwise.
/// </summary>
public sealed class UserQueue : EngineQueue
{
    private readonly UserQueueWork _work;
    private ulong _written; // commands, by the program; never less
    private int _isWaiting; // at an Acquire that was not fulfilled
    private int _isFaulting; // until a fault was served

    internal UserQueue(
        GpuProcess process, string name, GpuPriority priority, QueueEngine engine, ulong ringAddress, uint ringCommands)
        : base(process, name, priority, engine)
    {
        (RingAddress, RingCommands) = (ringAddress, ringCommands);
        _work = new UserQueueWork(this);
    }

    /// <summary>Where the ring is, in the process's GPU addresses.</summary>
    public ulong RingAddress { get; }

    /// <summary>How many commands it holds: a power of two.</summary>
    public uint RingCommands { get; }

    /// <summary>Commands that were read from the ring and are done. Readable without the lock.</summary>
    public ulong Done => _work.Done;

    /// <summary>Whether all that was written is done. Readable without the lock, as a guess.</summary>
    public bool IsIdle => !HasWork;

    /// <summary>Why it is lost; Success while it is not, and when its process was closed.</summary>
    public Errno Error { get; private set; }

    internal override bool HasWork => !IsLost && Done < Volatile.Read(ref _written);

    internal override EngineWork? Ready =>
        HasWork && Process.Eviction.Table is not null && Volatile.Read(ref _isWaiting) == 0
            && Volatile.Read(ref _isFaulting) == 0
            ? _work
            : null;

    /// <summary>It waits for a value that an Acquire did not find.</summary>
    internal bool IsWaiting => Volatile.Read(ref _isWaiting) != 0;

    /// <summary>It waits for a fault of its own to be served.</summary>
    internal bool IsFaulting => Volatile.Read(ref _isFaulting) != 0;

    /// <summary>
    /// The program has written commands up to here, counted from the first ever; callable without any lock. The engine
    /// takes less at its own risk: a count that goes back is ignored, one that is more than the ring holds is what the
    /// program says.
    /// </summary>
    public void RingDoorbell(ulong writtenCommands)
    {
        ulong before = Volatile.Read(ref _written);
        while (writtenCommands > before)
        {
            ulong seen = Interlocked.CompareExchange(ref _written, writtenCommands, before);
            if (seen == before)
            {
                Wake();
                Engine.HandleDoorbell(this);
                return;
            }

            before = seen;
        }
    }

    /// <summary>It takes nothing more, and says why. Host lock held.</summary>
    internal void Lose(Errno errno)
    {
        Error = errno;
        Lose();
    }

    /// <summary>The fault was served, or the page cannot be had.</summary>
    internal void EndFault(Errno errno)
    {
        HostContext host = Process.Device.Host;
        if (errno != Errno.Success && !IsLost)
        {
            host.Trace("compute.user_queue_lost", Name, (long)errno, (long)Done);
            Lose(errno);
        }

        Interlocked.Exchange(ref _isFaulting, 0);
        host.Defer(Engine.HandleRestored);
    }

    // Host lock held: what ends from here on wakes it.
    private bool MissesNothingSince(long ends) =>
        !Process.Device.LooksAgain || Process.Device.UserProgress.Ends == ends;

    /// <summary>What it waits for may have changed: it looks again.</summary>
    internal void Wake() => Interlocked.Exchange(ref _isWaiting, 0);

    private sealed class UserQueueWork(UserQueue queue) : EngineWork(queue)
    {
        private readonly KernelRun _run = new();
        private bool _isInCommand;
        private PagedMemory? _memory; // of the table that the queue had last
        private InFlightGate?[] _gates = [];
        private ulong _done;
        private long _endsBefore; // of others, when the last block began

        public ulong Done => Volatile.Read(ref _done);

        public override Fence? Fence => null;

        public override double Size => 0;

        public override Errno Step(out bool hasEnded)
        {
            hasEnded = false;
            if (queue.Process.Eviction.Table is not { } table || !queue.HasWork)
            {
                hasEnded = true;
                return Errno.Success;
            }

            GpuDevice device = queue.Process.Device;
            if (_memory is null || _memory.Table != table)
            {
                _memory = new PagedMemory(queue.Engine.Port, table);
                _gates = new InFlightGate?[table.MirrorCount];
            }

            _endsBefore = device.UserProgress.Ends;
            table.Enter(_gates);
            Errno errno = RunBlock(_memory, device.ComputeBlockBytes, out hasEnded);
            GpuPageTable.Exit(_gates);
            return errno;
        }

        private Errno RunBlock(PagedMemory memory, int blockBytes, out bool hasEnded)
        {
            hasEnded = false;
            Errno errno = !_isInCommand ? Fetch(memory, blockBytes) : Errno.Success;
            if (errno != Errno.Success)
            {
                return errno;
            }

            bool isRelease = _run.Opcode == GpuOpcode.Release;
            errno = _run.Step(memory, out bool hasCommandEnded);
            if (hasCommandEnded)
            {
                _isInCommand = false;
                Volatile.Write(ref _done, _done + 1);

                // A value that was stored may be what others wait for, who are told at an end.
                hasEnded = !queue.HasWork || isRelease;
            }

            return errno;
        }

        public override void HandleEnded(Errno errno)
        {
            if (errno == Errno.EAGAIN && _memory!.TryTakeMissing(out MissingEntry missing))
            {
                Interlocked.Exchange(ref queue._isFaulting, 1);
                queue.Process.Faults.Add(new GpuFault(queue, missing.Mirror, missing.Offset, missing.IsWrite));
            }
            else if (errno == Errno.EAGAIN && queue.MissesNothingSince(_endsBefore))
            {
                Interlocked.Exchange(ref queue._isWaiting, 1);
            }
            else if (errno is not (Errno.Success or Errno.EAGAIN))
            {
                queue.Process.Device.Host.Trace("compute.user_queue_lost", queue.Name, (long)errno, (long)_done);
                queue.Lose(errno);
            }
        }

        private Errno Fetch(PagedMemory memory, int blockBytes)
        {
            ulong address = queue.RingAddress + ((_done & (queue.RingCommands - 1)) * GpuCommand.SizeBytes);
            GpuOperand slot = new(0, address, GpuCommand.SizeBytes, GpuAccess.Read);
            Span<byte> own = stackalloc byte[GpuCommand.SizeBytes]; // what is checked is what runs
            Errno errno = memory.TryRead(slot, 0, own.Length, out ReadOnlySpan<byte> bytes);
            if (errno != Errno.Success || bytes.Length < own.Length)
            {
                return errno == Errno.Success ? Errno.EFAULT : errno;
            }

            bytes.CopyTo(own);
            Span<GpuOperand> operands = stackalloc GpuOperand[3];
            errno = GpuCommand.TryRead(own, out GpuCommand command);
            errno = errno == Errno.Success && !queue.Engine.Kind.Knows(command.Opcode) ? Errno.EINVAL : errno;
            errno = errno == Errno.Success ? command.TryGetOperands(operands, out _) : errno;
            if (errno == Errno.Success)
            {
                _run.Begin(command, blockBytes);
                _isInCommand = true;
            }

            return errno;
        }
    }
}
