namespace Wayleave.Compare;

/// <summary>What a sender can reach that, after a loss, sends again everything since.</summary>
public static class GoBackN
{
    // A packet of a WRITE beside its payload: BTH (12) and ICRC (4); a First has a RETH besides.
    private const int HeaderBytes = 16;

    private const int WindowBytesMax = 2 << 20;

    /// <summary>
    /// Packets on their way at most (W): our window is three quarters of the peer's receive buffer, and 2 MiB at most
    /// (<c>SocketWindow.Of</c>).
    /// </summary>
    /// <param name="receiveBufferBytes">SO_RCVBUF as the kernel returns it.</param>
    /// <param name="mtuBytes">Payload of a packet.</param>
    public static int WindowPackets(int receiveBufferBytes, int mtuBytes) =>
        Math.Min(receiveBufferBytes / 4 * 3, WindowBytesMax) / (mtuBytes + HeaderBytes);

    /// <summary>
    /// Share of the rate without loss, 1/(1 + pW): each lost packet costs a window.
    /// </summary>
    /// <param name="loss">Probability of each packet to be lost (p), 0 to 1.</param>
    /// <param name="windowPackets">As of <see cref="WindowPackets"/>.</param>
    public static double Reach(double loss, int windowPackets) => 1 / (1 + (loss * windowPackets));
}
