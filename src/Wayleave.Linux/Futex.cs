using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

// Read first: futex(2), and "Futexes Are Tricky" (Drepper) for the states of WaitWord.
//
// The kernel keys a private futex by its address. Both calls take a reference and pin it for the time of the system
// call, so that the word may lie anywhere, also in an object: while somebody sleeps on it, it cannot move, and whoever
// wakes it meanwhile sees the same address. The kernel reads the word and never writes it.

/// <summary>Sleeping on a 4-byte word of this process: FUTEX_WAIT and FUTEX_WAKE with FUTEX_PRIVATE_FLAG.</summary>
public static unsafe class Futex
{
    /// <summary>
    /// Sleeps while the word has the value <paramref name="expected"/>. The kernel compares and falls asleep in one
    /// step as seen by <see cref="Wake"/>. May return without cause: read the word again in any case.
    /// </summary>
    /// <param name="word">The word, 4-byte aligned.</param>
    /// <param name="expected">Sleep only if the word has this value.</param>
    /// <param name="timeout">Relative, or <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <returns>
    /// Success: woken. EAGAIN: the word had another value. ETIMEDOUT. EINTR: a signal; the caller knows its deadline
    /// and calls again with what is left of it.
    /// </returns>
    public static Errno Wait(ref int word, int expected, TimeSpan timeout)
    {
        bool finite = KernelTime.TryConvert(timeout, out timespec time);
        fixed (int* address = &word)
        {
            nint result = Libc.futex(
                unistd.SYS_futex, address, futex.FUTEX_WAIT | futex.FUTEX_PRIVATE_FLAG, expected,
                finite ? &time : null, null, 0);
            if (result == 0)
            {
                return Errno.Success;
            }

            Errno errno = LinuxException.LastErrno();
            return errno is Errno.EAGAIN or Errno.ETIMEDOUT or Errno.EINTR
                ? errno
                : throw new LinuxException("futex(FUTEX_WAIT)", "a word of this process", errno);
        }
    }

    /// <summary>Wakes at most <paramref name="sleepersMax"/> of those who sleep on the word; never blocks.</summary>
    /// <returns>How many were asleep and are woken.</returns>
    public static int Wake(ref int word, int sleepersMax = int.MaxValue)
    {
        fixed (int* address = &word)
        {
            nint result = Libc.futex(
                unistd.SYS_futex, address, futex.FUTEX_WAKE | futex.FUTEX_PRIVATE_FLAG, sleepersMax, null, null, 0);
            if (result < 0)
            {
                Errno errno = LinuxException.LastErrno();
                throw new LinuxException("futex(FUTEX_WAKE)", "a word of this process", errno);
            }

            return (int)result;
        }
    }
}
