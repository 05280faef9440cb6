namespace Wayleave.Core.Fences;

/// <summary>
/// A timeline that a program drives by hand (<c>sw_sync</c>): a 32-bit counter that wraps, and fences for values of it.
/// Nobody knows when such a fence signals, so it is <see cref="Fence.IsUserControlled"/>. Host lock held by the caller.
/// </summary>
public sealed class SoftwareTimeline
{
    private const uint StepMax = int.MaxValue;

    private readonly HostContext _host;
    private readonly List<PointFence> _pending = []; // in the order of their values, as they lie ahead
    private readonly ulong _context;
    private bool _isClosed;

    public SoftwareTimeline(HostContext host, string name)
    {
        (_host, Name) = (host, name);
        _context = host.AllocateFenceContexts();
    }

    public string Name { get; }

    /// <summary>How far it has got.</summary>
    public uint Value { get; private set; }

    /// <summary>Fences that are not signalled.</summary>
    public int PendingCount => _pending.Count;

    /// <summary>
    /// The fence of a value (<c>SW_SYNC_IOC_CREATE_FENCE</c>): signalled at birth when the timeline is there already;
    /// the same object as before while that value is pending.
    /// </summary>
    public Fence CreateFence(uint value)
    {
        _host.AssertHeld();
        ObjectDisposedException.ThrowIf(_isClosed, this);
        PointFence made = new(this, value);
        if (IsReached(value))
        {
            made.Signal();
            return made;
        }

        int place = _pending.FindLastIndex(f => !Fence.IsLater(f.Seqno, value, SeqnoWidth.Bits32)) + 1;
        if (place > 0 && _pending[place - 1].Seqno == value)
        {
            return _pending[place - 1];
        }

        _pending.Insert(place, made);
        return made;
    }

    /// <summary>
    /// Goes on by <paramref name="count"/> and signals what it passes, in order (<c>SW_SYNC_IOC_INC</c>). Steps of more
    /// than 2^31-1 are taken in two, so that nothing that was ahead is mistaken for behind.
    /// </summary>
    public void Increment(uint count)
    {
        _host.AssertHeld();
        ObjectDisposedException.ThrowIf(_isClosed, this);
        for (; count > StepMax; count -= StepMax)
        {
            Advance(StepMax);
        }

        Advance(count);
    }

    /// <summary>
    /// The earliest deadline that was asked of a fence of this timeline (<c>SW_SYNC_GET_DEADLINE</c>).
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a fence of somebody else, <see cref="Errno.ENOENT"/> when nobody asked.
    /// </returns>
    public Errno TryGetDeadline(Fence fence, out TimeSpan deadline)
    {
        _host.AssertHeld();
        deadline = fence.Deadline ?? TimeSpan.Zero;
        return fence is not PointFence point || !ReferenceEquals(point.Owner, this) ? Errno.EINVAL
            : fence.Deadline is null ? Errno.ENOENT
            : Errno.Success;
    }

    /// <summary>
    /// The program is gone: every pending fence ends with <see cref="Errno.ENOENT"/>, by its owner.
    /// </summary>
    public void Close()
    {
        _host.AssertHeld();
        _isClosed = true;
        PointFence[] pending = [.. _pending];
        _pending.Clear();
        foreach (PointFence fence in pending)
        {
            fence.Signal(Errno.ENOENT);
        }
    }

    private bool IsReached(ulong value) => !Fence.IsLater(value, Value, SeqnoWidth.Bits32);

    private void Advance(uint count)
    {
        Value += count;
        int reached = _pending.FindIndex(f => !IsReached(f.Seqno));
        List<PointFence> passed = _pending.GetRange(0, reached < 0 ? _pending.Count : reached);
        _pending.RemoveRange(0, passed.Count);
        foreach (PointFence fence in passed)
        {
            fence.Signal();
        }
    }

    private sealed class PointFence(SoftwareTimeline owner, uint value)
        : Fence(owner._host, owner._context, value, owner.Name, width: SeqnoWidth.Bits32)
    {
        public SoftwareTimeline Owner => owner;

        public override bool IsUserControlled => true;

        private protected override string OwnDriverName => "sw_sync";

        private protected override bool IsDone() => owner.IsReached(Seqno);
    }
}
