using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Client;

/// <summary>What a host says of a buffer.</summary>
/// <param name="Id">Unique in the host.</param>
/// <param name="SizeBytes">Fixed for life.</param>
/// <param name="IsRevoked">It was taken back.</param>
/// <param name="References">Numbers and descriptors that keep it alive.</param>
public sealed record BufferStatus(ulong Id, ulong SizeBytes, bool IsRevoked, uint References);

/// <summary>
/// Device memory that a program allocated, or that somebody passed to it. Disposing closes it for this connection;
/// disposing twice is fine.
/// </summary>
public sealed class ClientBuffer : IDisposable
{
    private readonly BrokerClient _client;
    private readonly uint _number;
    private int _isClosed;

    internal ClientBuffer(BrokerClient client, string name, uint number, ulong sizeBytes) =>
        (_client, Name, _number, SizeBytes) = (client, name, number, sizeBytes);

    public string Name { get; }

    public ulong SizeBytes { get; }

    internal uint Number => _number;

    /// <summary>
    /// A descriptor that stands for the buffer: whoever gets it, or a copy of it, may import it. It is no memory, and
    /// reading or writing it does nothing. The buffer lives while a copy of it is open anywhere.
    /// </summary>
    /// <returns>The caller's; sent by SCM_RIGHTS, inherited or passed on as any descriptor.</returns>
    public FileDescriptor Export()
    {
        FileDescriptor? exported = null;
        _client.Ask($"export {Name}", BrokerOperation.Export, Write, (ref BrokerReader body, FileDescriptor[] sent) =>
        {
            exported = sent is [{ } one] ? one : null;
            return exported is not null && body.IsEnd;
        });
        return exported!;
    }

    /// <summary>
    /// Maps the buffer: what the program reads and writes there is the device's memory, without a copy. It counts as
    /// pinned until this process has unmapped it, or is dead.
    /// </summary>
    /// <returns>Disposing unmaps, and says so to the host.</returns>
    /// <exception cref="BrokerException">
    /// EOPNOTSUPP: the storage can be taken back, so nobody may map it. ENODEV: it was taken back. EDQUOT.
    /// </exception>
    public ClientMapping Map() => Map(keepsPages: false);

    /// <summary>As <see cref="Map()"/>.</summary>
    /// <param name="keepsPages">
    /// Whether the mapping has <see cref="ClientMapping.Pages"/>: to be sent with the buffer's descriptor, to programs
    /// that then need not wait for the host to have them mapped.
    /// </param>
    /// <returns>As there; its <see cref="ClientMapping.Pages"/> end with it.</returns>
    /// <exception cref="BrokerException">As there.</exception>
    public ClientMapping Map(bool keepsPages)
    {
        FileDescriptor? pages = null;
        _client.Ask($"map {Name}", BrokerOperation.Map, Write, (ref BrokerReader body, FileDescriptor[] sent) =>
        {
            pages = sent is [{ } one] ? one : null;
            return pages is not null && body.IsEnd;
        });
        return MapPages(pages!, keepsPages);
    }

    // What the host has sent; it is closed here, good or bad, or kept by the mapping.
    internal ClientMapping MapPages(FileDescriptor pages, bool keepsPages = false)
    {
        bool isKept = false;
        try
        {
            // Or whoever made it could end this process by cutting it short.
            if (!MemFd.IsSealedAgainstShrinking(pages))
            {
                throw new BrokerException($"map {Name}", Errno.EPROTO, "the host's pages could shrink");
            }

            MappedMemory memory = MappedMemory.MapShared(pages, 0, checked((int)SizeBytes), Name);
            isKept = keepsPages;
            return new ClientMapping(memory, checked((int)SizeBytes), Unmap) { Pages = isKept ? pages : null };
        }
        catch
        {
            Unmap();
            throw;
        }
        finally
        {
            if (!isKept)
            {
                pages.Dispose();
            }
        }
    }

    // What was mapped while the host was asked; refused, nothing is left of the buffer either.
    internal ClientMapping MapEarly(EarlyMapping early, string operation, PagesIdentity identity, bool checks)
    {
        try
        {
            MappedMemory memory = early.Take(operation, identity, SizeBytes, checks);
            return new ClientMapping(memory, checked((int)SizeBytes), Unmap);
        }
        catch
        {
            Unmap();
            Dispose();
            throw;
        }
    }

    public BufferStatus Describe()
    {
        BufferStatus? status = null;
        _client.Ask($"describe {Name}", BrokerOperation.Describe, Write, (ref BrokerReader body, FileDescriptor[] _) =>
        {
            bool isRead = body.TryReadUInt64(out ulong id);
            isRead &= body.TryReadUInt64(out ulong size);
            isRead &= body.TryReadUInt32(out uint revoked);
            isRead &= body.TryReadUInt32(out uint references);
            status = new BufferStatus(id, size, revoked != 0, references);
            return isRead && body.IsEnd;
        });
        return status!;
    }

