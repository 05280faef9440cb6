using Wayleave.Core;
using Wayleave.Core.Fences;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// Commands that were checked, with the memory that they may reach: what stands in a <see cref="ComputeQueue"/>. It
/// ends once, with its fence, and touches nothing afterwards.
/// </summary>
internal sealed class ComputeJob : EngineWork
{
    private readonly int _blockBytes;
    private int _index;
    private bool _isInCommand;
    private volatile bool _canceled;
    private volatile Errno _failure; // before it could begin
    private volatile bool _hasBegun;

    public ComputeJob(ComputeQueue queue, GpuCommand[] commands, IGpuMemory memory, int blockBytes)
        : base(queue)
    {
        (Owner, Commands, Memory, _blockBytes) = (queue, commands, memory, blockBytes);
        Size = SizeOf(commands);
        Fence = queue.Timeline.CreateFence();
    }

    public ComputeQueue Owner { get; }

    public GpuCommand[] Commands { get; }

    public IGpuMemory Memory { get; }

    public override Fence Fence { get; }

    // How many of its waits have not told it yet: counted down where they are signalled, without the lock.
    public int WaitsLeft;

    /// <summary>The job starts when all of these are signalled, with or without an error.</summary>
    public required Fence[] Waits { get; init; }

    /// <summary>What it was submitted with; each hears of its end.</summary>
    public required GpuBinding[] Bindings { get; init; }

    public override double Size { get; }

    /// <summary>Callable without the lock.</summary>
    public bool IsReady
    {
        get
        {
            foreach (Fence fence in Waits)
            {
                if (!fence.IsSignaled)
                {
                    return false;
                }
            }

            return true;
        }
    }

    /// <summary>
    /// All that it waits for has signalled, and memory of its process has to be looked up before it can begin. Callable
    /// without the lock, as a guess.
    /// </summary>
    public bool MustLook
    {
        get
        {
            if (_hasBegun || _canceled || _failure != Errno.Success || !IsReady)
            {
                return false;
            }

            foreach (GpuBinding binding in Bindings)
            {
                if (binding is UserPointerBinding { IsStale: true })
                {
                    return true;
                }
            }

            return false;
        }
    }

    /// <summary>It has the engine: from here on those who want its memory wait for it. Host lock held.</summary>
    public void Begin()
    {
        if (_hasBegun)
        {
            return;
        }

        _hasBegun = true;
        foreach (GpuBinding binding in Bindings)
        {
            if (binding is UserPointerBinding pages)
            {
                pages.BeginRun();
                if (pages.Addresses is { } addresses)
                {
                    Memory.Rebind(pages, addresses);
                }
            }
        }
    }

    /// <summary>It cannot begin: its memory cannot be had. Host lock held.</summary>
    public void Fail(Errno errno) => _failure = errno;

    /// <summary>It runs no further block; it still waits for what it had to wait for. Host lock held.</summary>
    public void Cancel() => _canceled = true;

    public override Errno Step(out bool hasEnded)
    {
        hasEnded = _canceled || _failure != Errno.Success || _index == Commands.Length;
        if (hasEnded)
        {
            return _canceled ? Errno.ECANCELED : _failure;
        }

        KernelRun run = Owner.Run;
        if (!_isInCommand)
        {
            run.Begin(Commands[_index], _blockBytes);
            _isInCommand = true;
        }

        Errno errno = run.Step(Memory, out bool hasCommandEnded);
        if (hasCommandEnded)
        {
            _isInCommand = false;
            _index++;
        }

        hasEnded = _index == Commands.Length;
        return errno;
    }

    public override void HandleEnded(Errno errno)
    {
        Owner.Remove(this);
        Fence.Signal(errno);
        if (errno is Errno.EFAULT or Errno.EACCES or Errno.ETIME)
        {
            Owner.Lose();
        }

        foreach (GpuBinding binding in Bindings)
        {
            if (_hasBegun)
            {
                (binding as UserPointerBinding)?.EndRun();
            }

            binding.EndJob();
        }
    }

    // The bytes that it touches, and a multiply-add as much as a byte.
    private static double SizeOf(GpuCommand[] commands)
    {
        double size = 0;
        Span<GpuOperand> operands = stackalloc GpuOperand[3];
        foreach (GpuCommand command in commands)
        {
            command.TryGetOperands(operands, out int count);
            for (int i = 0; i < count; i++)
            {
                size += operands[i].LengthBytes;
            }

            size += command.Opcode == GpuOpcode.MatrixMultiply
                ? (double)command.Rows * command.Inner * command.Count
                : 0;
        }

        return size;
    }
}
