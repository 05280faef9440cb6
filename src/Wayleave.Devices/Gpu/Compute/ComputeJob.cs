using Wayleave.Core;
using Wayleave.Core.Fences;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// Commands that were checked, with the memory that they may reach: what stands in a <see cref="ComputeQueue"/>. It
/// ends once, with its fence, and touches nothing afterwards.
/// </summary>
internal sealed class ComputeJob
{
    private readonly int _blockBytes;
    private int _index;
    private KernelRun? _run;
    private volatile bool _canceled;

    public ComputeJob(ComputeQueue queue, GpuCommand[] commands, IGpuMemory memory, int blockBytes)
    {
        (Queue, Commands, Memory, _blockBytes) = (queue, commands, memory, blockBytes);
        Fence = queue.Timeline.CreateFence();
    }

    public ComputeQueue Queue { get; }

    public GpuCommand[] Commands { get; }

    public IGpuMemory Memory { get; }

    public Fence Fence { get; }

    /// <summary>The job starts when all of these are signalled, with or without an error.</summary>
    public required IReadOnlyList<Fence> Waits { get; init; }

    /// <summary>What it was submitted with; each hears of its end.</summary>
    public required IReadOnlyList<GpuBinding> Bindings { get; init; }

    /// <summary>How long it has had the engine, but for the time since it got it last.</summary>
    public TimeSpan RanFor { get; set; }

    public bool IsCanceled => _canceled;

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

    /// <summary>It runs no further block; it still waits for what it had to wait for. Host lock held.</summary>
    public void Cancel() => _canceled = true;

    /// <summary>One block. Engine token held.</summary>
    public Errno Step(out bool hasEnded)
    {
        hasEnded = _index == Commands.Length;
        if (hasEnded)
        {
            return Errno.Success;
        }

        _run ??= new KernelRun(Commands[_index], _blockBytes);
        Errno errno = _run.Step(Memory, out bool hasCommandEnded);
        if (hasCommandEnded)
        {
            _run = null;
            _index++;
        }

        hasEnded = _index == Commands.Length;
        return errno;
    }
}
