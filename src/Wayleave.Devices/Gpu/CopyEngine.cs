using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Core.Buffers;
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
// back. What was forced meanwhile does not begin then: those who waited have gone on.

/// <summary>
/// The copy engine of a GPU (SDMA): a ring of copies and fills, driven by whoever holds its token. Jobs start in the
/// order of submission as they become ready: one that waits for an importer that hangs does not stop the others.
/// </summary>
public sealed class CopyEngine : IStoppableEngine, IDrivenEngine
{
    // Slower than this is hung: memory that is touched for the first time on a machine that is busy elsewhere is not.
    private const double SlowBytesPerSecond = 64 << 20;

    // Short jobs that start and end in one hold of the lock each: the first of them ends so many blocks late.
    private const int BatchJobsMax = 8;

    private readonly HostContext _host;
    private readonly GpuOptions _options;
    private readonly List<CopyJob> _ring; // host lock
    private readonly Action _ringDoorbell;
    private readonly Predicate<CopyJob> _canStart;
    private readonly JobWatch _watch;
    private SharedWords _shared;
    private readonly BatchSlot[] _batch = new BatchSlot[BatchJobsMax]; // token: in the ring as well, until they end
    private int _batchCount;
    private int _batchNext; // token: the one whose block is next
    private int _batchEnded; // host lock: how many of the batch have ended; more than 0 only while they end
    private int _token;
    private bool _isDead; // host lock
    private int _stopRequested; // set under the host lock, read by the holder of the token

