using System.Buffers;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>Memory of another process, read by the kernel's one copy: process_vm_readv(2).</summary>
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
}
