using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;

namespace Wayleave.Simulation;

/// <summary>
/// The least that a device does which mirrors an address space, as the kernel's test device <c>dmirror</c>: a page
/// table of its own, faults that fill it, a callback that empties it, accesses that take time, and memory of its own if
/// it is given some. What it touches after it should have stopped is seen at once. Host lock held by the caller, unless
/// a member says otherwise.
/// </summary>
public sealed class SimulatedMirror : IMirror, IDeviceMemoryDriver
{
    private readonly MirrorFaults _faults;
    private readonly Dictionary<ulong, Mapping> _table = [];
    private readonly List<Access> _inside = [];
    private readonly Timeline _timeline;
    private MirrorDrain? _drain;
    private MirrorRange? _unasked;
    private (Fence Fence, PageCopies Copies)? _copy;

    /// <param name="space">Whose memory the device mirrors.</param>
    /// <param name="range">Which part of it.</param>
    /// <param name="name">For the story of a failing run.</param>
    /// <param name="faults">Null for a device that is right.</param>
    /// <param name="owner">Of its memory; null for itself. Devices with one owner see each other's pages.</param>
    /// <exception cref="InvalidOperationException">The subscription was refused; the message has the errno.</exception>
    public SimulatedMirror(
        AddressSpace space, AddressRange range, string name, MirrorFaults? faults = null, object? owner = null)
    {
        ArgumentNullException.ThrowIfNull(space);
        (Space, Name, _faults) = (space, name, faults ?? new MirrorFaults());
        Owner = owner ?? this;
        _timeline = new Timeline(space.Host, name);
        Errno errno = space.Subscribe(range, this, out IntervalNotifier? notifier);
        Notifier = notifier ?? throw new InvalidOperationException($"subscription of {name}: {errno}");
    }

    public AddressSpace Space { get; }

    public string Name { get; }

    public object Owner { get; }

    public IntervalNotifier Notifier { get; }

    /// <summary>The device's own memory, after <see cref="AddMemory"/>.</summary>
    public DeviceMemory? Memory { get; private set; }

    /// <summary>How many faults it asked for.</summary>
    public int FaultCount { get; private set; }

    /// <summary>Off leaves copies to an engine: <see cref="FinishCopy"/> ends them.</summary>
    public bool CopiesAtOnce { get; set; } = true;

    /// <summary>What the next copy comes to.</summary>
    public Errno CopyErrno { get; set; }

    /// <summary>Pages that cannot be copied, by their source; each leaves a part of itself in its target.</summary>
    public Predicate<PageFrame>? CannotCopy { get; set; }

    /// <summary>Whether a copy waits for <see cref="FinishCopy"/>.</summary>
    public bool IsCopying => _copy is not null;

    /// <summary>Accesses under way.</summary>
    public int InsideCount => _inside.Count;

    /// <summary>Pages that the device reaches without a fault.</summary>
    public int MappedCount => _table.Count;

    /// <summary>Gives the device memory that pages can migrate to.</summary>
    public DeviceMemory AddMemory(int pages, PageFrameKind kind = PageFrameKind.DevicePrivate) =>
        Memory = new DeviceMemory(Space.Memory, this, new byte[pages * PageFrame.SizeBytes], kind);

    /// <summary>Whether the device reaches the page of an address without a fault.</summary>
    public bool IsMapped(ulong address, bool isWrite = false) =>
        _table.TryGetValue(address / PageFrame.SizeBytes, out Mapping mapping) && (!isWrite || mapping.IsWritable);

    /// <summary>The device faults on a range: the driver's loop fills its table.</summary>
    /// <param name="range">Whole pages inside the subscription.</param>
    /// <param name="isWrite">For writing.</param>
    public SpaceOperation Fault(AddressRange range, bool isWrite)
    {
        FaultCount++;
        MirrorRange look = new(Space, Notifier, range)
        {
            DefaultRequest = MirrorBits.Fault | (isWrite ? MirrorBits.FaultWrite : MirrorBits.None),
            Owner = Owner,
        };
        if (_faults.AsksForRetry)
        {
            return look.Update(Program);
        }

        look.Sequence = Notifier.BeginRead(out _);
        _unasked = look;
        return look.Fault();
    }

    /// <summary>The device asks for a page for itself alone, for an atomic operation.</summary>
    public SpaceOperation TakeExclusive(ulong address)
    {
        FaultCount++;
        return Space.MakeExclusive(
            address, Owner,
            frame => _table[address / PageFrame.SizeBytes] = new Mapping(frame, frame.Generation, IsWritable: true));
    }

    /// <summary>
    /// After a fault of a device without <see cref="MirrorFaults.AsksForRetry"/>: what it saw goes into its table,
    /// still true or not. Nothing for any other.
    /// </summary>
    public void ProgramUnasked()
    {
        (MirrorRange? look, _unasked) = (_unasked, null);
        if (look is not null)
        {
            Program(look);
        }
    }

    /// <summary>Starts an access to one page; false when the device would fault.</summary>
    public bool TryEnter(ulong address, bool isWrite, out Access? access)
    {
        access = null;
        if (!_table.TryGetValue(address / PageFrame.SizeBytes, out Mapping mapping)
            || (isWrite && !mapping.IsWritable))
        {
            return false;
        }

        access = new Access(address, mapping);
        _inside.Add(access);
        return true;
    }

