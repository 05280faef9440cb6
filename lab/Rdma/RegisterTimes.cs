using System.Diagnostics;
using System.Globalization;
using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Rdma;

/// <summary>
/// How long a kernel's <c>ibv_reg_mr</c> takes for memory whose pages are there, and <c>ibv_dereg_mr</c>: what
/// <c>wayleave bench register</c> is held against.
/// </summary>
internal static unsafe class RegisterTimes
{
    private const int PageBytes = 4096;

    internal static int Run(string[] arguments)
    {
        if (arguments is not [{ } device, { } size, { } count]
            || !int.TryParse(size, NumberStyles.None, CultureInfo.InvariantCulture, out int length)
            || !int.TryParse(count, NumberStyles.None, CultureInfo.InvariantCulture, out int rounds))
        {
            Console.Error.WriteLine("register-times DEVICE BYTES ROUNDS");
            return ExitCodes.Usage;
        }

        VerbsDevice verbs = new(device);
        byte* memory = Libc.mmap(
            null, (nuint)length, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED | Libc.MAP_ANONYMOUS, -1, 0);
        for (int at = 0; at < length; at += PageBytes)
        {
            memory[at] = 1;
        }

        List<double> registered = [], ended = [];
        for (int round = -1; round < rounds; round++)
        {
            long start = Stopwatch.GetTimestamp();
            Verbs.MemoryRegion* region = verbs.Register(memory, length);
            double one = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
            start = Stopwatch.GetTimestamp();
            VerbsDevice.Deregister(region);
            double other = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
            if (round >= 0)
            {
                registered.Add(one);
                ended.Add(other);
            }
        }

        Say("ibv_reg_mr", registered, length);
        Say("ibv_dereg_mr", ended, length);
        return ExitCodes.Done;
    }

    private static void Say(string what, List<double> times, int length)
    {
        times.Sort();
        double median = times[times.Count / 2];
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{what}: {times.Count} times {length >> 20} MiB, t_min {times[0]:F1} us, t_med {median:F1} us, "
                + $"t_max {times[^1]:F1} us"));
    }
}
