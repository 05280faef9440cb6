using Wayleave.Core.Checking;
using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

// gup.c. The fast path looks at entries without the lock and takes what is there; the slow path takes the lock and
// faults. A long-term pin checks afterwards whether every page may stay for ever, and moves those that may not.

/// <summary>Holds pages of a process (<c>pin_user_pages</c>, <c>get_user_pages</c>).</summary>
/// <remarks>
/// As in the kernel, some pages are better than none: it fails only when it got none, and for a long-term pin, which is
/// all or nothing. <see cref="Errno.EFAULT"/>: a hole, a right that is missing, a region of a device, a page behind a
/// file's end; for a long-term pin that writes, a file whose file system must hear of it.
/// <see cref="Errno.EREMOTEIO"/>: a page of a BAR and no <see cref="PinMode.PeerToPeer"/>.
/// <see cref="Errno.EOPNOTSUPP"/>: long-term in a DAX file.
/// <see cref="Errno.EINVAL"/>, with a violation: flags that do not go together. <see cref="Errno.ENOMEM"/>,
/// <see cref="Errno.EBUSY"/>: a page that may not stay did not move. <see cref="Errno.EPERM"/> and ENOMEM from
/// <see cref="PinAccount.TryCharge"/> when it is charged.
/// </remarks>
public sealed class PinOperation : SpaceOperation
{
    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private readonly PinMode _flags;
    private readonly bool _isCharged;
    private readonly List<DeviceRange> _addresses = []; // of the frames, next to each other in one
    private readonly List<PageFrame> _frames = [];
    private bool _hasMovable; // one of them may not stay for long
    private long _charged;
    private SpaceRegion? _lastRegion; // of the page before, within one step

    internal PinOperation(
        AddressSpace space, AddressRange range, PinMode flags, bool isCharged, Activity? activity)
        : base(space.Memory, activity, $"{space.Name} is pinned")
    {
        (_space, _range, _flags, _isCharged) = (space, range, flags, isCharged);
    }

    /// <summary>What is held, once this has completed well: perhaps fewer pages than asked for.</summary>
    public PinnedPages? Result { get; private set; }

    private bool IsPin => (_flags & PinMode.Pin) != 0;

    private bool IsLongTerm => (_flags & PinMode.LongTerm) != 0;

    private int PageCount => (int)(_range.EndPage - _range.FirstPage);

    private protected override IEnumerable<Pause> Run()
    {
        Errno = Check();
        if (Errno == Errno.Success && _isCharged)
        {
            Errno = _space.Pins.TryCharge(PageCount);
            _charged = Errno == Errno.Success ? PageCount : 0;
        }

        if (Errno != Errno.Success)
        {
            yield break;
        }

        try
        {
            while (true)
            {
                foreach (Pause pause in TakeAll())
                {
                    yield return pause;
                }

                bool failed = TakeStepErrno(out Errno errno);
                if (failed && (_frames.Count == 0 || IsLongTerm))
                {
                    Errno = errno;
                    yield break;
                }

                if (!IsLongTerm || !_hasMovable)
                {
                    break;
                }

                foreach (Pause pause in MoveOut())
                {
                    yield return pause;
                }

                if (TakeStepErrno(out errno))
                {
                    Errno = errno;
                    yield break;
                }
            }

            _space.Pins.Uncharge(_charged == 0 ? 0 : _charged - _frames.Count);
            Result = new PinnedPages(
                _space, _frames, _addresses, IsPin, IsLongTerm, _charged == 0 ? 0 : _frames.Count);
        }
        finally
        {
            if (Result is null)
            {
                DropAll();
                _space.Pins.Uncharge(_charged);
                Memory.HandleProgress();
            }
        }
    }

    private Errno Check()
    {
        bool isGet = (_flags & PinMode.Get) != 0;
        string? wrong = (IsLongTerm && !IsPin) ? "a long-term hold that is no pin"
            : (isGet && IsPin) ? "a pin and a reference at once"
            : (IsLongTerm && (_flags & PinMode.PeerToPeer) != 0) ? "a long-term pin of a page of a BAR"
            : null;
        if (wrong is not null)
        {
            Memory.Host.Checker.Report(ViolationKind.PagePin, _space.Name, wrong);
            return Errno.EINVAL;
        }

        bool isSane = _range.LengthBytes != 0 && _range.End >= _range.Start
            && _range.EndPage - _range.FirstPage <= int.MaxValue;
        return isSane ? Errno.Success : Errno.EINVAL;
    }

