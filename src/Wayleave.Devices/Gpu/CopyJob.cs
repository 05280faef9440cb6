using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;

namespace Wayleave.Devices.Gpu;

/// <summary>
/// One copy or fill in the ring of a <see cref="CopyEngine"/>. The storage it names belongs to the job until the job
/// has ended; that its fence is signalled is not enough, for a fence can be forced.
/// </summary>
public sealed class CopyJob
{
    /// <summary>What a job waits for that waits for nothing.</summary>
    internal static readonly IReadOnlyList<Fence> None = [];

    private readonly ulong? _lengthBytes;
    private volatile bool _canceled;
    private bool _hasFailed; // host lock
    private ulong _doneBytes; // host lock; of a job that did not come to its end

    /// <summary>For people: <c>evict kv-cache</c>.</summary>
    public required string Name { get; init; }

    /// <summary>Where the bytes come from, or null for a fill.</summary>
    public DmaAddressList? Source { get; init; }

    /// <summary>The first byte of <see cref="Source"/> that is copied.</summary>
    public ulong SourceOffset { get; init; }

    /// <summary>Where they go.</summary>
    public required DmaAddressList Target { get; init; }

    /// <summary>The first byte of <see cref="Target"/> that is written.</summary>
    public ulong TargetOffset { get; init; }

    /// <summary>How many bytes; by itself all of the target from the offset on.</summary>
    public ulong LengthBytes
    {
        get => _lengthBytes ?? Target.LengthBytes - TargetOffset;
        init => _lengthBytes = value;
    }

    /// <summary>What a fill writes.</summary>
    public byte Pattern { get; init; }

    /// <summary>The job starts when all of these are signalled, with or without an error.</summary>
    public IReadOnlyList<Fence> Waits { get; init; } = None;

    /// <summary>
    /// Signalled by the engine at the end: <see cref="Errno.ECANCELED"/> after <see cref="Cancel"/>,
    /// <see cref="Errno.EFAULT"/> when an address answered nothing, <see cref="Errno.ETIME"/> when it was late. A job
    /// whose fence was forced before its first block touches no memory.
    /// </summary>
    public required Fence Fence { get; init; }

    /// <summary>
    /// Runs once after the fence was signalled, with the host lock held: the engine does not touch the storage again.
    /// </summary>
    public Action<CopyJob>? Ended { get; init; }

    /// <summary>
    /// Runs once, with the host lock held, before the fence signals for a job that was not done, or is forced: whoever
    /// waits for it must not find what the job should have written. The engine may still be in a block.
    /// </summary>
    internal Action<CopyJob>? Failed { get; init; }

    /// <summary>Bytes done, once the job has ended.</summary>
    public ulong DoneBytes => Fence is { IsSignaled: true, Error: Errno.Success } ? LengthBytes : _doneBytes;

    public bool IsCanceled => _canceled;

    /// <summary>Whether nothing is left to wait for. Callable without the lock.</summary>
    public bool IsReady
    {
        get
        {
            IReadOnlyList<Fence> waits = Waits;
            if (ReferenceEquals(waits, None))
            {
                return true; // most jobs, and the engine asks for each
            }

            foreach (Fence fence in waits)
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
    /// Nobody wants the result: the job copies no further block. It still waits for what it had to wait for, because
    /// its end lets go of storage that others may use until then. Host lock held by the caller.
    /// </summary>
    public void Cancel() => _canceled = true;

    /// <summary>It will not be done. Host lock held by the caller, before it signals or forces the fence.</summary>
    internal void Fail()
    {
        if (!_hasFailed)
        {
            _hasFailed = true;
            Failed?.Invoke(this);
        }
    }

    /// <summary>
    /// The engine ends it. One that was done to the end has nothing to note: it is not written to, because its cache
    /// lines are those of the processor that made it.
    /// </summary>
    internal void End(ulong doneBytes, Errno errno, TimeSpan now)
    {
        if (errno != Errno.Success || Fence.IsSignaled)
        {
            _doneBytes = doneBytes;
        }

        if (errno != Errno.Success)
        {
            Fail();
        }

        Fence.SignalAt(errno, now);
        Ended?.Invoke(this);
    }
}
