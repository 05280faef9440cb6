using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Wayleave.Linux.Interop;

/// <summary>libc, as in the man pages: names, order and types of the arguments are those of C.</summary>
/// <remarks>
/// Control path: SetLastError, handles as <see cref="FileDescriptor"/>. Data path (the second half): plain integers and
/// no SetLastError; the caller holds a <see cref="FileDescriptor.Borrowed"/> and reads Marshal.GetLastSystemError in
/// the statement after the call, and only after a failure. None of them may suppress the GC transition: each can wait
/// for the socket lock.
/// </remarks>
internal static unsafe partial class Libc
{
    private const string Library = "libc";

    [LibraryImport(Library, SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial FileDescriptor memfd_create(string name, uint flags);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int close(int fd);

    [LibraryImport(Library, SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial SafeFileHandle open(string pathname, int flags, uint mode);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int fallocate(SafeHandle fd, int mode, long offset, long len);

    [LibraryImport(Library, SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int linkat(int olddirfd, string oldpath, int newdirfd, string newpath, int flags);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int flock(SafeHandle fd, int operation);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint pread(SafeHandle fd, void* buf, nuint count, long offset);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint pwrite(SafeHandle fd, void* buf, nuint count, long offset);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int fdatasync(SafeHandle fd);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial long lseek(SafeHandle fd, long offset, int whence);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int ftruncate(FileDescriptor fd, long length);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int fcntl(FileDescriptor fd, int cmd, int arg);

    [LibraryImport(Library, EntryPoint = "fcntl", SetLastError = true)]
    internal static partial FileDescriptor fcntl_descriptor(FileDescriptor fd, int cmd, int arg);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial void* mmap(void* addr, nuint length, int prot, int flags, FileDescriptor fd, long offset);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int munmap(void* addr, nuint length);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial void* mremap(
        void* old_address, nuint old_size, nuint new_size, int flags, void* new_address);

    [LibraryImport(Library)]
    internal static partial void* memcpy(void* dest, void* src, nuint n);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int madvise(void* addr, nuint length, int advice);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int ioctl(FileDescriptor fd, nuint request, void* argp);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial FileDescriptor eventfd(uint initval, int flags);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial FileDescriptor socket(int domain, int type, int protocol);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int socketpair(int domain, int type, int protocol, int* sv);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial FileDescriptor epoll_create1(int flags);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int epoll_ctl(FileDescriptor epfd, int op, int fd, void* @event);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int epoll_wait(FileDescriptor epfd, void* events, int maxevents, int timeout);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int shutdown(FileDescriptor sockfd, int how);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint send(FileDescriptor sockfd, void* buf, nuint len, int flags);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial nint recv(FileDescriptor sockfd, void* buf, nuint len, int flags);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int fchmod(FileDescriptor fd, uint mode);

    [LibraryImport(Library, EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial FileDescriptor open_descriptor(string pathname, int flags, uint mode);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int bind(FileDescriptor sockfd, void* addr, uint addrlen);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int getsockname(FileDescriptor sockfd, void* addr, uint* addrlen);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int getsockopt(FileDescriptor sockfd, int level, int optname, void* optval, uint* optlen);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial int setsockopt(FileDescriptor sockfd, int level, int optname, void* optval, uint optlen);

    [LibraryImport(Library)]
    internal static partial int sched_getaffinity(int pid, nuint cpusetsize, ulong* mask);

    [LibraryImport(Library)]
    internal static partial int sched_setaffinity(int pid, nuint cpusetsize, ulong* mask);

    [LibraryImport(Library, EntryPoint = "syscall", SetLastError = true)]
    internal static partial nint pidfd_open(nint number, int pid, uint flags);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial long lseek(FileDescriptor fd, long offset, int whence);

    [LibraryImport(Library, EntryPoint = "syscall", SetLastError = true)]
    internal static partial nint pidfd_getfd(nint number, FileDescriptor pidfd, int targetfd, uint flags);

    [LibraryImport(Library, EntryPoint = "syscall", SetLastError = true)]
    internal static partial nint pidfd_send_signal(
        nint number, FileDescriptor pidfd, int sig, void* info, uint flags);

    [LibraryImport(Library, SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int statx(int dirfd, string pathname, int flags, uint mask, statx* statxbuf);

    [LibraryImport(Library, SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int statx(SafeHandle dirfd, string pathname, int flags, uint mask, statx* statxbuf);

    [LibraryImport(Library, SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int faccessat(int dirfd, string pathname, int mode, int flags);

    [LibraryImport(Library, EntryPoint = "syscall", SetLastError = true)]
    internal static partial nint userfaultfd(nint number, int flags);

    [LibraryImport(Library)]
    internal static partial uint geteuid();

    [LibraryImport(Library, SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial uint if_nametoindex(string ifname);

    [LibraryImport(Library)]
    internal static partial nint process_vm_readv(
        int pid, iovec* local_iov, nuint liovcnt, iovec* remote_iov, nuint riovcnt, nuint flags);

    [LibraryImport(Library)]
    internal static partial nint process_vm_writev(
        int pid, iovec* local_iov, nuint liovcnt, iovec* remote_iov, nuint riovcnt, nuint flags);

    [LibraryImport(Library)]
    internal static partial nint sendmsg(int sockfd, msghdr* msg, int flags);

    [LibraryImport(Library)]
    internal static partial int sendmmsg(int sockfd, mmsghdr* msgvec, uint vlen, int flags);

    [LibraryImport(Library)]
    internal static partial nint recvmsg(int sockfd, msghdr* msg, int flags);

    [LibraryImport(Library)]
    internal static partial int ppoll(pollfd* fds, nuint nfds, timespec* tmo_p, void* sigmask);

    [LibraryImport(Library)]
    internal static partial nint read(int fd, void* buf, nuint count);

    [LibraryImport(Library)]
    internal static partial nint readv(int fd, iovec* iov, int iovcnt);

    [LibraryImport(Library, EntryPoint = "syscall", SetLastError = true)]
    internal static partial nint bpf(nint number, int cmd, void* attr, uint size);

    [LibraryImport(Library)]
    internal static partial nint write(int fd, void* buf, nuint count);

    [LibraryImport(Library, EntryPoint = "syscall")]
    internal static partial nint futex(
        nint number, int* uaddr, int op, int val, timespec* timeout, int* uaddr2, int val3);
}
