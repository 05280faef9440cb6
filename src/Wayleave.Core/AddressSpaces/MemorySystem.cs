using Wayleave.Core.Checking;
using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

/// <summary>What happened to the memory of a machine since it was made.</summary>
public sealed class MemoryStats
{
    /// <summary>Pages handed out.</summary>
    public long Allocated { get; internal set; }

    /// <summary>Pages given back.</summary>
    public long Freed { get; internal set; }

    /// <summary>Times that no page was free and some had to be taken from somebody.</summary>
    public long DirectReclaims { get; internal set; }

    /// <summary>Pages taken from somebody.</summary>
    public long Reclaimed { get; internal set; }

    /// <summary>Pages whose content went to the swap store.</summary>
    public long SwappedOut { get; internal set; }

    /// <summary>Pages whose content came back from it.</summary>
    public long SwappedIn { get; internal set; }

    /// <summary>Processes that had to end because no memory was left.</summary>
    public long LastResorts { get; internal set; }

    /// <summary>Pages that went to a device's memory.</summary>
    public long MigratedToDevice { get; internal set; }

    /// <summary>Pages that came back from one.</summary>
    public long MigratedHome { get; internal set; }
}

/// <summary>
/// The memory of one machine: pages of the processor, the swap store, and who used what last. Address spaces are made
/// from it. Host lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class MemorySystem : IFrameSource
{
    private readonly List<MemoryZone> _zones = [];
    private readonly SwapStore _swap;
    private readonly List<(SpaceOperation Operation, Action Callback)> _blocked = [];
    private readonly List<ILastResort> _lastResorts = [];
    private ulong _nextNumber = 1;
    private PageFrame? _newest;
    private PageFrame? _oldest;

    /// <param name="host">Whose lock guards it.</param>
    /// <param name="name">For people.</param>
    /// <param name="swapPages">
    /// How many pages the swap store holds; without it anonymous pages cannot be reclaimed.
    /// </param>
    public MemorySystem(HostContext host, string name = "memory", long swapPages = 0)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentOutOfRangeException.ThrowIfNegative(swapPages);
        (Host, Name, _swap) = (host, name, new SwapStore(swapPages));
        PageLock = host.Checker.DefineClass("page lock");
        ZeroPage = new PageFrame(this, PageFrameKind.System, 0, new byte[PageFrame.SizeBytes], default)
        {
            IsZeroPage = true,
            IsAllocated = true,
            ReferenceCount = 1,
        };
    }

    public HostContext Host { get; }

    public string Name { get; }

    /// <summary>The class of all page locks: taken inside the address-space lock, around notifiers.</summary>
    public LockClass PageLock { get; }

    public MemoryStats Stats { get; } = new();

    /// <summary>How many pages are one piece where huge pages are used, as a power of two: 9 is 2 MiB.</summary>
    public int HugeOrder { get; init; } = 9;

    /// <summary>Pages of the machine.</summary>
    public long PageCount => _zones.Sum(z => (long)z.PageCount);

    /// <summary>Pages that nobody has.</summary>
    public long FreePages => _zones.Sum(z => (long)z.FreeCount);

    /// <summary>Slots of the swap store that hold something.</summary>
    public long SwapUsed => _swap.UsedCount;

    /// <summary>Pages of one zone that nobody has.</summary>
    public long FreePagesOf(MemoryZoneKind zone) => _zones.Where(z => z.Kind == zone).Sum(z => (long)z.FreeCount);

    /// <summary>Somebody may be ended when there is no memory left. Host lock held by the caller.</summary>
    public void AddLastResort(ILastResort holder)
    {
        Host.AssertHeld();
        _lastResorts.Add(holder);
    }

    /// <summary>It has let go of its pages. Nothing when it was asked to, or never added.</summary>
    public void RemoveLastResort(ILastResort holder)
    {
        Host.AssertHeld();
        _lastResorts.Remove(holder);
    }

    internal PageFrame ZeroPage { get; }

    internal SwapStore Swap => _swap;

    internal PageFrame? Oldest => _oldest;

    /// <summary>Gives the machine memory.</summary>
    /// <param name="bytes">Whole pages, at most 2 GiB; the caller keeps it alive.</param>
    /// <param name="physical">
    /// Where devices find it: the start of its window in a fabric; default when no device shall.
    /// </param>
    /// <param name="zone">Pages of processes come from movable memory first, where there is some.</param>
    public void AddMemory(
        Memory<byte> bytes, DeviceAddress physical = default, MemoryZoneKind zone = MemoryZoneKind.Normal)
    {
        Host.AssertHeld();
        if (bytes.Length == 0 || bytes.Length % PageFrame.SizeBytes != 0)
        {
            throw new ArgumentException($"{bytes.Length} bytes are no whole pages", nameof(bytes));
        }

        MemoryZone made = new(this, zone, bytes, physical, TakeNumbers(bytes.Length / PageFrame.SizeBytes));
        int at = zone == MemoryZoneKind.Movable ? 0 : _zones.Count;
        _zones.Insert(at, made);
    }

    /// <summary>
    /// Takes pages from those who used them longest ago. Fewer are freed where pins, locks, a full swap store or a
    /// mirror that would never stop are in the way.
    /// </summary>
    public ReclaimOperation Reclaim(int pages, Activity? activity = null) => new(this, pages, activity);

    // The page of zeroes alone: it is never free.
    void IFrameSource.Free(PageFrame frame) =>
        throw new InvalidOperationException("the page of zeroes is let go by whoever made it");

    void IFrameSource.HandleProgress() => HandleProgress();

    PageFrame IFrameSource.PageBehind(PageFrame first, int index) =>
        throw new InvalidOperationException("the page of zeroes is in no folio");

    Memory<byte> IFrameSource.BytesFrom(PageFrame first, int count) => first.Bytes;

    /// <summary>A page of a zone is nobody's any more.</summary>
    internal void HandleFree(PageFrame frame)
    {
        Stats.Freed += frame.PageCount;
        frame.End();
        Unlist(frame);
    }

    /// <summary>Whether <see cref="TryAllocateFolio"/> would find one.</summary>
    internal bool HasFreeFolio(int order) => _zones.Exists(z => z.HasFree(order));

    /// <summary>The next numbers for frames, also of devices.</summary>
    internal ulong TakeNumbers(int count)
    {
        ulong first = _nextNumber;
        _nextNumber += (ulong)count;
        return first;
    }

    /// <summary>A page, held by one reference, or null.</summary>
    /// <param name="mayBeMovable">False for what will be pinned for long.</param>
    /// <param name="isCleared">False when the caller writes every byte at once.</param>
    internal PageFrame? TryAllocate(bool mayBeMovable = true, bool isCleared = true)
    {
        foreach (MemoryZone zone in _zones)
        {
            if ((mayBeMovable || zone.Kind != MemoryZoneKind.Movable) && zone.TryTake(0) is { } frame)
            {
                Prepare(frame, isCleared);
                return frame;
            }
        }

        return null;
    }

    /// <summary>
    /// As many pages as there are, at most so many, next to each other where they can be; each held by one reference,
    /// and of any content. For those who write every byte at once.
    /// </summary>
    internal int TryAllocateMany(Span<PageFrame?> frames, bool mayBeMovable)
    {
        int count = 0;
        foreach (MemoryZone zone in _zones)
        {
            int cursor = 0;
            while (count < frames.Length && (mayBeMovable || zone.Kind != MemoryZoneKind.Movable)
                && zone.TakeRun(frames.Length - count, ref cursor, out int first) is var taken and > 0)
            {
                for (int i = 0; i < taken; i++)
                {
                    PageFrame frame = zone.FrameAt(first + i);
                    Prepare(frame, isCleared: false);
                    frames[count++] = frame;
                }
            }
        }

        return count;
    }

    /// <summary>2^order pages in one piece, a folio held by one reference; null when no piece is free.</summary>
    /// <param name="order">More than 0.</param>
    /// <param name="mayBeMovable">As of <see cref="TryAllocate"/>.</param>
    /// <param name="isCleared">As of <see cref="TryAllocate"/>.</param>
    internal PageFrame? TryAllocateFolio(int order, bool mayBeMovable, bool isCleared)
    {
        foreach (MemoryZone zone in _zones)
        {
            if ((mayBeMovable || zone.Kind != MemoryZoneKind.Movable) && zone.TryTake(order) is { } folio)
            {
                folio.Begin(order);
                Stats.Allocated += folio.PageCount;
                if (isCleared)
                {
                    folio.BytesOf(folio.PageCount).Span.Clear();
                }

                return folio;
            }
        }

        return null;
    }

    /// <summary>
    /// A page, taken from somebody if none is free. Afterwards <see cref="FrameSlot.Frame"/> has it, held by one
    /// reference, or <see cref="SpaceOperation.StepErrno"/> says ENOMEM.
    /// </summary>
    internal IEnumerable<Pause> Allocate(
        SpaceOperation operation, FrameSlot slot, bool mayBeMovable = true, bool isCleared = true)
    {
        operation.Activity.Allocate(mayReclaim: true, "a page");
        slot.Frame = TryAllocate(mayBeMovable, isCleared);
        if (slot.Frame is not null)
        {
            yield break;
        }

        Stats.DirectReclaims++;
        foreach (Pause pause in Reclaimer.Reclaim(operation, 1, mayBeMovable ? null : MemoryZoneKind.Normal))
        {
            yield return pause;
        }

        operation.TakeStepErrno(out _);
        slot.Frame = TryAllocate(mayBeMovable, isCleared);
        if (slot.Frame is null)
        {
            operation.StepErrno = Errno.ENOMEM;
            AskLastResort();
        }
    }

    // The allocation fails all the same: who ends lets go of its pages some time later, and whoever asks then has them.
    private void AskLastResort()
    {
        if (_lastResorts.MaxBy(l => l.PageCount) is { } largest)
        {
            _lastResorts.Remove(largest);
            Stats.LastResorts++;
            largest.GiveUp();
        }
    }

    /// <summary>The page was used now: it is the last that reclaim looks at.</summary>
    internal void Touch(PageFrame frame)
    {
        frame = frame.Folio;
        if (ReferenceEquals(_newest, frame) || frame.Kind != PageFrameKind.System || frame.IsZeroPage)
        {
            return;
        }

        Unlist(frame);
        frame.OlderUsed = _newest;
        if (_newest is { } newest)
        {
            newest.NewerUsed = frame;
        }

        _newest = frame;
        _oldest ??= frame;
        frame.IsListed = true;
    }

    /// <summary>Something that an operation may wait for has changed.</summary>
    internal void HandleProgress()
    {
        for (int i = _blocked.Count - 1; i >= 0; i--)
        {
            (SpaceOperation operation, Action callback) = _blocked[i];
            if (operation.IsReady || operation.IsCompleted)
            {
                _blocked.RemoveAt(i);
                Host.Defer(callback);
            }
        }
    }

    internal bool AddBlocked(SpaceOperation operation, Action callback)
    {
        _blocked.Add((operation, callback));
        return true;
    }

    /// <summary>As <see cref="HandleProgress"/>, from a callback that runs without the lock.</summary>
    internal void HandleProgressOutside()
    {
        using (Host.Enter())
        {
            HandleProgress();
        }
    }

    private void Prepare(PageFrame frame, bool isCleared)
    {
        frame.Begin(order: 0);
        Stats.Allocated++;
        if (isCleared)
        {
            frame.Bytes.Span.Clear();
        }
    }

    private void Unlist(PageFrame frame)
    {
        if (!frame.IsListed)
        {
            return;
        }

        if (frame.NewerUsed is { } newer)
        {
            newer.OlderUsed = frame.OlderUsed;
        }
        else
        {
            _newest = frame.OlderUsed;
        }

        if (frame.OlderUsed is { } older)
        {
            older.NewerUsed = frame.NewerUsed;
        }
        else
        {
            _oldest = frame.NewerUsed;
        }

        (frame.NewerUsed, frame.OlderUsed, frame.IsListed) = (null, null, false);
    }
}

/// <summary>Where an allocation in steps puts its page.</summary>
internal sealed class FrameSlot
{
    public PageFrame? Frame { get; set; }
}
