namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// Arithmetic on packet sequence numbers: 24 bits that wrap. Of two numbers less than 2^23 apart the later one is the
/// one reached by counting up (<c>rxe psn_compare</c>). Inputs may carry anything in the top eight bits; results never
/// do.
/// </summary>
public static class Psn
{
    /// <summary>The bits of a sequence number; also those of an MSN and of a queue pair number.</summary>
    public const uint Mask = 0x00FF_FFFF;

    /// <summary>
    /// The number <paramref name="count"/> packets after <paramref name="psn"/>. A count of uint.MaxValue steps back by
    /// one.
    /// </summary>
    public static uint Add(uint psn, uint count) => (psn + count) & Mask;

    /// <summary>The number after <paramref name="psn"/>.</summary>
    public static uint Next(uint psn) => (psn + 1) & Mask;

    /// <summary>
    /// Negative when <paramref name="left"/> comes before <paramref name="right"/>, zero when equal, positive when
    /// after. Numbers exactly 2^23 apart each come before the other: no window may grow that far.
    /// </summary>
    public static int Compare(uint left, uint right) => (int)((left - right) << 8);

    /// <summary>
    /// How many packets <paramref name="to"/> is ahead of <paramref name="from"/>, in -2^23 .. 2^23-1: negative when it
    /// is behind. <c>Add(from, (uint)Distance(from, to)) == to</c>.
    /// </summary>
    public static int Distance(uint from, uint to) => (int)((to - from) << 8) >> 8;
}
