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
    string Name, ulong SizeBytes, StorageKind Storage, GpuDomain Domain = GpuDomain.Vram, ulong AlignmentBytes = 1);

// Pin policy: a pinned buffer stays in the domain where the first pin found it. amdgpu moves a buffer to system memory
// when an attachment that cannot do peer-to-peer pins it; a pin here never moves bytes, so that it never waits. The
// owner who wants to lend to such an importer evicts the buffer first.

/// <summary>
/// A buffer object of a GPU (<c>amdgpu_bo</c>) and the exporter of its <see cref="SharedBuffer"/>. Host lock held by
/// the caller.
/// </summary>
public sealed class GpuBuffer : IPinningExporter
{
    private GpuPlacement _placement;

    internal GpuBuffer(GpuDevice device, GpuBufferInfo info, GpuPlacement placement)
    {
        Device = device;
        Name = $"{device.Function.Name} {info.Name}";
        SizeBytes = info.SizeBytes;
        Storage = info.Storage;
        AlignmentBytes = info.AlignmentBytes;
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

    /// <summary>Pins of all attachments; a pinned buffer does not move.</summary>
    public int PinCount { get; private set; }

    /// <summary>When it was last mapped or used, on the host's clock.</summary>
    public TimeSpan LastUsedAt { get; internal set; }

    /// <summary>The owner has given it up; its storage returns when nobody uses it.</summary>
    public bool IsFreed => Freeing is not null;

    /// <summary>The revoke by which it was freed, or null.</summary>
    public RevokeOperation? Freeing { get; internal set; }

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
        if (!CanAllReach())
        {
            return Errno.EINVAL;
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
        if (!CanReach(attachment))
        {
            return Errno.EBUSY;
        }

        Device.Touch(this);
        return Device.Fabric.TryMap(attachment.Device, _placement.Addresses, out addresses);
    }

    void IExporter.Unmap(Attachment attachment, DmaAddressList addresses) =>
        Device.Fabric.Unmap(attachment.Device, addresses);

    void IExporter.Release(SharedBuffer buffer) => Device.Free(this, new RevokePolicy { Reason = "released" });

    public override string ToString() => $"{Name} ({SizeBytes} bytes, {_placement.Domain})";

    // Without a query: it runs at every map of a static importer.
    private bool CanAllReach()
    {
        for (int i = 0; i < Shared.Attachments.Count; i++)
        {
            if (!CanReach(Shared.Attachments[i]))
            {
                return false;
            }
        }

        return true;
    }

    private bool CanReach(Attachment attachment) =>
        _placement.Domain == GpuDomain.System || attachment.PeerToPeer
            || ReferenceEquals(attachment.Device, Device.Function);
}