    private IEnumerable<Pause> TakeAll()
    {
        _lastRegion = null;
        while (_frames.Count < PageCount && TryTakeRun(_range.FirstPage + (ulong)_frames.Count))
        {
        }

        if (_frames.Count == PageCount)
        {
            yield break;
        }

        if ((_flags & PinMode.FastOnly) != 0)
        {
            StepErrno = Errno.EAGAIN;
            yield break;
        }

        yield return "pin slowly";
        SpaceLockHold hold = _space.Lock.Ask(Activity, isWrite: false);
        try
        {
            foreach (Pause pause in _space.Lock.WaitUntilGranted(hold))
            {
                yield return pause;
            }

            while (_frames.Count < PageCount && StepErrno == Errno.Success)
            {
                _lastRegion = null;
                ulong page = _range.FirstPage + (ulong)_frames.Count;
                if (TryTake(page, out FaultFlags flags) || StepErrno != Errno.Success)
                {
                    continue;
                }

                foreach (Pause pause in _space.Faults.Handle(this, page, flags))
                {
                    yield return pause;
                }
            }
        }
        finally
        {
            _space.Lock.Release(hold);
            Memory.HandleProgress();
        }
    }

    // No lock: pages of the right kind whose entries allow it, as far as they go in one region and one leaf. What stops
    // it is for the slow path to explain. False when it took none.
    private bool TryTakeRun(ulong page)
    {
        if (CheckRegion(page) != Errno.Success)
        {
            return false;
        }

        SpaceRegion region = FindRegion(page)!;
        bool isWrite = (_flags & PinMode.Write) != 0;
        bool mustBeOwn = IsPin && !isWrite && region.IsCopyOnWrite;
        ulong end = Math.Min(_range.EndPage, region.Addresses.EndPage);
        int before = _frames.Count;
        SplitPresent(page);
        foreach (ref readonly PageEntry entry in _space.Table.PeekRun(page, end))
        {
            if (!entry.IsPresent || (isWrite && !entry.IsWritable) || CheckFrame(entry.Frame!) != Errno.Success
                || (mustBeOwn && MustUnshare(entry)))
            {
                break;
            }

            Take(entry.Frame!);
        }

        return _frames.Count != before;
    }

    private bool TryTake(ulong page, out FaultFlags flags)
    {
        flags = FaultFlags.None;
        StepErrno = CheckRegion(page);
        if (StepErrno != Errno.Success || !IsUsable(page, out PageFrame? frame, out flags))
        {
            return false;
        }

        StepErrno = CheckFrame(frame!);
        return StepErrno == Errno.Success && Take(frame!);
    }

    private bool Take(PageFrame frame)
    {
        PinnedPages.Take(Memory.Host, frame, IsPin);
        _frames.Add(frame);
        _hasMovable |= IsLongTerm && MustMove(frame);
        DeviceAddress address = frame.Address;
        bool isNext = _addresses is [.., { } before] && (address.Value == 0
            ? before.Start.Value == 0
            : before.Start.Value + before.LengthBytes == address.Value);
        if (isNext)
        {
            DeviceRange last = _addresses[^1];
            _addresses[^1] = last with { LengthBytes = last.LengthBytes + PageFrame.SizeBytes };
        }
        else
        {
            _addresses.Add(new DeviceRange(address, PageFrame.SizeBytes));
        }

        return true;
    }

    private SpaceRegion? FindRegion(ulong page)
    {
        ulong address = page * PageFrame.SizeBytes;
        if (_lastRegion is null || !_lastRegion.Addresses.Contains(address))
        {
            _lastRegion = _space.FindRegion(address);
        }

        return _lastRegion;
    }