    internal CopyEngine(HostContext host, DmaPort port, GpuOptions options)
    {
        (_host, Port, _options) = (host, port, options);
        Name = $"{port.Function.Name} copy engine";
        _ring = new List<CopyJob>(options.CopyRingSlots);
        (_ringDoorbell, _canStart) = (RingDoorbell, CanStart);
        Hangs = new HangDetector(host, options.CopyTimeout, options.CopyStopGrace);
        _watch = Hangs.Watch(this);
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
    public int QueuedCount => Volatile.Read(ref _shared.Queued);

    /// <summary>
    /// A job may have become ready since <see cref="Drive"/> last looked. Callable without the lock.
    /// </summary>
    public bool HasDoorbell => Volatile.Read(ref _shared.Doorbell) != 0;

    /// <summary>
    /// Whether the ring takes another job; none while the engine is given up as hung. Host lock held by the caller.
    /// </summary>
    public bool HasRoom => Refusal == Errno.Success;

    bool IDrivenEngine.IsIdle => QueuedCount == 0;

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

    /// <summary>Bytes done of a job that is in the ring. Exact while nobody drives the engine.</summary>
    public ulong DoneBytes(CopyJob job)
    {
        foreach (BatchSlot slot in _batch)
        {
            if (ReferenceEquals(slot.Job, job))
            {
                return slot.DoneBytes;
            }
        }

        return 0;
    }

    /// <summary>
    /// Whether <see cref="Step"/> would do something. Exact while nobody else drives the engine or submits.
    /// </summary>
    public bool HasReadyJob =>
        _batchCount > 0 || Volatile.Read(ref _stopRequested) != 0 || _ring.Exists(_canStart);

    /// <summary>Puts a job into the ring. Host lock held by the caller.</summary>
    /// <returns>
    /// <see cref="Errno.EAGAIN"/> when the ring is full, or the engine hangs and was given up: ask again after the
    /// oldest job has ended. <see cref="Errno.ENODEV"/> after <see cref="HandleDriverEnded"/>.
    /// <see cref="Errno.EDEADLK"/> when the job would wait for itself; the violation says how.
    /// </returns>
    /// <exception cref="ArgumentException">The job goes beyond its source or its target.</exception>
    public Errno TrySubmit(CopyJob job)
    {
        _host.AssertHeld();
        CheckRange(job, job.Target, job.TargetOffset);
        if (job.Source is { } source)
        {
            CheckRange(job, source, job.SourceOffset);
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
        Volatile.Write(ref _shared.Queued, _ring.Count);
        _host.Trace("copy.submit", job.Name, (long)job.LengthBytes, _ring.Count);
        bool waits = false;
        foreach (Fence fence in job.Waits)
        {
            waits |= fence.TryAddCallback(_ => RingDoorbell()) == Errno.Success;
        }

        if (!waits)
        {
            _host.Defer(_ringDoorbell);
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

        using SignalingSection section = Section();
        return RunStep();
    }

    // Every fence of the ring needs this thread, so all of a step is between publishing and signalling.
    private SignalingSection Section() => new(Name, "ring");

    private bool RunStep()
    {
        if (Volatile.Read(ref _stopRequested) != 0)
        {
            StandStill();
            return true;
        }

        if (_batchCount == 0 && (QueuedCount == 0 || !TakeBatch()))
        {
            return false;
        }

        ref BatchSlot slot = ref _batch[_batchNext];
        CopyJob job = slot.Job!;
        slot.Result = job.IsCanceled ? Errno.ECANCELED
            : slot.DoneBytes == 0 && job.Fence.IsSignaled ? Errno.ETIME // given up, unstarted
            : RunBlock(job, ref slot.DoneBytes);
        _batchNext += slot.Result != Errno.Success || slot.DoneBytes == job.LengthBytes ? 1 : 0;
        if (_batchNext == _batchCount)
        {
            EndBatchAndTakeNext();
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

            Interlocked.Exchange(ref _shared.Doorbell, 0);
            using (Section())
            {
                while (steps < stepsMax && RunStep())
                {
                    steps++;
                }
            }

            Exit();
            Interleave.Point("engine: look again");
        }
        while (steps < stepsMax && Volatile.Read(ref _shared.Doorbell) != 0);
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

    void IStoppableEngine.HandleLost()
    {
        foreach (CopyJob job in _ring.ToArray())
        {
            job.Fail();
        }
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
        _isDead = true;
        EndBatch(Errno.EIO);
        TimeSpan now = _host.Now;
        foreach (CopyJob job in _ring.ToArray())
        {
            _ring.Remove(job);
            End(job, doneBytes: 0, Errno.EIO, now);
        }

        Volatile.Write(ref _shared.Queued, _ring.Count);
    }

    private void RingDoorbell()
    {
        Interleave.Point("engine: doorbell");
        Interlocked.Exchange(ref _shared.Doorbell, 1);
        WorkAvailable?.Invoke();
    }

    // What is written with each job by another processor than the one that copies, which looks at the rest with each
    // block: on a cache line of its own, wherever the object begins.
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    private struct SharedWords
    {
        [FieldOffset(128)]
        public int Queued; // how many are in the ring; read without the lock

        [FieldOffset(132)]
        public int Doorbell;
    }

    // In one place, because the bytes of each block throw the rest out of the cache.
    private struct BatchSlot
    {
        public CopyJob? Job;
        public ulong DoneBytes;
        public Errno Result;
    }

    private bool TakeBatch()
    {
        using (_host.Enter())
        {
            TakeBatchLocked();
            return _batchCount > 0;
        }
    }

    // The oldest ready job; and if that is short, the short ones right behind it that are ready and of its timeline:
    // for them the lock, taken for each, would cost as much as a part of the copying. One timeline, because one watch
    // on the last of them then speaks for all.
    private void TakeBatchLocked()
    {
        ulong bytes = 0;
        foreach (CopyJob job in _ring)
        {
            if (_batchCount == 0 ? CanStart(job) : Joins(job))
            {
                _batch[_batchCount++].Job = job;
                bytes += job.LengthBytes;
            }
            else if (_batchCount > 0)
            {
                break;
            }
        }

        if (_batchCount > 0)
        {
            TimeSpan most = TimeSpan.FromSeconds((double)bytes / SlowBytesPerSecond);
            _watch.Start(_batch[_batchCount - 1].Job!.Fence, _host.Now, most);
        }
    }

    private bool Joins(CopyJob job) =>
        _batchCount < BatchJobsMax
        && IsShort(_batch[0].Job!)
        && IsShort(job)
        && job.Fence.Context == _batch[0].Job!.Fence.Context
        && CanStart(job);

    private bool IsShort(CopyJob job) => job.LengthBytes <= (ulong)_options.CopyBlockBytes;

    private bool CanStart(CopyJob job) => job.IsReady || !_options.WaitsForFences;

    private static void CheckRange(CopyJob job, DmaAddressList addresses, ulong offset)
    {
        if (offset > addresses.LengthBytes || job.LengthBytes > addresses.LengthBytes - offset)
        {
            throw new ArgumentException(
                $"{job.Name}: {job.LengthBytes} bytes from {offset} on are not within {addresses.LengthBytes}",
                nameof(job));
        }
    }

    // Writes nothing to the job: another processor has just made it, and the stores of the copy would wait in their
    // queue until this one has the cache line.
    private Errno RunBlock(CopyJob job, ref ulong done)
    {
        ulong left = Math.Min((ulong)_options.CopyBlockBytes, job.LengthBytes - done);
        job.Target.TryLocate(job.TargetOffset + done, out DeviceAddress target, out ulong contiguous);
        int length = (int)Math.Min(left, contiguous);
        if (job.Source is null)
        {
            if (Port.TryWrite(target, length, out Span<byte> filled) != Errno.Success)
            {
                return Errno.EFAULT;
            }

            filled.Fill(job.Pattern);
            done += (ulong)filled.Length;
            return Errno.Success;
        }

        job.Source.TryLocate(job.SourceOffset + done, out DeviceAddress source, out contiguous);
        length = (int)Math.Min((ulong)length, contiguous);
        if (Port.TryRead(source, length, out ReadOnlySpan<byte> from) != Errno.Success
            || Port.TryWrite(target, from.Length, out Span<byte> to) != Errno.Success)
        {
            return Errno.EFAULT;
        }

        from[..to.Length].CopyTo(to);
        done += (ulong)to.Length;
        return Errno.Success;
    }

    private void StandStill()
    {
        using (_host.Enter())
        {
            Interlocked.Exchange(ref _stopRequested, 0);
            EndBatch(Errno.ETIME);
        }
    }

    private void EndBatchAndTakeNext()
    {
        using (_host.Enter())
        {
            TakeOutOfRing();
            EndUpTo(_batchCount);
            ForgetBatch();
            if (Interlocked.Exchange(ref _stopRequested, 0) != 0)
            {
                Hangs.HandleStopped(this); // it was meant for this batch, and nobody is in a block
            }

            TakeBatchLocked();
        }
    }

    // The engine stands still. What was done of the batch is done; the rest of it ends with an error.
    private void EndBatch(Errno error)
    {
        TakeOutOfRing();
        EndUpTo(_batchNext);
        for (int i = _batchNext; i < _batchCount; i++)
        {
            _batch[i].Result = error;
            _batch[i].Job!.Fail(); // before the detector signals for them
        }

        Hangs.HandleStopped(this);
        EndUpTo(_batchCount);
        ForgetBatch();
    }

    // A batch lies together in the ring: others are only added behind it. It is out already if its end was broken off.
    private void TakeOutOfRing()
    {
        int first = _batchCount == 0 ? -1 : _ring.IndexOf(_batch[0].Job!);
        if (first >= 0)
        {
            _ring.RemoveRange(first, _batchCount);
            Volatile.Write(ref _shared.Queued, _ring.Count);
        }
    }

    private void EndUpTo(int end)
    {
        TimeSpan now = _host.Now;
        while (_batchEnded < end)
        {
            ref BatchSlot slot = ref _batch[_batchEnded++];
            End(slot.Job!, slot.DoneBytes, slot.Result, now);
        }
    }

    private void ForgetBatch()
    {
        _watch.Stop();
        _batch.AsSpan(0, _batchCount).Clear();
        (_batchCount, _batchNext, _batchEnded) = (0, 0, 0);
    }

    private void End(CopyJob job, ulong doneBytes, Errno errno, TimeSpan now)
    {
        _host.Trace("copy.end", job.Name, (long)doneBytes, (long)errno);
        job.End(doneBytes, errno, now);
    }
}
