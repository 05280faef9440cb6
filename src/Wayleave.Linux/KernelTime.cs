using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>Time-outs as the kernel takes them.</summary>
internal static class KernelTime
{
    private const long NanosecondsPerTick = 100;

    /// <summary>CLOCK_MONOTONIC, which is what .NET counts on Linux.</summary>
    internal static TimeSpan Monotonic => TimeProvider.System.GetElapsedTime(0);

    /// <returns>False for <see cref="Timeout.InfiniteTimeSpan"/> (pass a null pointer then).</returns>
    /// <exception cref="ArgumentOutOfRangeException">Negative, but not infinite.</exception>
    internal static bool TryConvert(TimeSpan timeout, out timespec time)
    {
        if (timeout == Timeout.InfiniteTimeSpan)
        {
            time = default;
            return false;
        }

        ArgumentOutOfRangeException.ThrowIfLessThan(timeout, TimeSpan.Zero);
        time = new timespec
        {
            tv_sec = timeout.Ticks / TimeSpan.TicksPerSecond,
            tv_nsec = timeout.Ticks % TimeSpan.TicksPerSecond * NanosecondsPerTick,
        };
        return true;
    }
}
