using System.Runtime.InteropServices;
using System.Text;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Buffers;

/// <summary>
/// A <c>sync_file</c> of the kernel's: each method is one call of <c>drivers/dma-buf/sync_file.c</c> and answers with
/// its errno, in the words of <see cref="SyncFile"/>. Threads may share one.
/// </summary>
public sealed unsafe class KernelSyncFile : IDisposable
{
    private const int NameBytes = 32;

    /// <param name="descriptor">Owned by this object from now on. Nothing asks whether it is a sync_file.</param>
    public KernelSyncFile(FileDescriptor descriptor)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        Descriptor = descriptor;
    }

    /// <summary>Owned by this object.</summary>
    public FileDescriptor Descriptor { get; }

    /// <summary><c>poll</c> for reading.</summary>
    /// <param name="timeout">Zero only looks; or <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <param name="isSignaled">Whether all of it has signalled, with or without an error.</param>
    /// <returns>EINTR when a signal handler ran: look at the clock and call again.</returns>
    public Errno TryPoll(TimeSpan timeout, out bool isSignaled)
    {
        Errno errno = DescriptorPoll.Wait(Descriptor, poll.POLLIN, timeout, out short seen);
        isSignaled = (seen & poll.POLLIN) != 0;
        return errno;
    }

    /// <summary><c>SYNC_IOC_MERGE</c>: a file that is signalled when both are.</summary>
    /// <param name="other">Any descriptor; the kernel says ENOENT when it is no sync_file. Stays the caller's.</param>
    /// <param name="name">Cut to 31 bytes of UTF-8.</param>
    /// <param name="flags">None is defined.</param>
    /// <param name="merged">Owned by the caller.</param>
    public Errno TryMerge(FileDescriptor other, string name, uint flags, out KernelSyncFile? merged)
    {
        ArgumentNullException.ThrowIfNull(other);
        using FileDescriptor.Borrowed second = other.Borrow();
        sync_merge_data argument = new() { fd2 = second.Number, fence = -1, flags = flags };
        Encoding.UTF8.GetEncoder().Convert(
            name, new Span<byte>(argument.name, NameBytes - 1), flush: true, out _, out _, out _);
        Errno errno = Control(sync_file.SYNC_IOC_MERGE, &argument);
        merged = errno == Errno.Success
            ? new KernelSyncFile(new FileDescriptor(argument.fence, ownsHandle: true))
            : null;
        return errno;
    }

    /// <summary><c>SYNC_IOC_FILE_INFO</c>.</summary>
    /// <param name="fences">
    /// Filled from the start, with times of the kernel's monotonic clock; an empty one asks only for the count and the
    /// whole status.
    /// </param>
    /// <param name="flags">None is defined.</param>
    /// <param name="info">What there is.</param>
    public Errno TryGetInfo(Span<SyncFenceInfo> fences, uint flags, out SyncFileInfo info)
    {
        info = default;
        sync_fence_info[] room = new sync_fence_info[fences.Length];
        fixed (sync_fence_info* start = room)
        {
            sync_file_info argument = new()
            {
                flags = flags,
                num_fences = (uint)fences.Length,
                sync_fence_info = (ulong)start,
            };
            Errno errno = Control(sync_file.SYNC_IOC_FILE_INFO, &argument);
            if (errno != Errno.Success)
            {
                return errno;
            }

            info = new SyncFileInfo(Text(argument.name), argument.status, (int)argument.num_fences);
            for (int i = 0; i < fences.Length && i < info.Count; i++)
            {
                fences[i] = new SyncFenceInfo(
                    Text(start[i].obj_name), Text(start[i].driver_name), start[i].status,
                    TimeSpan.FromTicks((long)(start[i].timestamp_ns / TimeSpan.NanosecondsPerTick)));
            }
        }

        return Errno.Success;
    }

    /// <summary><c>SYNC_IOC_SET_DEADLINE</c> (Linux 6.6): a hint to whoever signals.</summary>
    /// <param name="deadline">On the kernel's monotonic clock.</param>
    /// <param name="padding">Zero, or the kernel says EINVAL.</param>
    public Errno TrySetDeadline(TimeSpan deadline, ulong padding = 0)
    {
        sync_set_deadline argument = new()
        {
            deadline_ns = (ulong)Math.Max(0, deadline.Ticks) * TimeSpan.NanosecondsPerTick,
            pad = padding,
        };
        return Control(sync_file_deadline.SYNC_IOC_SET_DEADLINE, &argument);
    }

    public void Dispose() => Descriptor.Dispose();

    private Errno Control(nuint request, void* argument)
    {
        while (Libc.ioctl(Descriptor, request, argument) < 0)
        {
            Errno errno = (Errno)Marshal.GetLastPInvokeError();
            if (errno != Errno.EINTR)
            {
                return errno;
            }
        }

        return Errno.Success;
    }

    private static string Text(byte* bytes)
    {
        ReadOnlySpan<byte> field = new(bytes, NameBytes);
        int end = field.IndexOf((byte)0);
        return Encoding.UTF8.GetString(end < 0 ? field : field[..end]);
    }
}
