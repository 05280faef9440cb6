using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Vfio;

/// <summary>
/// Ranges of a BAR as others use them (<c>struct vfio_pci_dma_buf</c>). Only importers that can be made to stop get in;
/// there is no pin to ask for, because nothing moves, and no mapping of a processor. Host lock held by the caller.
/// </summary>
public sealed class VfioBuffer : IExporter
{
    private readonly VfioDevice _device;
    private readonly PeerProvider _provider;

    internal VfioBuffer(VfioDevice device, PeerProvider provider, string name, DmaAddressList physical)
    {
        (_device, _provider, Physical) = (device, provider, physical);
        Name = $"{device.Function.Name} {name}";
    }

    /// <summary>Device and buffer, for people and proofs.</summary>
    public string Name { get; }

    public StorageKind Storage => StorageKind.Revocable;

    /// <summary>What others attach to.</summary>
    public SharedBuffer Shared { get; internal set; } = null!;

    /// <summary>Physical addresses, in the order of the buffer's bytes.</summary>
    public DmaAddressList Physical { get; }

    /// <summary>
    /// Its owner gives the ranges to somebody else: however it was stopped, it does not come back with the BARs.
    /// </summary>
    public bool IsGivenUp { get; private set; }

    /// <summary>
    /// Whether the device itself took it back, because its BARs went away: only then does it come back with them.
    /// </summary>
    internal bool IsStopped { get; set; }

    /// <summary>Ends its lives: see <see cref="IsGivenUp"/>. Its importers are told by a revoke of the owner.</summary>
    public void GiveUp()
    {
        _device.Host.AssertHeld();
        IsGivenUp = true;
    }

    // In the kernel's order; Core has refused those that cannot stop, for whom it makes no difference.
    Errno IExporter.Attach(Attachment attachment) =>
        !attachment.PeerToPeer ? Errno.EOPNOTSUPP
        : attachment.Buffer.IsRevoked ? Errno.ENODEV
        : !attachment.IsRevocable ? Errno.EOPNOTSUPP
        : Errno.Success;

    void IExporter.Detach(Attachment attachment)
    {
        // An attachment by itself holds nothing.
    }

    // iommufd has a way of its own (vfio_pci_dma_buf_iommufd_map): it puts physical ranges into its domains.
    Errno IExporter.Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        if (attachment.Importer is IoMapping)
        {
            addresses = Physical;
            return Errno.Success;
        }

        Errno errno = _provider.TryMap(_device.Fabric, attachment.Device, Physical, out addresses);
        return errno == Errno.EREMOTEIO ? Errno.EINVAL : errno; // dma_buf_phys_vec_to_sgt
    }

    void IExporter.Unmap(Attachment attachment, DmaAddressList addresses)
    {
        if (attachment.Importer is not IoMapping)
        {
            _provider.Unmap(_device.Fabric, attachment.Device, addresses);
        }
    }

    Errno IExporter.Unrevoke(SharedBuffer buffer) =>
        IsStopped && !IsGivenUp && _device.IsMemoryEnabled ? Errno.Success : Errno.ENODEV;

    void IExporter.Release(SharedBuffer buffer) => _device.HandleReleased(this);

    public override string ToString() => $"{Name} ({Physical.LengthBytes} bytes)";
}
