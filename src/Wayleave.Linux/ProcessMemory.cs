using System.Buffers;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// Memory of a process, read and written by the kernel's one copy: process_vm_readv(2). Of one's own too, where nobody
/// knows whether there is any: what is not mapped is an errno, and no signal.
/// </summary>
public static unsafe class ProcessMemory
{
    /// <summary>Where memory of this process is, for another to read it. Pinned, or the number means nothing.</summary>
    public static nuint AddressOf(MemoryHandle pinned) => (nuint)pinned.Pointer;

    /// <summary>Copies bytes of another process.</summary>
    /// <param name="processId">Of whom.</param>
    /// <param name="address">Where, there.</param>
    /// <param name="target">Filled whole, or the call has failed.</param>
    /// <returns>
    /// EPERM: this process may not trace that one. ESRCH: there is none. EFAULT: not all of it is mapped.
    /// </returns>
    public static Errno Read(int processId, nuint address, Span<byte> target)
    {
        nuint done = 0;
        fixed (byte* bytes = target)
        {
            while (done < (nuint)target.Length)
            {
                iovec local = new() { iov_base = bytes + done, iov_len = (nuint)target.Length - done };
                iovec remote = new() { iov_base = (byte*)(address + done), iov_len = local.iov_len };
                nint read = Libc.process_vm_readv(processId, &local, 1, &remote, 1, 0);
                if (read <= 0)
                {
                    return read == 0 ? Errno.EFAULT : LinuxException.LastErrno();
                }

                done += (nuint)read;
            }
        }

        return Errno.Success;
    }

    /// <summary>Copies bytes into a process. As <see cref="Read"/>.</summary>
    /// <param name="processId">Whose.</param>
    /// <param name="address">Where, there.</param>
    /// <param name="source">Copied whole, or the call has failed; some of it may be there then.</param>
    /// <returns>As of <see cref="Read"/>; EFAULT also for what may not be written.</returns>
    public static Errno Write(int processId, nuint address, ReadOnlySpan<byte> source)
    {
        nuint done = 0;
        fixed (byte* bytes = source)
        {
            while (done < (nuint)source.Length)
            {
                iovec local = new() { iov_base = bytes + done, iov_len = (nuint)source.Length - done };
                iovec remote = new() { iov_base = (byte*)(address + done), iov_len = local.iov_len };
                nint written = Libc.process_vm_writev(processId, &local, 1, &remote, 1, 0);
                if (written <= 0)
                {
                    return written == 0 ? Errno.EFAULT : LinuxException.LastErrno();
                }

                done += (nuint)written;
            }
        }

        return Errno.Success;
    }
}
