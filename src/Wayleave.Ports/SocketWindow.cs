namespace Wayleave.Ports;

/// <summary>How much may be on its way to a UDP socket of Linux with a receive buffer of some size.</summary>
public static class SocketWindow
{
    private const int MostBytes = 2 << 20; // more than that gains nothing, and is worse for the caches

    /// <summary>
    /// At any time: what was read from the socket stays charged to its buffer until it is a quarter of that
    /// (<c>udp_rmem_release</c>).
    /// </summary>
    /// <param name="receiveBufferBytes">SO_RCVBUF as the kernel returns it.</param>
    public static int Of(int receiveBufferBytes) => Math.Clamp(receiveBufferBytes / 4 * 3, 1, MostBytes);

    /// <summary>
    /// As long as nothing has come since the socket was found empty, for then nothing is charged. The sixteenth that is
    /// left is for what nobody here has asked for: small requests and acknowledgements.
    /// </summary>
    /// <param name="receiveBufferBytes">As of <see cref="Of"/>, and the result is not less than that one's.</param>
    public static int OfEmpty(int receiveBufferBytes) => Math.Clamp(receiveBufferBytes / 16 * 15, 1, MostBytes);
}
