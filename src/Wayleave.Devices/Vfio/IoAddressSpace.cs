using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Vfio;

/// <summary>
/// The I/O addresses of devices that user space drives (<c>struct iommufd_ioas</c>), as far as they are made of
/// buffers: the class of importer that pins and can be revoked once. Host lock held by the caller, unless a member says
/// otherwise.
/// </summary>
/// <param name="host">The host of its devices.</param>
/// <param name="name">For people and proofs: <c>vm 3</c>.</param>
public sealed class IoAddressSpace(HostContext host, string name)
{
    private const ulong PageBytes = 4096;

    private volatile IoMapping[] _mappings = [];

    /// <summary>How long a device may be inside a mapping that is being taken away: a block.</summary>
    public static readonly TimeSpan DrainTimeout = TimeSpan.FromSeconds(10);

    public HostContext Host { get; } = host;

    /// <summary>
    /// Watches the drains of all mappings. The edge calls <see cref="HangDetector.HandleTimeout"/> when
    /// <see cref="HangDetector.NextDeadline"/> has passed, from another thread than those that use the mappings.
    /// </summary>
    public HangDetector Hangs { get; } = new(host, DrainTimeout, stopGrace: TimeSpan.Zero);

    internal UnstoppableEngine Users { get; } = new($"devices in {name}");

    public string Name { get; } = name;

    /// <summary>In no order; those whose memory was taken back are among them until they are released.</summary>
    public IReadOnlyList<IoMapping> Mappings => _mappings;

    // iommufd attaches with a device that is on no bus: its domains take physical ranges.
    internal PciFunction Identity { get; } = new(new PciAddress(0xffff, 0xff, 31, 7), name);

    /// <summary>
    /// Maps a part of a buffer at an I/O address (<c>IOMMU_IOAS_MAP_FILE</c> with a dma-buf). The mapping is the
    /// caller's until <see cref="IoMapping.Release"/>.
    /// </summary>
    /// <param name="buffer">Of a <see cref="VfioDevice"/>, made of one range.</param>
    /// <param name="offset">Of the first byte in the buffer; whole pages.</param>
    /// <param name="lengthBytes">Whole pages.</param>
    /// <param name="iova">Where devices will find it; whole pages.</param>
    /// <param name="mapping">Usable once it is completed: at once, unless somebody has the reservation.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a range that is empty, not whole pages or outside the buffer, or an address that
    /// wraps; <see cref="Errno.EEXIST"/> for an address that is taken; <see cref="Errno.EOPNOTSUPP"/> for a buffer of
    /// another exporter or of several ranges; <see cref="Errno.ENODEV"/> when it is revoked.
    /// </returns>
    public Errno TryMapFile(
        SharedBuffer buffer, ulong offset, ulong lengthBytes, ulong iova, out IoMapping? mapping)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        Host.AssertHeld();
        mapping = null;
        if (lengthBytes == 0 || ((offset | lengthBytes | iova) & (PageBytes - 1)) != 0 || offset >= buffer.SizeBytes
            || lengthBytes > buffer.SizeBytes - offset || iova + lengthBytes < iova)
        {
            return Errno.EINVAL;
        }

        DeviceRange range = new(new DeviceAddress(iova), lengthBytes);
        if (_mappings.Any(m => m.Range.Overlaps(range)))
        {
            return Errno.EEXIST;
        }

        if (buffer.Exporter is not VfioBuffer { Physical.Entries.Length: 1 })
        {
            return Errno.EOPNOTSUPP;
        }

        IoMapping made = new(this, range, offset);
        Errno errno = buffer.TryAttach(Identity, made, out Attachment? attachment);
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = made.Start(attachment!);
        if (errno != Errno.Success)
        {
            return errno;
        }

        _mappings = [.. _mappings, made];
        mapping = made;
        return Errno.Success;
    }

    /// <summary>
    /// What a device finds at an I/O address, as its IOMMU translates. Callable without the lock, by a device's engine.
    /// </summary>
    /// <param name="iova">The address that the device puts on the bus.</param>
    /// <param name="translation">To be entered for the access; a closed gate is a fault too.</param>
    /// <param name="address">The physical address, valid inside the gate.</param>
    /// <param name="contiguousBytes">How many bytes follow it.</param>
    /// <returns>False: a fault.</returns>
    public bool TryTranslate(
        ulong iova, out Translation? translation, out DeviceAddress address, out ulong contiguousBytes)
    {
        foreach (IoMapping mapping in _mappings)
        {
            if (mapping.Range.Contains(new DeviceAddress(iova), 1))
            {
                return mapping.TryTranslate(iova, out translation, out address, out contiguousBytes);
            }
        }

        (translation, address, contiguousBytes) = (null, default, 0);
        return false;
    }

    internal void Forget(IoMapping mapping) => _mappings = [.. _mappings.Where(m => !ReferenceEquals(m, mapping))];
}