    /// <summary>Takes the buffer back from everybody.</summary>
    /// <param name="timeout">How long the host waits for the proof; it goes on in quarantine.</param>
    /// <returns>The proof, as JSON: wayleave.proof.v1.</returns>
    /// <exception cref="BrokerException">EPERM: another program allocated it.</exception>
    public string Revoke(TimeSpan timeout)
    {
        string? proof = null;
        _client.Ask($"revoke {Name}", BrokerOperation.Revoke, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32((uint)Math.Clamp(timeout.TotalMilliseconds, 0, uint.MaxValue));
        }, (ref BrokerReader body, FileDescriptor[] _) => (proof = body.ReadText()).Length > 0);
        return proof!;
    }

    /// <summary>The proof of a buffer that was taken back, by whomever.</summary>
    /// <returns>As of <see cref="Revoke"/>.</returns>
    /// <exception cref="BrokerException">ENODATA: nobody has. EAGAIN: it is being taken back.</exception>
    public string ReadProof()
    {
        string? proof = null;
        _client.Ask($"read the proof of {Name}", BrokerOperation.ReadProof, Write, (
            ref BrokerReader body, FileDescriptor[] _) => (proof = body.ReadText()).Length > 0);
        return proof!;
    }

    /// <summary>
    /// What an access has to wait for, as it is now (<c>DMA_BUF_IOCTL_EXPORT_SYNC_FILE</c>): what comes later is not in
    /// it.
    /// </summary>
    /// <param name="use">The access that is to come.</param>
    /// <exception cref="BrokerException">EINVAL: neither read nor write. EDQUOT.</exception>
    public ClientFence ExportFence(FenceUse use) =>
        _client.AskForFence($"export the fences of {Name}", BrokerOperation.ExportFence, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32((uint)use);
        });

    /// <summary>
    /// Lets others who use the buffer wait for a fence without being told (<c>DMA_BUF_IOCTL_IMPORT_SYNC_FILE</c>).
    /// </summary>
    /// <param name="fence">Stays the caller's.</param>
    /// <param name="use">What it ends.</param>
    /// <exception cref="BrokerException">
    /// EINVAL: neither read nor write, no fence of this host, or a program's own. ENODEV: the buffer was taken back.
    /// </exception>
    public void ImportFence(ClientFence fence, FenceUse use)
    {
        ArgumentNullException.ThrowIfNull(fence);
        _client.Ask($"import a fence into {Name}", BrokerOperation.ImportFence, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32((uint)use);
        }, null, fence.Descriptor);
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isClosed, 1) == 0)
        {
            TryAsk($"close {Name}", BrokerOperation.Close);
        }
    }

    private void Unmap() => TryAsk($"unmap {Name}", BrokerOperation.Unmap);

    // A host that has died, or a client that was disposed, has closed it already.
    private void TryAsk(string operation, BrokerOperation code)
    {
        try
        {
            _client.Ask(operation, code, Write);
        }
        catch (BrokerException e) when (e.Errno is Errno.ECONNRESET or Errno.EBADF)
        {
            // See above.
        }
    }

    internal void Write(ref BrokerWriter body) => body.WriteUInt32(_number);
}

/// <summary>A buffer in this process: its bytes are the device's memory.</summary>
public sealed class ClientMapping : IDisposable
{
    private readonly MappedMemory _memory;
    private readonly int _lengthBytes;
    private Action? _unmapped;

    internal ClientMapping(MappedMemory memory, int lengthBytes, Action unmapped) =>
        (_memory, _lengthBytes, _unmapped) = (memory, lengthBytes, unmapped);

    /// <summary>All bytes of the buffer. Not to be used after <see cref="Dispose"/>.</summary>
    public Memory<byte> Memory => _memory.Memory[.._lengthBytes];

    /// <summary>
    /// The pages, if <see cref="ClientBuffer.Map(bool)"/> was to keep them; closed with the mapping. A copy that is
    /// sent with the buffer's descriptor lets its receiver map at once. Whoever has a copy can map it for as long as it
    /// likes, also without asking the host; this program's account of the mapping stays open until nobody has, or until
    /// somebody else's is.
    /// </summary>
    public FileDescriptor? Pages { get; internal init; }

    /// <summary>Unmaps, and tells the host. Disposing twice is fine.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _unmapped, null) is { } unmapped)
        {
            ((IDisposable)_memory).Dispose();
            Pages?.Dispose();
            unmapped();
        }
    }
}
