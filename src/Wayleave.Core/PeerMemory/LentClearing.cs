using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

// Memory is cleared in time proportional to its size, and nobody may hold the host lock for that long. So it is lent in
// two phases:
//
//   host lock:  take it out of the allocator; a fence into the reservation as KERNEL; the buffer is there
//   no lock:    write zeroes, block by block
//   host lock:  signal the fence
//
// Whoever maps the buffer meanwhile waits for the fence, as for the copy of a move. A revoke waits for it too, and what
// is not cleared by then is not cleared any more: whoever gets the memory next has it cleared.

/// <summary>
/// Clears memory that an owner lends, outside of the host lock. For owners that have no engine to do it.
/// </summary>
/// <param name="host">Whose lock guards what is lent.</param>
/// <param name="fabric">Through which the processor reaches the memory.</param>
public sealed class LentClearing(HostContext host, PciFabric fabric)
{
    private const int BlockBytes = 64 << 10;

    private readonly Queue<Work> _waiting = new(); // host lock
    private readonly List<Work> _all = []; // host lock; those that wait and those that somebody clears

    /// <summary>
    /// Called without the host lock, on the thread that let go of it, when there is something to clear: wakes a thread
    /// that calls <see cref="Drive"/>, and returns. Null: that thread clears by itself. Set before anything is lent.
    /// </summary>
    public Action? WorkAvailable { get; set; }

    /// <summary>Buffers that are not clear yet. Host lock held by the caller.</summary>
    public int UnderWay => _all.Count;

    /// <summary>
    /// What could not be cleared, for its device answers no more: nobody may have it. Host lock held; before the fence
    /// signals.
    /// </summary>
    internal Action<SharedBuffer>? Failed { get; set; }

    /// <summary>
    /// Off publishes the memory before it is clear: for the scenario that must notice.
    /// </summary>
    internal bool HoldsBack { get; init; } = true;

    /// <summary>
    /// From now on every user of the buffer waits until its bytes are zero. Host lock held by the caller, who has just
    /// exported it.
    /// </summary>
    /// <param name="buffer">That nobody else knows.</param>
    /// <param name="range">Where it is; the owner's until the fence has signalled.</param>
    /// <returns>
    /// <see cref="Errno.EFAULT"/> when nothing answers at some address of the range; then nothing has changed.
    /// </returns>
    public Errno TryBegin(SharedBuffer buffer, DeviceRange range)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        host.AssertHeld();
        DmaPort processor = new(fabric.Processor);
        for (ulong at = 0; at < range.LengthBytes;)
        {
            int length = (int)Math.Min(range.LengthBytes - at, int.MaxValue);
            if (processor.TryAim(range.Start + at, length, out Span<byte> bytes) != Errno.Success)
            {
                return Errno.EFAULT; // no window of the fabric is behind the BAR
            }

            at += (ulong)bytes.Length;
        }

        AcquireTicket ticket = new(host, $"clear of {buffer.Name}");
        buffer.Reservation.TryLock(ticket); // nobody else knows the buffer yet
        buffer.Reservation.ReserveFences(ticket, 1);
        Work work = new(buffer, processor, range, new Timeline(host, $"clear of {buffer.Name}").CreateFence());
        if (HoldsBack)
        {
            buffer.Reservation.AddFence(ticket, work.Fence, ReservationUsage.Kernel);
        }

        buffer.Reservation.Unlock(ticket);
        _all.Add(work);
        _waiting.Enqueue(work);
        host.Defer(WorkAvailable ?? Drive);
        return Errno.Success;
    }

    /// <summary>
    /// The buffer is taken back: what is not clear yet is left as it is, and its fence signals ECANCELED as soon as
    /// nobody is inside a block. Host lock held by the caller.
    /// </summary>
    public void Cancel(SharedBuffer buffer)
    {
        host.AssertHeld();
        _all.Find(w => ReferenceEquals(w.Buffer, buffer))?.Cancel();
    }

    /// <summary>
    /// Clears what nobody else is clearing, and returns when nothing is left. Any number of threads at a time; host
    /// lock not held by the caller.
    /// </summary>
    public void Drive()
    {
        while (TryTake(out Work? work))
        {
            Errno errno = Errno.EIO; // when a block throws: no byte of it is certain
            try
            {
                while (!work!.Step(out errno))
                {
                }
            }
            finally
            {
                End(work!, errno);
            }
        }
    }

    /// <summary>The oldest that nobody clears: the caller's, to step until it is done and to end.</summary>
    internal bool TryTake(out Work? work)
    {
        using (host.Enter())
        {
            return _waiting.TryDequeue(out work);
        }
    }

    /// <summary>Nobody is inside any more.</summary>
    internal void End(Work work, Errno errno)
    {
        using (host.Enter())
        {
            _all.Remove(work);
            if (errno is not (Errno.Success or Errno.ECANCELED))
            {
                Failed?.Invoke(work.Buffer); // whoever waits for the fence finds it revoked
            }

            using SignalingSection section = new(work.Buffer.Name, "clearing");
            host.Trace("p2pmem.cleared", work.Buffer.Name, (long)work.DoneBytes, (long)errno);
            work.Fence.Signal(errno);
        }
    }

    /// <summary>One buffer. Stepped by one thread at a time, without the host lock.</summary>
    internal sealed class Work(SharedBuffer buffer, DmaPort processor, DeviceRange range, Fence fence)
    {
        private volatile bool _isCanceled;

        public SharedBuffer Buffer => buffer;

        public Fence Fence => fence;

        public ulong DoneBytes { get; private set; }

        public void Cancel() => _isCanceled = true;

        /// <summary>Clears a block; true when that was the last, or none will follow.</summary>
        public bool Step(out Errno errno)
        {
            if (_isCanceled)
            {
                errno = Errno.ECANCELED;
                return true;
            }

            int length = (int)Math.Min(range.LengthBytes - DoneBytes, BlockBytes);
            errno = processor.TryWrite(range.Start + DoneBytes, length, out Span<byte> bytes);
            if (errno != Errno.Success)
            {
                return true; // the device was pulled out, and its memory with it
            }

            bytes.Clear();
            DoneBytes += (ulong)bytes.Length;
            return DoneBytes == range.LengthBytes;
        }
    }
}
