using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu;

// Who runs what. TrySubmit: anybody, host lock held. Step: the holder of the engine token, who does not hold the host
// lock; a step takes it to start and to end a job, never while it copies.
//
// Why no gate: a gate counts users that come and go unannounced. This engine's users of memory are its jobs, and each
// has a fence in the reservation from the moment it is submitted. A revoke waits for the fence, and storage is given
// back by the end of the last job that names it. The block that is being copied is all that a canceled job still does.
//
// A job that takes too long is stopped by whoever has the token, between two blocks: holding the token is the proof
// that no block is under way, so the fence ends and is good as evidence. A holder that does not come back from a block
// proves nothing; then the fence is forced after a grace time, and the memory stays where it is until the holder is
// back.

/// <summary>
/// The copy engine of a GPU (SDMA): a ring of copies and fills, driven by whoever holds its token. Jobs start in the
/// order of submission as they become ready: one that waits for an importer that hangs does not stop the others.
/// </summary>
public sealed class CopyEngine : IStoppableEngine
{
    // Slower than this is hung: memory that is touched for the first time on a machine that is busy elsewhere is not.
    private const double SlowBytesPerSecond = 64 << 20;

    private readonly HostContext _host;
    private readonly GpuOptions _options;
    private readonly List<CopyJob> _ring; // host lock
    private int _queued; // how many are in the ring; read without the lock
    private CopyJob? _current; // token
    private int _token;
    private int _doorbell;
    private bool _isDead; // host lock
    private int _stopRequested; // set under the host lock, read by the holder of the token

    internal CopyEngine(HostContext host, DmaPort port, GpuOptions options)
    {
        (_host, Port, _options) = (host, port, options);
        Name = $"{port.Function.Name} copy engine";
        _ring = new List<CopyJob>(options.CopyRingSlots);
        Hangs = new HangDetector(host, options.CopyTimeout, options.CopyStopGrace);
    }

    /// <summary>For people and traces.</summary>
    public string Name { get; }

    /// <summary>
    /// Watches each job from its first block. The edge calls <see cref="HangDetector.HandleTimeout"/> when
    /// <see cref="HangDetector.NextDeadline"/> has passed, from another thread than the one that copies.
    /// </summary>
    public HangDetector Hangs { get; }

    /// <summary>The engine's way to memory, with its byte counters.</summary>
    public DmaPort Port { get; }

    /// <summary>
    /// Called without any lock, on any thread, when a job may have become ready: sets a flag or wakes a thread, and
    /// returns. Set by the edge before the first job.
    /// </summary>
    public Action? WorkAvailable { get; set; }

    /// <summary>Jobs in the ring. Callable without the lock.</summary>
    public int QueuedCount => Volatile.Read(ref _queued);

    /// <summary>
    /// Whether the ring takes another job; none while the engine is given up as hung. Host lock held by the caller.
    /// </summary>
    public bool HasRoom => Refusal == Errno.Success;

    IEnumerable<Fence> IStoppableEngine.Submitted => _ring.Select(j => j.Fence);

    /// <summary>
    /// Why the ring takes no job, as <see cref="TrySubmit"/> says it; Success when it does. Host lock held by the
    /// caller.
    /// </summary>
    public Errno Refusal =>
        _isDead ? Errno.ENODEV
        : _ring.Count == _options.CopyRingSlots || Hangs.HasLost(this) ? Errno.EAGAIN
        : Errno.Success;

    /// <summary>The jobs that have not ended, oldest first. Host lock held by the caller.</summary>
    public IReadOnlyList<CopyJob> Jobs => _ring;

    /// <summary>
    /// Whether <see cref="Step"/> would do something. Exact while nobody else drives the engine or submits.
    /// </summary>
    public bool HasReadyJob =>
        _current is not null || Volatile.Read(ref _stopRequested) != 0 || _ring.Exists(CanStart);

    /// <summary>Puts a job into the ring. Host lock held by the caller.</summary>
    /// <returns>
    /// <see cref="Errno.EAGAIN"/> when the ring is full, or the engine hangs and was given up: ask again after the
    /// oldest job has ended. <see cref="Errno.ENODEV"/> after <see cref="HandleDriverEnded"/>.
    /// <see cref="Errno.EDEADLK"/> when the job would wait for itself; the violation says how.
    /// </returns>
    /// <exception cref="ArgumentException">Source and target differ in length.</exception>
    public Errno TrySubmit(CopyJob job)
    {
        _host.AssertHeld();
        if (job.Source is { } source && source.LengthBytes != job.Target.LengthBytes)
        {
            throw new ArgumentException(
                $"{job.Name}: {source.LengthBytes} bytes do not fit {job.Target.LengthBytes}", nameof(job));
        }

        Errno errno = Refusal;
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = job.Fence.TryRunAfter(job.Waits, out _);
        if (errno != Errno.Success)
        {
            return errno;
        }

        _ring.Add(job);
        Volatile.Write(ref _queued, _ring.Count);
        _host.Trace("copy.submit", job.Name, (long)job.Target.LengthBytes, _ring.Count);
        bool waits = false;
        foreach (Fence fence in job.Waits)
        {
            waits |= fence.TryAddCallback(_ => RingDoorbell()) == Errno.Success;
        }

        if (!waits)
        {
            _host.Defer(RingDoorbell);
        }

        return Errno.Success;
    }

    /// <summary>Takes the engine token; false when another thread drives the engine. Host lock not held.</summary>
    public bool TryEnter()
    {
        Interleave.Point("engine: enter");
        return Interlocked.CompareExchange(ref _token, 1, 0) == 0;
    }