    // check_vma_flags
    private Errno CheckRegion(ulong page)
    {
        bool isWrite = (_flags & PinMode.Write) != 0;
        if (FindRegion(page) is not { } region || region.IsSpecial
            || region.Peer is { IsGone: true }
            || !(isWrite ? region.IsWritable : region.IsReadable))
        {
            return Errno.EFAULT;
        }

        if (IsLongTerm && region.File is { Kind: MemoryFileKind.Dax })
        {
            return Errno.EOPNOTSUPP;
        }

        return IsLongTerm && isWrite && region is { IsShared: true, File.TracksDirty: true }
            ? Errno.EFAULT
            : Errno.Success;
    }

    // Whether the entry shows a page that may be held as it is; otherwise which fault makes it so.
    private bool IsUsable(ulong page, out PageFrame? frame, out FaultFlags flags)
    {
        bool isWrite = (_flags & PinMode.Write) != 0;
        SplitPresent(page);
        PageEntry entry = _space.Table.Peek(page);
        frame = entry.Frame;
        flags = isWrite ? FaultFlags.Write : FaultFlags.None;
        if (!entry.IsPresent || (isWrite && !entry.IsWritable))
        {
            return false;
        }

        // gup_must_unshare: a pin to read must see what the process writes later, so the page must be its own.
        bool mustUnshare = IsPin && !isWrite && MustUnshare(entry) && FindRegion(page)!.IsCopyOnWrite;
        flags |= mustUnshare ? FaultFlags.Unshare : FaultFlags.None;
        return !mustUnshare;
    }

    // A hold is counted page by page. Of a folio that is the device's, or on its way, the fault decides.
    private void SplitPresent(ulong page)
    {
        if (_space.Table.TryGetWhole(page, out _, out PageEntry whole) && whole.IsPresent)
        {
            _space.Table.SplitWhole(page);
        }
    }

    private bool MustUnshare(in PageEntry entry) =>
        !entry.IsExclusive && (entry.Frame!.IsAnonymous || entry.Frame.IsZeroPage || IsLongTerm);

    private Errno CheckFrame(PageFrame frame) =>
        frame.Kind == PageFrameKind.PeerToPeer && (_flags & PinMode.PeerToPeer) == 0
            ? Errno.EREMOTEIO
            : Errno.Success;

    // folio_is_longterm_pinnable, the other way round.
    private static bool MustMove(PageFrame frame) =>
        frame.Kind == PageFrameKind.DeviceCoherent
        || (frame.Kind == PageFrameKind.System && frame.Zone == MemoryZoneKind.Movable && !frame.IsZeroPage);

    // check_and_migrate_movable_pages: lets all go, moves those that must, and the caller pins again.
    private IEnumerable<Pause> MoveOut()
    {
        PageFrame[] moving = [.. _frames.FindAll(MustMove)];
        DropAll();
        foreach (PageFrame frame in moving)
        {
            bool isCoherent = frame.Kind == PageFrameKind.DeviceCoherent;
            MigrationSet set = new(this, frame.Device?.Driver.Owner);
            try
            {
                foreach (Pause pause in frame.WaitUntilUnlocked())
                {
                    yield return pause;
                }

                if (!frame.IsAllocated || frame.MapCount == 0)
                {
                    continue; // it moved by itself
                }

                set.CollectFrame(frame);
                foreach (Pause pause in set.Isolate())
                {
                    yield return pause;
                }

                IEnumerable<Pause> copy = isCoherent
                    ? set.CopyHome(frame.Device!, mayBeMovable: false)
                    : set.CopyWithin(mayBeMovable: false);
                foreach (Pause pause in copy)
                {
                    yield return pause;
                }

                foreach (Pause pause in set.MovePages())
                {
                    yield return pause;
                }
            }
            finally
            {
                set.FinishAll();
            }

            if (set.MigratedCount == 0)
            {
                StepErrno = isCoherent ? Errno.EBUSY : Errno.ENOMEM;
                yield break;
            }
        }
    }

    private void DropAll()
    {
        foreach (PageFrame frame in _frames)
        {
            PinnedPages.Drop(Memory.Host, frame, IsPin);
        }

        _frames.Clear();
        _addresses.Clear();
        _hasMovable = false;
    }
}
