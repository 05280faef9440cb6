using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// One device's use of a <see cref="PeerResource"/>: it maps the resource once, by its attachment, and takes chunks out
/// of it, as a NIC's page pool does. Chunks of different imports of one resource never overlap; they belong to one
/// holder and are not cleared in between. Host lock held by the caller.
/// </summary>
public sealed class PeerImport
{
    private readonly List<PeerChunk> _chunks = [];
    private readonly bool _ownsAttachment;
    private bool _closed;

    internal PeerImport(PeerResource resource, Attachment attachment, bool ownsAttachment) =>
        (Resource, Attachment, _ownsAttachment) = (resource, attachment, ownsAttachment);

    public PeerResource Resource { get; }

    /// <summary>
    /// By which the importer maps the whole resource. Detached by <see cref="Close"/>, unless the importer made it
    /// itself.
    /// </summary>
    public Attachment Attachment { get; }

    /// <summary>What it has, in the order it was taken.</summary>
    public IReadOnlyList<PeerChunk> Chunks => _chunks;

    /// <summary>Takes a chunk (<c>alloc_from_handle</c>).</summary>
    /// <param name="sizeBytes">Rounded up to whole pages.</param>
    /// <param name="chunk">Owned by the caller until <see cref="Free"/>.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for no bytes; <see cref="Errno.ENODEV"/> once the resource is removed or the import
    /// closed; <see cref="Errno.ENOMEM"/> when the resource has not that much in one piece.
    /// </returns>
    public Errno TryAllocate(ulong sizeBytes, out PeerChunk? chunk)
    {
        Resource.Host.AssertHeld();
        chunk = null;
        if (sizeBytes == 0)
        {
            return Errno.EINVAL;
        }

        if (_closed || Resource.State != PeerResourceState.Lent)
        {
            return Errno.ENODEV;
        }

        ulong pages = PageRuns.PagesOf(sizeBytes);
        if (!Resource.Runs.TryTake(pages, out ulong first))
        {
            return Errno.ENOMEM;
        }

        chunk = new PeerChunk(this, first, pages);
        _chunks.Add(chunk);
        return Errno.Success;
    }

    /// <summary>Gives a chunk back (<c>free_to_handle</c>).</summary>
    /// <param name="chunk">Of this import.</param>
    /// <param name="work">
    /// Work that still uses it: nobody gets the chunk before its owner says that it has ended. Null means there is
    /// none.
    /// </param>
    /// <exception cref="InvalidOperationException">It was given back before, or is of another import.</exception>
    public void Free(PeerChunk chunk, Fence? work = null)
    {
        Resource.Host.AssertHeld();
        if (!_chunks.Remove(chunk))
        {
            throw new InvalidOperationException($"{chunk} is not in use by {Attachment.Name}");
        }

        if (work is null || !work.TryObserveEnd(_ => Return(chunk)))
        {
            Return(chunk);
        }
    }

    /// <summary>
    /// The device is done with the resource; its chunks go back. It has unmapped before, or uses none of them any more.
    /// The second call does nothing.
    /// </summary>
    /// <exception cref="InvalidOperationException">The attachment is still mapped or pinned.</exception>
    public void Close()
    {
        Resource.Host.AssertHeld();
        if (_closed)
        {
            return;
        }

        if (_ownsAttachment)
        {
            Resource.Buffer.Detach(Attachment);
        }

        _closed = true;
        foreach (PeerChunk chunk in _chunks.ToArray())
        {
            Free(chunk);
        }

        Resource.Remove(this);
    }

    public override string ToString() => $"import of {Resource} by {Attachment.Name}";

    // Once the resource is being removed its pages are the owner's business.
    private void Return(PeerChunk chunk)
    {
        if (Resource.State == PeerResourceState.Lent)
        {
            Resource.Runs.Return(chunk.FirstPage, chunk.Pages);
        }
    }
}

/// <summary>A piece of a resource: an offset and a length, never a page (<c>struct net_iov</c>).</summary>
public sealed class PeerChunk
{
    internal PeerChunk(PeerImport import, ulong firstPage, ulong pages) =>
        (Import, FirstPage, Pages) = (import, firstPage, pages);

    public PeerImport Import { get; }

    /// <summary>Of its first byte in the resource.</summary>
    public ulong Offset => FirstPage * PageRuns.PageBytes;

    /// <summary>Whole pages.</summary>
    public ulong LengthBytes => Pages * PageRuns.PageBytes;

    internal ulong FirstPage { get; }

    internal ulong Pages { get; }

    /// <summary>
    /// Where the chunk is in a mapping of its resource. Valid inside the gate that the importer made for that mapping,
    /// as the mapping itself.
    /// </summary>
    /// <exception cref="ArgumentException">The mapping is shorter than the resource: of something else.</exception>
    public DmaAddressList Locate(DmaAddressList mapping)
    {
        ArgumentNullException.ThrowIfNull(mapping);
        List<Topology.DeviceRange> entries = [];
        for (ulong done = 0; done < LengthBytes;)
        {
            if (!mapping.TryLocate(Offset + done, out Topology.DeviceAddress address, out ulong contiguous))
            {
                throw new ArgumentException($"{this} is not in a mapping of {mapping.LengthBytes} bytes");
            }

            ulong length = Math.Min(contiguous, LengthBytes - done);
            entries.Add(new Topology.DeviceRange(address, length));
            done += length;
        }

        return new DmaAddressList([.. entries]);
    }

    public override string ToString() => $"0x{Offset:x}+0x{LengthBytes:x} of {Import.Resource.Name}";
}
