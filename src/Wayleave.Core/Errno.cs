namespace Wayleave.Core;

/// <summary>
/// Linux error numbers (<c>include/uapi/asm-generic/errno.h</c>): the only error codes of the data path. A method
/// returns what the kernel returns in the same place; zero is success.
/// </summary>
public enum Errno
{
    Success = 0,
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    E2BIG = 7,
    EBADF = 9,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EFAULT = 14,
    EBUSY = 16,
    EEXIST = 17,
    ENODEV = 19,
    ENOTDIR = 20,
    EINVAL = 22,
    ENFILE = 23,
    EMFILE = 24,
    ENOTTY = 25,
    EFBIG = 27,
    ENOSPC = 28,
    EPIPE = 32,
    ERANGE = 34,
    EDEADLK = 35,
    ENAMETOOLONG = 36,
    ENOSYS = 38,
    ENODATA = 61,
    ETIME = 62,
    EPROTO = 71,
    EOVERFLOW = 75,
    EBADFD = 77,
    EMSGSIZE = 90,
    ENOPROTOOPT = 92,
    EOPNOTSUPP = 95,
    EAFNOSUPPORT = 97,
    EADDRINUSE = 98,
    EADDRNOTAVAIL = 99,
    ENETDOWN = 100,
    ENETUNREACH = 101,
    ECONNRESET = 104,
    ENOBUFS = 105,
    ENOTCONN = 107,
    ESHUTDOWN = 108,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTUNREACH = 113,
    EALREADY = 114,
    EREMOTEIO = 121,
    EDQUOT = 122,
    ECANCELED = 125,

    /// <summary>
    /// Of the kernel's own numbers (<c>include/linux/errno.h</c>), which the kernel hands out all the same: no room for
    /// a whole control message.
    /// </summary>
    ETOOSMALL = 525,
}
