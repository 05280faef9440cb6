using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Guests;

/// <summary>poll(2) on one descriptor, and calls that are expected to block.</summary>
internal static unsafe class KernelPoll
{
    /// <summary>What is ready now: <c>in</c>, <c>out</c>, <c>in out</c> or <c>nothing</c>.</summary>
    internal static string Now(int fd, int events) => Wait(fd, events, timeoutMs: 0);

    /// <summary>What is ready when something is, or when the time is up.</summary>
    internal static string Wait(int fd, int events, int timeoutMs)
    {
        Libc.PollFd poll = new() { Fd = fd, Events = (short)events };
        int result = Libc.poll(&poll, 1, timeoutMs);
        if (result < 0)
        {
            return KernelResult.Name(Libc.Errno);
        }

        bool isIn = (poll.Revents & Libc.POLLIN) != 0, isOut = (poll.Revents & Libc.POLLOUT) != 0;
        return isIn && isOut ? "in out" : isIn ? "in" : isOut ? "out" : "nothing";
    }

    /// <summary>
    /// Runs system calls that may sleep, each on a thread of its own; meanwhile <paramref name="release"/> lets them go
    /// on, once each has ended or is seen to sleep.
    /// </summary>
    /// <returns>For each <c>at once: RESULT</c>, or <c>after the signal: RESULT</c> when it slept until then.</returns>
    internal static IReadOnlyList<string> Blocking(IReadOnlyList<Func<string>> calls, Action release)
    {
        string[] results = new string[calls.Count];
        int[] ids = new int[calls.Count];
        Thread[] workers = [.. calls.Select((call, i) => new Thread(() =>
        {
            Volatile.Write(ref ids[i], Libc.gettid());
            results[i] = call();
        }))];
        bool[] sleep = new bool[calls.Count];
        for (int i = 0; i < workers.Length; i++)
        {
            workers[i].Start();
            while (!sleep[i] && !workers[i].Join(5))
            {
                int id = Volatile.Read(ref ids[i]);
                sleep[i] = id != 0 && IsInCall(id);
            }
        }

        release();
        foreach (Thread worker in workers)
        {
            worker.Join();
        }

        return [.. results.Select((result, i) => (sleep[i] ? "after the signal: " : "at once: ") + result)];
    }

    // /proc/.../syscall begins with the number of the call in which a thread sleeps: ioctl, poll or ppoll of x86-64.
    private static bool IsInCall(int thread)
    {
        try
        {
            return File.ReadAllText($"/proc/self/task/{thread}/syscall").Split(' ')[0] is "16" or "7" or "271";
        }
        catch (IOException)
        {
            // It ended.
            return false;
        }
    }
}
