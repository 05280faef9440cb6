using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Buffers;

/// <summary>
/// A dma-buf of the kernel's by its descriptor: each method is one call of <c>drivers/dma-buf/dma-buf.c</c> and answers
/// with its errno, in the words of <see cref="BufferFile"/>. Threads may share one.
/// </summary>
public sealed unsafe class DmaBuf : IDisposable
{
    private DmaBuf(FileDescriptor descriptor, ulong sizeBytes) => (Descriptor, SizeBytes) = (descriptor, sizeBytes);

    /// <summary>Owned by this object.</summary>
    public FileDescriptor Descriptor { get; }

    /// <summary>Fixed for life.</summary>
    public ulong SizeBytes { get; }

    /// <summary>Takes a descriptor that came from an exporter, a driver or another process.</summary>
    /// <param name="descriptor">Owned by the result from now on; also when this throws, which closes it.</param>
    /// <exception cref="LinuxException">EINVAL: it is no dma-buf. EBADF.</exception>
    public static DmaBuf Open(FileDescriptor descriptor)
    {
        ArgumentNullException.ThrowIfNull(descriptor);

        // No direction at all is EINVAL to a dma-buf; others do not know the ioctl.
        DmaBuf candidate = new(descriptor, 0);
        Errno errno = candidate.TrySync(BufferSync.None);
        long size = errno == Errno.EINVAL ? Libc.lseek(descriptor, 0, (int)SeekWhence.End) : -1;
        if (size > 0)
        {
            return new DmaBuf(descriptor, (ulong)size);
        }

        descriptor.Dispose();
        throw new LinuxException(
            "DMA_BUF_IOCTL_SYNC", "a descriptor", errno == Errno.EBADF ? errno : Errno.EINVAL, "it is no dma-buf");
    }

    /// <summary><c>lseek</c>: asks for the size, or goes back to the start.</summary>
    public Errno TrySeek(long offset, SeekWhence whence, out ulong position)
    {
        long result = Libc.lseek(Descriptor, offset, (int)whence);
        position = result < 0 ? 0 : (ulong)result;
        return result < 0 ? (Errno)Marshal.GetLastPInvokeError() : Errno.Success;
    }

    /// <summary>
    /// <c>DMA_BUF_IOCTL_SYNC</c>. A start sleeps until the fences that the access has to wait for have signalled; to
    /// wait in another way, poll <see cref="TryExportSyncFile"/>'s file first. Repeated when a signal interrupts it.
    /// </summary>
    public Errno TrySync(BufferSync flags)
    {
        dma_buf_sync argument = new() { flags = (ulong)flags };
        return Control(dma_buf.DMA_BUF_IOCTL_SYNC, &argument);
    }

    /// <summary><c>DMA_BUF_SET_NAME</c>: at most 31 bytes of UTF-8.</summary>
    public Errno TrySetName(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        byte[] bytes = new byte[Encoding.UTF8.GetByteCount(name) + 1];
        Encoding.UTF8.GetBytes(name, bytes);
        fixed (byte* start = bytes)
        {
            return Control(dma_buf.DMA_BUF_SET_NAME_B, start);
        }
    }

    /// <summary>The name that <c>/proc/self/fdinfo</c> shows; empty when it has none.</summary>
    /// <exception cref="IOException">There is no <c>/proc</c>.</exception>
    public string ReadName()
    {
        using FileDescriptor.Borrowed fd = Descriptor.Borrow();
        string path = string.Create(CultureInfo.InvariantCulture, $"/proc/self/fdinfo/{fd.Number}");
        const string key = "name:";
        foreach (string line in File.ReadLines(path))
        {
            if (line.StartsWith(key, StringComparison.Ordinal))
            {
                return line[key.Length..].Trim();
            }
        }

        return "";
    }

    /// <summary><c>poll</c>: In when nobody writes any more, Out when nobody uses it any more.</summary>
    /// <param name="requested">In, out or both; neither waits for the time-out.</param>
    /// <param name="timeout">Zero only looks; or <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <param name="ready">None when the time is up.</param>
    /// <returns>EINTR when a signal handler ran: look at the clock and call again.</returns>
    public Errno TryPoll(PollEvents requested, TimeSpan timeout, out PollEvents ready)
    {
        short events = (short)(((requested & PollEvents.In) != 0 ? poll.POLLIN : 0)
            | ((requested & PollEvents.Out) != 0 ? poll.POLLOUT : 0));
        Errno errno = DescriptorPoll.Wait(Descriptor, events, timeout, out short seen);
        ready = ((seen & poll.POLLIN) != 0 ? PollEvents.In : PollEvents.None)
            | ((seen & poll.POLLOUT) != 0 ? PollEvents.Out : PollEvents.None);
        return errno;
    }

    /// <summary>
    /// <c>DMA_BUF_IOCTL_EXPORT_SYNC_FILE</c> (Linux 6.0): a snapshot of what an access has to wait for.
    /// </summary>
    /// <param name="flags">Write: for a writer. Read alone: for a reader.</param>
    /// <param name="file">Owned by the caller.</param>
    public Errno TryExportSyncFile(BufferSync flags, out KernelSyncFile? file)
    {
        dma_buf_export_sync_file argument = new() { flags = (uint)flags, fd = -1 };
        Errno errno = Control(dma_buf.DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &argument);
        file = errno == Errno.Success ? new KernelSyncFile(new FileDescriptor(argument.fd, ownsHandle: true)) : null;
        return errno;
    }

    /// <summary>
    /// <c>DMA_BUF_IOCTL_IMPORT_SYNC_FILE</c> (Linux 6.0): others wait implicitly for what the file stands for.
    /// </summary>
    /// <param name="flags">Write: readers wait too. Read alone: only writers wait.</param>
    /// <param name="syncFile">Any descriptor; EINVAL when it is no sync_file. Stays the caller's.</param>
    public Errno TryImportSyncFile(BufferSync flags, FileDescriptor syncFile)
    {
        ArgumentNullException.ThrowIfNull(syncFile);
        using FileDescriptor.Borrowed file = syncFile.Borrow();
        dma_buf_import_sync_file argument = new() { flags = (uint)flags, fd = file.Number };
        return Control(dma_buf.DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &argument);
    }

    /// <summary>The whole buffer, shared, readable and writable; it lives as long as the mapping does.</summary>
    /// <exception cref="LinuxException">
    /// EINVAL: its exporter has no <c>mmap</c>. EACCES: the descriptor is read-only. EFBIG: more than 2 GiB - 1.
    /// </exception>
    public MappedMemory Map() => SizeBytes <= int.MaxValue
        ? MappedMemory.MapShared(Descriptor, 0, (int)SizeBytes, "a dma-buf")
        : throw new LinuxException("mmap", "a dma-buf", Errno.EFBIG, "windows of at most 2 GiB are mapped");

    public void Dispose() => Descriptor.Dispose();

    // The kernel says EAGAIN when a wait should start over (dma-buf.h of the uAPI); neither it nor EINTR is an answer.
    private Errno Control(nuint request, void* argument)
    {
        while (Libc.ioctl(Descriptor, request, argument) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            if (errno is not (Errno.EINTR or Errno.EAGAIN))
            {
                return errno;
            }
        }

        return Errno.Success;
    }
}