    /// <summary>
    /// Gives the token back. Work that came meanwhile was left to the holder: <see cref="Drive"/> looks again, and so
    /// must a caller that does without it.
    /// </summary>
    public void Exit()
    {
        Interleave.Point("engine: exit");
        Interlocked.Exchange(ref _token, 0);
    }

    /// <summary>
    /// Copies one block of the current job, or starts the next. Token held by the caller; host lock not held.
    /// </summary>
    /// <returns>False when no job is ready.</returns>
    public bool Step()
    {
        if (Volatile.Read(ref _token) == 0)
        {
            throw new InvalidOperationException("the engine token is not held: call TryEnter first");
        }

        // Every fence of the ring needs this thread, so all of a step is between publishing and signalling.
        using SignalingSection section = new(Name, "ring");
        if (Volatile.Read(ref _stopRequested) != 0)
        {
            StandStill();
            return true;
        }

        _current ??= QueuedCount == 0 ? null : FindReady();
        if (_current is not { } job)
        {
            return false;
        }

        Errno errno = job.IsCanceled ? Errno.ECANCELED : RunBlock(job);
        if (errno != Errno.Success || job.DoneBytes == job.Target.LengthBytes)
        {
            _current = null;
            End(job, errno);
        }

        return true;
    }

    /// <summary>
    /// Runs up to <paramref name="stepsMax"/> steps if nobody else drives the engine, and leaves no ready job behind
    /// unless the limit says so. Callable by any thread that does not hold the host lock.
    /// </summary>
    /// <returns>How many steps did something.</returns>
    public int Drive(int stepsMax)
    {
        int steps = 0;
        do
        {
            if (!TryEnter())
            {
                return steps;
            }

            Interlocked.Exchange(ref _doorbell, 0);
            while (steps < stepsMax && Step())
            {
                steps++;
            }

            Exit();
            Interleave.Point("engine: look again");
        }
        while (steps < stepsMax && Volatile.Read(ref _doorbell) != 0);
        return steps;
    }

    /// <summary>
    /// The job under way is given up at the next block, by whoever has the token. Host lock held by the caller.
    /// </summary>
    EngineStop IStoppableEngine.Stop()
    {
        _host.AssertHeld();
        Interlocked.Exchange(ref _stopRequested, 1);
        _host.Defer(RingDoorbell);
        return EngineStop.Stopping;
    }

    /// <summary>
    /// The thread that has the token has ended by a fault and never gives it back: no access is under way and none will
    /// start, so every job ends with EIO, and none is taken any more. Host lock held by the caller.
    /// </summary>
    public void HandleDriverEnded()
    {
        _host.AssertHeld();
        if (Volatile.Read(ref _token) == 0)
        {
            throw new InvalidOperationException($"nobody has the token of {Name}: another thread may drive it");
        }

        using SignalingSection section = new(Name, "end");
        (_isDead, _current) = (true, null);
        Hangs.HandleStopped(this);
        foreach (CopyJob job in _ring.ToArray())
        {
            EndLocked(job, Errno.EIO);
        }
    }

    private void RingDoorbell()
    {
        Interleave.Point("engine: doorbell");
        Interlocked.Exchange(ref _doorbell, 1);
        WorkAvailable?.Invoke();
    }

    private CopyJob? FindReady()
    {
        using (_host.Enter())
        {
            CopyJob? job = _ring.Find(CanStart);
            if (job is not null)
            {
                Hangs.Add(job.Fence, this, TimeSpan.FromSeconds((double)job.Target.LengthBytes / SlowBytesPerSecond));
            }

            return job;
        }
    }

    private bool CanStart(CopyJob job) => job.IsReady || !_options.WaitsForFences;

    private Errno RunBlock(CopyJob job)
    {
        job.Target.TryLocate(job.DoneBytes, out DeviceAddress target, out ulong contiguous);
        int length = (int)Math.Min((ulong)_options.CopyBlockBytes, contiguous);
        if (job.Source is null)
        {
            if (Port.TryWrite(target, length, out Span<byte> filled) != Errno.Success)
            {
                return Errno.EFAULT;
            }

            filled.Fill(job.Pattern);
            job.DoneBytes += (ulong)filled.Length;
            return Errno.Success;
        }

        job.Source.TryLocate(job.DoneBytes, out DeviceAddress source, out contiguous);
        length = (int)Math.Min((ulong)length, contiguous);
        if (Port.TryRead(source, length, out ReadOnlySpan<byte> from) != Errno.Success
            || Port.TryWrite(target, from.Length, out Span<byte> to) != Errno.Success)
        {
            return Errno.EFAULT;
        }

        from[..to.Length].CopyTo(to);
        job.DoneBytes += (ulong)to.Length;
        return Errno.Success;
    }

    private void StandStill()
    {
        (CopyJob? job, _current) = (_current, null);
        using (_host.Enter())
        {
            Interlocked.Exchange(ref _stopRequested, 0);
            Hangs.HandleStopped(this);
            if (job is not null)
            {
                EndLocked(job, Errno.ETIME);
            }
        }
    }

    private void End(CopyJob job, Errno errno)
    {
        using (_host.Enter())
        {
            EndLocked(job, errno);
        }
    }

    private void EndLocked(CopyJob job, Errno errno)
    {
        _ring.Remove(job);
        Volatile.Write(ref _queued, _ring.Count);
        _host.Trace("copy.end", job.Name, (long)job.DoneBytes, (long)errno);
        job.Fence.Signal(errno);
        job.Ended?.Invoke(job);
    }
}
