using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Accelerator;

/// <summary>
/// A range of an accelerator's memory as others use it (<c>struct hl_dmabuf_priv</c>): it stays where it is, has no CPU
/// mapping, cannot be pinned because it never moves, and is not taken back, unless the last user's bytes could not be
/// cleared. Host lock held by the caller.
/// </summary>
public sealed class AcceleratorBuffer : IExporter
{
    private const ulong SystemPageBytes = 4096;

    private readonly AcceleratorDevice _device;
    private readonly AcceleratorContext _context;
    private readonly PeerProvider _provider;
    private readonly DmaAddressList _physical;

    internal AcceleratorBuffer(
        AcceleratorDevice device,
        AcceleratorContext context,
        PeerProvider provider,
        AcceleratorMapping? mapping,
        string name,
        DmaAddressList physical)
    {
        (_device, _context, _provider, Mapping, _physical) = (device, context, provider, mapping, physical);
        Name = $"{device.Function.Name} {name}";
    }

    /// <summary>Device and buffer, for people and proofs.</summary>
    public string Name { get; }

    public StorageKind Storage => StorageKind.Static;

    /// <summary>Physical addresses: where the range is for as long as the buffer lives.</summary>
    public DmaAddressList Addresses => _physical;

    /// <summary>
    /// Runs once with the host lock held, when the last user has let go: what the buffer kept can be unmapped and freed
    /// from then on.
    /// </summary>
    public Action? Released { get; set; }

    internal AcceleratorMapping? Mapping { get; }

    // Never refuses: who has no path learns of it at the map (hl_dmabuf_attach).
    Errno IExporter.Attach(Attachment attachment)
    {
        attachment.PeerToPeer &= _provider.Device.VerdictFor(attachment.Device).IsSupported;
        return Errno.Success;
    }

    void IExporter.Detach(Attachment attachment)
    {
        // An attachment by itself holds nothing.
    }

    /// <inheritdoc/>
    /// <remarks>
    /// <see cref="Errno.EPERM"/> without a path, or for an importer that takes no peer addresses, as every static one;
    /// <see cref="Errno.EINVAL"/> when its DMA engine takes pieces of less than a page.
    /// </remarks>
    Errno IExporter.Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        addresses = null;
        if (!attachment.PeerToPeer)
        {
            return Errno.EPERM;
        }

        ulong segment = attachment.Device.DmaSegmentBytesMax & ~(SystemPageBytes - 1);
        return segment == 0
            ? Errno.EINVAL
            : _provider.TryMap(_device.Fabric, attachment.Device, Cut(segment), out addresses);
    }

    void IExporter.Unmap(Attachment attachment, DmaAddressList addresses) =>
        _provider.Unmap(_device.Fabric, attachment.Device, addresses);

    void IExporter.Release(SharedBuffer buffer)
    {
        _context.HandleReleased(this);
        Released?.Invoke();
    }

    public override string ToString() => $"{Name} ({_physical.LengthBytes} bytes)";

    private DmaAddressList Cut(ulong segmentBytes)
    {
        List<DeviceRange> entries = [];
        foreach (DeviceRange range in _physical.Entries)
        {
            for (ulong done = 0; done < range.LengthBytes; done += segmentBytes)
            {
                ulong length = Math.Min(segmentBytes, range.LengthBytes - done);
                entries.Add(new DeviceRange(range.Start + done, length));
            }
        }

        return new DmaAddressList([.. entries]);
    }
}
