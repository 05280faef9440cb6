namespace Wayleave.Devices.Rdma;

/// <summary>The RNR NAK timer codes (IBTA vol. 1, 9.7.5.2.8).</summary>
public static class RnrTimer
{
    // Hundredths of a millisecond.
    private static ReadOnlySpan<int> Codes =>
    [
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192,
        256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
    ];

    /// <summary>
    /// How long the requester waits. Only the low five bits of <paramref name="code"/> count; 0 is the longest wait.
    /// </summary>
    public static TimeSpan Duration(int code) =>
        TimeSpan.FromTicks(Codes[code & 31] * (TimeSpan.TicksPerMillisecond / 100));
}
