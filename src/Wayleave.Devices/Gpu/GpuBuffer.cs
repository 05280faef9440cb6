using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu;

/// <summary>What a new buffer is to be.</summary>
/// <param name="Name">At most 31 characters.</param>
/// <param name="SizeBytes">Positive; fixed for life.</param>
/// <param name="Storage">What the device may do with the storage while others use it.</param>
/// <param name="Domain">Where it starts.</param>
/// <param name="AlignmentBytes">Of every block of its storage; a power of two.</param>
public sealed record GpuBufferInfo(
    string Name, ulong SizeBytes, StorageKind Storage, GpuDomain Domain = GpuDomain.Vram, ulong AlignmentBytes = 1)
{
    /// <summary>
    /// Whether processes may map it: the edge has put its storage where they can. For storage that stays.
    /// </summary>
    public bool IsMappable { get; init; }
}

// Who cannot reach VRAM gets system memory (amdgpu_dma_buf.c): the first pin, or a map without a pin, then moves the
// buffer there in the same hold of the reservation, if nobody has pinned it in VRAM and it may move at all. Neither
// waits: the copy's fence stands in the reservation as KERNEL, and whoever maps waits for that. VRAM beyond the BAR is
// reached by nobody else: from there a buffer comes to where the BAR shows it, if that has room and is of use.

/// <summary>
/// A buffer object of a GPU (<c>amdgpu_bo</c>) and the exporter of its <see cref="SharedBuffer"/>. Host lock held by
/// the caller.
/// </summary>
public sealed class GpuBuffer : IPinningExporter, ICpuAccessExporter, IMmapExporter
{
    private readonly bool _isMappable;
    private GpuPlacement _placement;

    internal GpuBuffer(GpuDevice device, GpuBufferInfo info, GpuPlacement placement)
    {
        Device = device;
        Name = $"{device.Function.Name} {info.Name}";
        SizeBytes = info.SizeBytes;
        Storage = info.Storage;
        AlignmentBytes = info.AlignmentBytes;
        _isMappable = info.IsMappable && info.Storage != StorageKind.Movable;
        _placement = placement;
        UseNode = new LinkedListNode<GpuBuffer>(this);
        Timeline = new Timeline(device.Host, $"{device.Function.Name} copy engine for {info.Name}");
        SharedBuffer.TryExport(device.Host, new ExportInfo(this, info.Name, info.SizeBytes), out SharedBuffer? shared);
        Shared = shared!;
    }

    public GpuDevice Device { get; }

    /// <summary>Device and buffer, for people and proofs: <c>gpu0 kv-cache</c>.</summary>
    public string Name { get; }

    public ulong SizeBytes { get; }

    public ulong AlignmentBytes { get; }

    public StorageKind Storage { get; }

    /// <summary>What others attach to. Its reservation is the buffer's.</summary>
    public SharedBuffer Shared { get; }

    /// <summary>
    /// Where the bytes are, or will be when the KERNEL fences have signalled. After <see cref="GpuDevice.Free"/> it
    /// says where they were.
    /// </summary>
    public GpuPlacement Placement
    {
        get => _placement;
        internal set => _placement = value;
    }

    /// <summary>
    /// Pages that follow the buffer, or null. Set while nobody has used it. With them processes reach a movable buffer
    /// as dynamic importers do: they are told of moves, and a mapping keeps it nowhere.
    /// </summary>
    public IPlacementBacking? Backing { get; set; }

    /// <summary>Pins of all attachments; a pinned buffer does not move.</summary>
    public int PinCount { get; private set; }

    /// <summary>When it was last mapped or used, on the host's clock.</summary>
    public TimeSpan LastUsedAt { get; internal set; }

    /// <summary>The owner has given it up; its storage returns when nobody uses it.</summary>
    public bool IsFreed => Freeing is not null;

    /// <summary>The revoke by which it was freed, or null.</summary>
    public RevokeOperation? Freeing { get; internal set; }

    /// <summary>
    /// Its storage in the device's quarantine; null before it was freed and when it never had to wait.
    /// </summary>
    public QuarantineEntry? Held { get; internal set; }

    // One timeline per buffer: copies of different buffers end in any order.
    internal Timeline Timeline { get; }

    internal LinkedListNode<GpuBuffer> UseNode { get; }

    internal bool HasUnstoppableMapping =>
        Shared.Attachments.Any(a => a.State != MappingState.Unmapped && a.Importer is not IRevocableImporter);

    /// <summary>
    /// Tells the eviction order that the buffer is in use, for work that needs no new map: a message was posted.
    /// </summary>
    public void Touch() => Device.Touch(this);

    Errno IExporter.Attach(Attachment attachment)
    {
        if (Shared.IsRevoked)
        {
            return Errno.ENODEV;
        }

        Errno admitted = Device.Quarantine.TryAdmit(attachment.Holder);
        if (admitted != Errno.Success)
        {
            return admitted;
        }

        // Without a path to VRAM the importer can only be given system memory (amdgpu_dma_buf_attach).
        if (!ReferenceEquals(attachment.Device, Device.Function)
            && Device.Function.PeerDevice?.VerdictFor(attachment.Device).IsSupported != true)
        {
            attachment.PeerToPeer = false;
        }

        return Errno.Success;
    }

    void IExporter.Detach(Attachment attachment)
    {
        // An attachment by itself holds nothing: storage goes by pins, mappings and fences.
    }

