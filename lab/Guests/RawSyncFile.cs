using System.Globalization;
using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Guests;

/// <summary>A sync_file of the kernel's.</summary>
internal sealed unsafe class RawSyncFile(int fd) : IDisposable
{
    internal int Fd { get; } = fd;

    /// <summary>
    /// SYNC_IOC_FILE_INFO: the overall status (1 signalled, 0 pending, negative an error) and how many of its fences
    /// are pending, as <c>status S, P of N pending</c>.
    /// </summary>
    internal string Status()
    {
        DmaBufUapi.FenceInfo* fences = stackalloc DmaBufUapi.FenceInfo[64];
        DmaBufUapi.FileInfoArgument argument = new() { FenceCount = 64, Fences = (ulong)fences };
        if (Libc.ioctl(Fd, DmaBufUapi.FileInfo, &argument) < 0)
        {
            return KernelResult.Name(Libc.Errno);
        }

        int pending = 0;
        for (uint i = 0; i < argument.FenceCount; i++)
        {
            pending += fences[i].Status == 0 ? 1 : 0;
        }

        return string.Create(
            CultureInfo.InvariantCulture, $"status {argument.Status}, {pending} of {argument.FenceCount} pending");
    }

    /// <summary>
    /// SYNC_IOC_FILE_INFO with room for so many fences and these flags: the count it answers, or the errno.
    /// </summary>
    internal string Count(uint room, uint flags)
    {
        DmaBufUapi.FenceInfo* fences = stackalloc DmaBufUapi.FenceInfo[64];
        DmaBufUapi.FileInfoArgument argument =
            new() { FenceCount = room, Flags = flags, Fences = room == 0 ? 0 : (ulong)fences };
        return Libc.ioctl(Fd, DmaBufUapi.FileInfo, &argument) < 0
            ? KernelResult.Name(Libc.Errno)
            : argument.FenceCount.ToString(CultureInfo.InvariantCulture);
    }

    /// <summary>SYNC_IOC_MERGE with any descriptor: the fd of the new file, or negative with the errno set.</summary>
    internal int TryMerge(int other, uint flags = 0)
    {
        DmaBufUapi.MergeArgument argument = new() { Fd2 = other, Fence = -1, Flags = flags };
        argument.Name[0] = (byte)'m';
        int result = Libc.ioctl(Fd, DmaBufUapi.Merge, &argument);
        return result < 0 ? result : argument.Fence;
    }

    internal RawSyncFile Merge(RawSyncFile other) =>
        new(KernelResult.Required(TryMerge(other.Fd), "SYNC_IOC_MERGE"));

    /// <summary>SYNC_IOC_SET_DEADLINE.</summary>
    internal string SetDeadline(ulong ns, ulong pad)
    {
        ulong* argument = stackalloc ulong[] { ns, pad };
        return KernelResult.Ok(Libc.ioctl(Fd, DmaBufUapi.SetDeadline, argument));
    }

    internal string Poll() => KernelPoll.Now(Fd, Libc.POLLIN);

    public void Dispose() => Libc.close(Fd);
}
