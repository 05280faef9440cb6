namespace Wayleave.Devices.Ethernet.Tcp.Wire;

/// <summary>
/// Arithmetic on sequence numbers (RFC 9293 3.4): 32 bits that wrap. Of two numbers less than 2^31 apart the later one
/// is the one reached by counting up.
/// </summary>
public static class Seq
{
    /// <summary>
    /// How far <paramref name="to"/> is ahead of <paramref name="from"/>; negative when it is behind.
    /// </summary>
    public static int Distance(uint from, uint to) => (int)(to - from);

    /// <summary>
    /// The position of a sequence number in a stream: the one nearest to <paramref name="nearPosition"/>, whose own
    /// number is <paramref name="near"/>. Positions are 64 bits and do not wrap.
    /// </summary>
    public static long ToPosition(uint sequence, uint near, long nearPosition) =>
        nearPosition + Distance(near, sequence);
}
