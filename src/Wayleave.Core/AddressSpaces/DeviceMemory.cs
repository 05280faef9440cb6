using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// A device's memory as pages of processes (<c>struct dev_pagemap</c> of <c>MEMORY_DEVICE_PRIVATE</c> or
/// <c>MEMORY_DEVICE_COHERENT</c>). Host lock held by the caller.
/// </summary>
public sealed class DeviceMemory : IFrameSource
{
    private readonly MemorySystem _memory;
    private readonly Memory<byte> _bytes;
    private readonly DeviceAddress _physical;
    private readonly PageFrame?[] _frames;
    private readonly PageIndex _free;
    private readonly ulong _firstNumber;

    /// <param name="memory">Whose processes use it.</param>
    /// <param name="driver">Copies, and hears of free pages.</param>
    /// <param name="bytes">Whole pages; the caller keeps it alive.</param>
    /// <param name="kind">
    /// <see cref="PageFrameKind.DevicePrivate"/> or <see cref="PageFrameKind.DeviceCoherent"/>.
    /// </param>
    /// <param name="physical">Where the fabric has it, or default.</param>
    public DeviceMemory(
        MemorySystem memory,
        IDeviceMemoryDriver driver,
        Memory<byte> bytes,
        PageFrameKind kind = PageFrameKind.DevicePrivate,
        DeviceAddress physical = default)
    {
        ArgumentNullException.ThrowIfNull(memory);
        memory.Host.AssertHeld();
        if (kind is not (PageFrameKind.DevicePrivate or PageFrameKind.DeviceCoherent))
        {
            throw new ArgumentException($"{kind} is no memory that pages migrate to", nameof(kind));
        }

        (_memory, Driver, _bytes, Kind, _physical) = (memory, driver, bytes, kind, physical);
        _frames = new PageFrame?[bytes.Length / PageFrame.SizeBytes];
        _firstNumber = memory.TakeNumbers(_frames.Length);
        _free = new PageIndex(_frames.Length);
    }

    public IDeviceMemoryDriver Driver { get; }

    public PageFrameKind Kind { get; }

    public int PageCount => _frames.Length;

    public int FreePages => _free.FreeCount;

    /// <summary>
    /// The driver brings everything home without knowing any address (<c>migrate_device_range</c>): before it is
    /// unloaded, or before the device sleeps. A page that somebody holds stays, and is counted.
    /// </summary>
    public EvictOperation Evict(Checking.Activity? activity = null) => new(_memory, this, activity);

    public override string ToString() => $"memory of {Driver.Name}";

    void IFrameSource.Free(PageFrame frame)
    {
        int count = frame.PageCount;
        Driver.HandleFree(frame);
        frame.End();
        _free.ReturnRun(IndexOf(frame), count);
        _memory.HandleProgress();
    }

    PageFrame IFrameSource.PageBehind(PageFrame first, int index) => FrameAt(IndexOf(first) + index);

    Memory<byte> IFrameSource.BytesFrom(PageFrame first, int count) =>
        _bytes.Slice(IndexOf(first) * PageFrame.SizeBytes, count * PageFrame.SizeBytes);

    void IFrameSource.HandleProgress() => _memory.HandleProgress();

    internal IEnumerable<PageFrame> InUse()
    {
        foreach (PageFrame? frame in _frames)
        {
            if (frame is { IsAllocated: true, IsPart: false })
            {
                yield return frame;
            }
        }
    }

    /// <summary>
    /// As many pages as there are, at most so many, next to each other where they can be; each held by one reference,
    /// its content whatever was there last.
    /// </summary>
    internal int TryAllocateMany(Span<PageFrame?> frames)
    {
        int count = 0, cursor = 0;
        while (count < frames.Length
            && _free.TakeRun(frames.Length - count, ref cursor, out int first) is var taken and > 0)
        {
            for (int i = 0; i < taken; i++)
            {
                PageFrame frame = FrameAt(first + i);
                frame.Begin(order: 0);
                frames[count++] = frame;
            }
        }

        return count;
    }

    /// <summary>2^order pages in one piece, a folio held by one reference, of any content; null when none is.</summary>
    internal PageFrame? TryAllocateFolio(int order)
    {
        int index = Driver.TakesFolios ? _free.TakeAligned(1 << order) : -1;
        PageFrame? folio = index < 0 ? null : FrameAt(index);
        folio?.Begin(order);
        return folio;
    }

    /// <summary>
    /// The processor touched a page that it does not reach (<c>migrate_to_ram</c>). On failure
    /// <see cref="SpaceOperation.StepErrno"/> is ENOMEM or EFAULT, a SIGBUS.
    /// </summary>
    internal IEnumerable<Pause> BringHome(
        SpaceOperation operation, AddressSpace space, ulong page, PageFrame frame)
    {
        // All of a folio, if home has room for one in one piece; otherwise the page alone (do_huge_pmd_device_private).
        AddressRange range = AddressRange.OfPage(page);
        if (space.Table.TryGetWhole(page, out ulong first, out PageEntry whole))
        {
            if (_memory.HasFreeFolio(whole.Order))
            {
                range = AddressRange.OfPages(first, first + (1UL << whole.Order));
            }
            else
            {
                space.Table.SplitWhole(page);
            }
        }

        AddressRange told = _memory.Host.Has(CoreDefences.TellsOfFolios) ? range : AddressRange.OfPage(page);
        MigrationSet set = new(operation, Driver.Owner);
        try
        {
            foreach (Pause pause in set.Collect(space, range, MigrationSelect.DevicePrivate, told))
            {
                yield return pause;
            }

            foreach (Pause pause in set.Isolate())
            {
                yield return pause;
            }

            foreach (Pause pause in set.CopyHome(this))
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

        // Collected by somebody else between the decision and the walk: the fault looks again. Not brought home
        // although nobody else has it: the process gets SIGBUS.
        if (operation.StepErrno == Errno.Success && set.Count > 0 && set.MigratedCount == 0)
        {
            operation.StepErrno = Errno.EFAULT;
        }

        _memory.Stats.MigratedHome += set.MigratedCount;
        _memory.Host.Trace("memory.home", frame.Label, set.MigratedCount);
    }

    private PageFrame FrameAt(int index) => _frames[index] ??= new PageFrame(
        this, Kind, _firstNumber + (ulong)index, _bytes.Slice(index * PageFrame.SizeBytes, PageFrame.SizeBytes),
        _physical.Value == 0 ? default : _physical + ((ulong)index * PageFrame.SizeBytes));

    private int IndexOf(PageFrame frame) => (int)(frame.Number - _firstNumber);
}
