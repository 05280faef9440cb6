using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Rdma.Regions;

// uverbs_std_types_dmabuf.c, in its order: an importer without peer-to-peer is refused at attach (every static one is),
// a pin always, a map once the owner's context is closed. Unlike VFIO it lets importers in that cannot be made to stop:
// those that pin find out when they pin.

/// <summary>
/// A range of a NIC's own BAR that a user's context exports (<c>UVERBS_OBJECT_DMABUF</c>): doorbells, or memory of the
/// device. It can be taken back and cannot be pinned. Host lock held by the caller.
/// </summary>
public sealed class DeviceRangeBuffer : IPinningExporter
{
    private readonly HostContext _host;
    private readonly PciFabric _fabric;
    private readonly PeerProvider _provider;
    private readonly DmaAddressList _physical;
    private RevokeOperation? _close;

    private DeviceRangeBuffer(
        HostContext host, PciFabric fabric, PeerProvider provider, DmaAddressList physical, string name)
    {
        (_host, _fabric, _provider, _physical) = (host, fabric, provider, physical);
        Name = $"{provider.Owner.Name} {name}";
    }

    /// <summary>For people and proofs.</summary>
    public string Name { get; }

    /// <summary>It never moves; but no importer is refused for what it cannot do.</summary>
    public StorageKind Storage => StorageKind.Movable;

    /// <summary>What others attach to; owned by whoever made the export.</summary>
    public SharedBuffer Shared { get; private set; } = null!;

    /// <summary>Exports a range of a BAR.</summary>
    /// <param name="host">Of the NIC.</param>
    /// <param name="fabric">Where it is plugged in.</param>
    /// <param name="function">Whose BAR.</param>
    /// <param name="bar">Its number.</param>
    /// <param name="offset">Whole pages.</param>
    /// <param name="lengthBytes">Whole pages, not none.</param>
    /// <param name="name">For people; a name of a buffer.</param>
    /// <param name="buffer">Null unless Success.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a range that is no whole pages of that BAR, <see cref="Errno.EOPNOTSUPP"/> where
    /// the function offers its BARs to no peers.
    /// </returns>
    public static Errno TryExport(
        HostContext host,
        PciFabric fabric,
        PciFunction function,
        int bar,
        ulong offset,
        ulong lengthBytes,
        string name,
        out DeviceRangeBuffer? buffer)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(function);
        host.AssertHeld();
        buffer = null;
        bool isInside = (uint)bar < PciFunction.BarCountMax && function.Bars[bar] is { } range
            && ((offset | lengthBytes) % PeerPool.PageBytes) == 0 && lengthBytes != 0
            && offset <= range.Range.LengthBytes && lengthBytes <= range.Range.LengthBytes - offset;
        if (!isInside)
        {
            return Errno.EINVAL;
        }

        if (function.PeerDevice?.Provider(bar) is not { } provider)
        {
            return Errno.EOPNOTSUPP;
        }

        DmaAddressList physical = new([new DeviceRange(function.Bars[bar]!.Range.Start + offset, lengthBytes)]);
        DeviceRangeBuffer made = new(host, fabric, provider, physical, name);
        Errno errno = SharedBuffer.TryExport(host, new ExportInfo(made, name, lengthBytes), out SharedBuffer? shared);
        if (errno == Errno.Success)
        {
            made.Shared = shared!;
            buffer = made;
        }

        return errno;
    }

    /// <summary>
    /// The object, its context or its mapping goes away: importers are told, and it has ended when the last of them has
    /// unmapped. The second call returns the same operation.
    /// </summary>
    public RevokeOperation Close()
    {
        _host.AssertHeld();
        return _close ??= RevokeOperation.Start(Shared, new RevokePolicy { Reason = "its context was closed" });
    }

    public override string ToString() => Name;

    Errno IExporter.Attach(Attachment attachment) =>
        attachment.PeerToPeer ? Errno.Success : Errno.EOPNOTSUPP;

    void IExporter.Detach(Attachment attachment)
    {
        // An attachment by itself holds nothing.
    }

    Errno IPinningExporter.Pin(Attachment attachment) => Errno.EOPNOTSUPP;

    void IPinningExporter.Unpin(Attachment attachment) =>
        throw new InvalidOperationException($"{Name} was never pinned");

    Errno IExporter.Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        Errno errno = _provider.TryMap(_fabric, attachment.Device, _physical, out addresses);
        return errno == Errno.EREMOTEIO ? Errno.EINVAL : errno; // dma_buf_phys_vec_to_sgt
    }

    void IExporter.Unmap(Attachment attachment, DmaAddressList addresses) =>
        _provider.Unmap(_fabric, attachment.Device, addresses);

    void IExporter.Release(SharedBuffer buffer)
    {
        // The range stays the device's.
    }
}