    /// <summary>
    /// Ends an access: the bytes go in or out now. A page that is no longer the one it was is a violation.
    /// </summary>
    /// <param name="access">From <see cref="TryEnter"/>.</param>
    /// <param name="destination">For what is read; empty to write.</param>
    /// <param name="source">What is written; empty to read.</param>
    /// <exception cref="ViolationException">The page was free meanwhile.</exception>
    public void Exit(Access access, Span<byte> destination, ReadOnlySpan<byte> source)
    {
        ArgumentNullException.ThrowIfNull(access);
        PageFrame frame = access.Mapping.Frame;
        _inside.Remove(access);
        if (!frame.IsAllocated || frame.Generation != access.Mapping.Generation)
        {
            throw new ViolationException($"{Name} touches {frame}, which was given away");
        }

        int within = (int)(access.Address % PageFrame.SizeBytes);
        source.CopyTo(frame.Bytes.Span[within..]);
        frame.Bytes.Span.Slice(within, destination.Length).CopyTo(destination);
        if (_inside.Count == 0)
        {
            _drain?.Complete();
            _drain = null;
        }
    }

    /// <inheritdoc/>
    public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
    {
        ArgumentNullException.ThrowIfNull(notifier);
        bool isInside = false;
        foreach (Access access in _inside)
        {
            isInside |= range.Addresses.Contains(access.Address);
        }

        if (isInside && _faults.Drains && !range.IsBlockable)
        {
            return InvalidateAnswer.Refused;
        }

        if (_faults.SetsSequence)
        {
            notifier.SetSequence(sequence);
        }

        if (_faults.Zaps)
        {
            foreach (ulong page in _table.Keys.ToArray())
            {
                if (range.Addresses.Contains(page * PageFrame.SizeBytes))
                {
                    _table.Remove(page);
                }
            }
        }

        return isInside && _faults.Drains
            ? InvalidateAnswer.WaitFor(_drain ??= new MirrorDrain(Space.Host))
            : InvalidateAnswer.Done;
    }

    /// <inheritdoc/>
    public bool TakesFolios { get; set; } = true;

    /// <inheritdoc/>
    public Errno Copy(PageCopies copies, out Fence? fence)
    {
        ArgumentNullException.ThrowIfNull(copies);
        fence = null;
        if (CopyErrno != Errno.Success)
        {
            return CopyErrno;
        }

        if (!CopiesAtOnce)
        {
            Fence done = _timeline.CreateFence(); // signalled by FinishCopy
            _copy = (done, copies);
            fence = _faults.WaitsForCopy ? done : null;
            return Errno.Success;
        }

        CopyBytes(copies);
        return Errno.Success;
    }

    /// <summary>The engine ends the copy that waits.</summary>
    /// <param name="errno">What it comes to.</param>
    public void FinishCopy(Errno errno = Errno.Success)
    {
        if (_copy is { } copy)
        {
            _copy = null;
            CopyBytes(copy.Copies);
            copy.Fence.Signal(errno);
        }
    }

    /// <inheritdoc/>
    public void HandleFree(PageFrame frame)
    {
        ArgumentNullException.ThrowIfNull(frame);
        frame.BytesOf(1 << frame.Order).Span.Fill(0xDD); // recognised by tests
    }

    /// <summary>What a later step can see of the device.</summary>
    public void AddTo(ref StateHash hash)
    {
        foreach ((ulong page, Mapping mapping) in _table.OrderBy(e => e.Key))
        {
            hash.Add((page << 1) + (mapping.IsWritable ? 1UL : 0));
            hash.Add(mapping.Frame.Number);
            hash.Add(mapping.Generation);
        }

        hash.Add((ulong)_inside.Count + (_drain is null ? 0UL : 16) + (_copy is null ? 0UL : 32));
    }

    private void CopyBytes(PageCopies copies)
    {
        for (int i = 0; i < copies.Count; i++)
        {
            (PageFrame? source, PageFrame destination, int pages) = copies[i];
            if (source is null)
            {
                destination.BytesOf(pages).Span.Clear();
            }
            else if (CannotCopy?.Invoke(source) == true)
            {
                source.BytesOf(pages).Span[..100].CopyTo(destination.BytesOf(pages).Span);
                copies.Fail(i);
            }
            else
            {
                source.BytesOf(pages).CopyTo(destination.BytesOf(pages));
            }
        }
    }

    private void Program(MirrorRange look)
    {
        for (int i = 0; i < look.Pages.Count; i++)
        {
            if (look.Pages[i] is { IsValid: true, Frame: { } frame } page)
            {
                ulong at = (look.Addresses.Start / PageFrame.SizeBytes) + (ulong)i;
                _table[at] = new Mapping(frame, frame.Generation, page.IsWritable);
            }
        }
    }

    /// <summary>An access that has begun.</summary>
    public sealed class Access
    {
        internal Access(ulong address, Mapping mapping) => (Address, Mapping) = (address, mapping);

        internal ulong Address { get; }

        internal Mapping Mapping { get; }
    }

    internal readonly record struct Mapping(PageFrame Frame, ulong Generation, bool IsWritable);
}
