using System.Globalization;
using System.Numerics;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>On which processors a thread may run.</summary>
public static unsafe class ProcessorAffinity
{
    private const int Words = 16; // 1024 processors, as in glibc's cpu_set_t

    /// <summary>
    /// Keeps the calling thread on one of those processors on which it may run now, for as long as it lives
    /// (<c>sched_setaffinity(2)</c>).
    /// </summary>
    /// <param name="index">Which of them, from 0, by number.</param>
    /// <returns>False when there are not so many, or the kernel refuses: nothing has changed.</returns>
    public static bool TryStayOn(int index)
    {
        ulong* one = stackalloc ulong[Words];
        return TryFind(index, one) && Libc.sched_setaffinity(0, Words * sizeof(ulong), one) == 0;
    }

    /// <summary>
    /// As <see cref="TryStayOn"/>, for all threads that this process has now; those that it starts later run where they
    /// like (the runtime sees to that).
    /// </summary>
    /// <param name="index">As there.</param>
    /// <returns>False when there are not so many, or the kernel refuses it to a thread.</returns>
    public static bool TryKeepProcessOn(int index)
    {
        ulong* one = stackalloc ulong[Words];
        if (!TryFind(index, one))
        {
            return false;
        }

        bool isKept = true;
        foreach (string task in Directory.GetDirectories("/proc/self/task"))
        {
            int thread = int.Parse(Path.GetFileName(task), CultureInfo.InvariantCulture);
            isKept &= Libc.sched_setaffinity(thread, Words * sizeof(ulong), one) == 0
                || LinuxException.LastErrno() == Core.Errno.ESRCH; // it has ended
        }

        return isKept;
    }

    private static bool TryFind(int index, ulong* one)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ulong* allowed = stackalloc ulong[Words];
        new Span<ulong>(one, Words).Clear();
        new Span<ulong>(allowed, Words).Clear();
        if (Libc.sched_getaffinity(0, Words * sizeof(ulong), allowed) != 0)
        {
            return false;
        }

        for (int word = 0; word < Words; word++)
        {
            int here = BitOperations.PopCount(allowed[word]);
            if (index >= here)
            {
                index -= here;
                continue;
            }

            ulong left = allowed[word];
            for (; index > 0; index--)
            {
                left &= left - 1;
            }

            one[word] = left & (0 - left);
            return true;
        }

        return false;
    }
}