    Errno IPinningExporter.Pin(Attachment attachment)
    {
        bool stays = !Device.PinsInHostMemory && CanAllReach(_placement.Domain);
        if (_placement.Domain != GpuDomain.System && !stays)
        {
            // Pinned there for somebody else, or never to move: no domain is left (amdgpu_bo_pin).
            if (PinCount > 0 || Storage != StorageKind.Movable)
            {
                return Errno.EINVAL;
            }

            Errno errno = MoveInReach(!Device.PinsInHostMemory && CanAllReach(GpuDomain.Vram));
            if (errno != Errno.Success)
            {
                return errno;
            }
        }

        PinCount++;
        return Errno.Success;
    }

    void IPinningExporter.Unpin(Attachment attachment)
    {
        if (PinCount == 0)
        {
            throw new InvalidOperationException($"{Name} is not pinned");
        }

        PinCount--;
    }

    Errno IExporter.Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        addresses = null;
        if (!CanReach(attachment, _placement.Domain)
            && (PinCount > 0 || Storage != StorageKind.Movable
                || MoveInReach(CanReach(attachment, GpuDomain.Vram)) != Errno.Success))
        {
            return Errno.EBUSY;
        }

        Device.Touch(this);
        return Device.Fabric.TryMap(attachment.Device, _placement.Addresses, out addresses);
    }

    void IExporter.Unmap(Attachment attachment, DmaAddressList addresses) =>
        Device.Fabric.Unmap(attachment.Device, addresses);

    // linux.md 8.3: to be read, a buffer that may move comes to where the processor reads fast; to be written only, it
    // stays. That it cannot come is no reason to refuse, unless the processor does not reach it at all.
    Errno ICpuAccessExporter.BeginCpuAccess(CpuAccess access, out CacheMaintenance maintenance, out Fence? work)
    {
        work = null;
        bool isHidden = _placement.Domain == GpuDomain.HiddenVram;
        bool canMove = Storage == StorageKind.Movable && PinCount == 0;
        if (isHidden && !canMove)
        {
            maintenance = CacheMaintenance.None;
            return Errno.EBUSY;
        }

        if (canMove && (isHidden || (access.Reads && _placement.Domain == GpuDomain.Vram)))
        {
            work = EndOf(Device.Evict(this));
        }

        bool readsVram = access.Reads && _placement.Domain == GpuDomain.Vram;
        maintenance = readsVram ? CacheMaintenance.InvalidateBeforeRead : CacheMaintenance.None;
        return Errno.Success;
    }

    // System memory is snooped; VRAM is mapped write-combining.
    Errno ICpuAccessExporter.EndCpuAccess(CpuAccess access, out CacheMaintenance maintenance)
    {
        bool wroteVram = access.Writes && _placement.Domain == GpuDomain.Vram;
        maintenance = wroteVram ? CacheMaintenance.FlushWriteCombining : CacheMaintenance.None;
        return Errno.Success;
    }

    Errno IMmapExporter.Mmap(CpuMapping mapping) =>
        _isMappable || Backing is not null ? Errno.Success : Errno.EINVAL;

    void IMmapExporter.Munmap(CpuMapping mapping)
    {
        // Storage that may be mapped does not move, or its pages follow: a mapping keeps nothing in place.
    }

    void IExporter.Release(SharedBuffer buffer) => Device.Free(this, new RevokePolicy { Reason = "released" });

    public override string ToString() => $"{Name} ({SizeBytes} bytes, {_placement.Domain})";

    // A move that waits for the reservation has no fence there yet. Signalled at its end, on whatever thread that is.
    private Fence? EndOf(MoveOperation move)
    {
        if (move.State != MoveState.Locking)
        {
            return null;
        }

        // No fence of a device may wait for a lock; this one is seen by one access of the processor alone, and the
        // checker sees through it: a holder of the lock that waits for it is told so.
        Fence ended = new Timeline(Device.Host, $"{Name} for the processor", move.Ticket).CreateFence();
        move.TryAddCompletion(() =>
        {
            using (Device.Host.Enter())
            {
                ended.Signal();
            }
        });
        return ended;
    }

    // Behind the BAR if who is to reach it takes peer addresses and there is room; otherwise in host memory.
    private Errno MoveInReach(bool byPeers) =>
        byPeers && _placement.Domain == GpuDomain.HiddenVram
            && Device.MoveLocked(this, GpuDomain.Vram) == Errno.Success
            ? Errno.Success
            : Device.MoveLocked(this, GpuDomain.System);

    // Without a query: it runs at every map of a static importer.
    private bool CanAllReach(GpuDomain domain)
    {
        for (int i = 0; i < Shared.Attachments.Count; i++)
        {
            if (!CanReach(Shared.Attachments[i], domain))
            {
                return false;
            }
        }

        return true;
    }

    private bool CanReach(Attachment attachment, GpuDomain domain) =>
        ReferenceEquals(attachment.Device, Device.Function) || domain switch
        {
            GpuDomain.System => true,
            GpuDomain.Vram => attachment.PeerToPeer || IsStaticForGood(attachment),
            _ => false,
        };

    // A static importer takes no peer addresses by its own word, because it has no operations to say so with: amdgpu
    // then pins in host memory. What never moves need not tell anybody anything, and a device that there is a route
    // for uses its addresses as devmem TCP does, without pages.
    private bool IsStaticForGood(Attachment attachment) =>
        Storage == StorageKind.Static
        && attachment.Importer is null
        && Device.Function.PeerDevice?.VerdictFor(attachment.Device).IsSupported == true;
}
