namespace Wayleave.Devices.Rdma.Connections;

/// <summary>The time codes of management messages (IBTA 13.4.6.2).</summary>
internal static class CmTimes
{
    /// <summary>4.096 us times two to the code, which has five bits.</summary>
    public static TimeSpan Of(int code) =>
        TimeSpan.FromTicks((long)(4.096 * TimeSpan.TicksPerMicrosecond * (1L << (code & 31))));
}
