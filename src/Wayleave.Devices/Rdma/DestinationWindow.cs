namespace Wayleave.Devices.Rdma;

// What a datagram costs in the receiver's socket is the kernel's skb->truesize. A super-packet that arrives in one
// piece is one skb: its bytes, and about 832 more however many segments it has. One that was cut up on the way is one
// skb for each segment. So what a packet costs besides its bytes is charged either to each, or to the one that opens a
// super-packet.

/// <summary>
/// What may be on its way to one socket. It belongs to the destination, not to a queue pair: all of them share the
/// receive buffer there.
/// </summary>
internal sealed class DestinationWindow
{
    // Releases for which a sender is careful after a loss: some ten windows.
    private const int CarefulReleases = 64;

    private readonly ReceiveBudget? _budget;
    private int _careful;

    /// <param name="limitBytes">What may be outstanding.</param>
    /// <param name="datagramChargeBytes">What each packet is charged besides its payload.</param>
    /// <param name="superPacketChargeBytes">What the packet that opens a super-packet is charged besides that.</param>
    /// <param name="budget">What all windows to the same socket share, when we know them all; or null.</param>
    public DestinationWindow(
        long limitBytes, int datagramChargeBytes, int superPacketChargeBytes, ReceiveBudget? budget = null)
    {
        (LimitBytes, _budget) = (limitBytes, budget);
        (DatagramChargeBytes, SuperPacketChargeBytes) = (datagramChargeBytes, superPacketChargeBytes);
    }

    public int DatagramChargeBytes { get; }

    public int SuperPacketChargeBytes { get; }

    /// <summary>May change at any time: what is on its way above a smaller limit is waited for.</summary>
    public long LimitBytes { get; set; }

    public long InFlightBytes { get; private set; }

    /// <summary>Of these, bytes for which no acknowledgement was asked yet: nothing says when they go.</summary>
    public long UnaskedBytes { get; set; }

    /// <summary>
    /// Something was lost here not long ago, because others fill the same buffer perhaps. Then questions belong where
    /// the window closes: behind them nothing follows that a lost one would take along.
    /// </summary>
    public bool IsCareful => _careful > 0;

    /// <summary>Something was lost.</summary>
    public void NoteLoss() => _careful = CarefulReleases;

    /// <summary>More room than that is not waited for: the receiver would run out of work.</summary>
    public long WorthwhileBytes => LimitBytes / 4;

    /// <summary>
    /// One packet may always go when nothing is out for which an acknowledgement was asked, however small the limit: it
    /// asks. Otherwise several queue pairs that have filled the window, each in the middle of a message, would wait for
    /// each other.
    /// </summary>
    public bool Admits(int chargeBytes) =>
        (InFlightBytes + chargeBytes <= LimitBytes || IsUnasked) && _budget?.Admits(chargeBytes) != false;

    /// <summary>
    /// Whether that much should wait, because acknowledgements that were asked for will make the room it needs. Small
    /// super-packets cost as much to send as large ones: without this, each acknowledgement lets out a fragment.
    /// </summary>
    public bool IsWorthWaiting(long chargeBytes) =>
        InFlightBytes + chargeBytes > LimitBytes
        && UnaskedBytes + chargeBytes <= LimitBytes
        && InFlightBytes > UnaskedBytes;

    /// <summary>How many packets of that charge may go now, the first of them with more.</summary>
    public int RoomFor(int chargeBytes, int firstMoreBytes) =>
        (int)Math.Max((LimitBytes - InFlightBytes - firstMoreBytes) / chargeBytes, IsUnasked ? 1 : 0);

    private bool IsUnasked => InFlightBytes <= UnaskedBytes;

    public void Charge(int bytes)
    {
        InFlightBytes += bytes;
        _budget?.Charge(bytes);
    }

    public void Release(long bytes)
    {
        _careful -= _careful > 0 ? 1 : 0;
        InFlightBytes -= bytes;
        _budget?.Charge(-bytes);
    }

    /// <summary>Something was sent that no acknowledgement which was asked for will speak for.</summary>
    public void ChargeUnasked(int bytes)
    {
        Charge(bytes);
        UnaskedBytes += bytes;
    }

    /// <summary>What <see cref="ChargeUnasked"/> charged is gone, or charged in another way.</summary>
    public void ReleaseUnasked(long bytes)
    {
        Release(bytes);
        UnaskedBytes -= bytes;
    }
}

/// <summary>
/// What all peers together may have on its way to one socket: READ responses to our own, whose senders we know.
/// </summary>
/// <param name="limitBytes">At any time.</param>
/// <param name="emptyLimitBytes">As long as nothing has come since the socket was empty; not less.</param>
internal sealed class ReceiveBudget(long limitBytes, long emptyLimitBytes)
{
    public long InFlightBytes { get; private set; }

    /// <summary>The most that it ever admits.</summary>
    public long MostBytes => emptyLimitBytes;

    /// <summary>The socket was found empty, and nothing has been taken from it since.</summary>
    public bool IsSocketEmpty { get; set; }

    /// <summary>One piece may always come when nothing is on its way, however small the limit.</summary>
    public bool Admits(long bytes) =>
        InFlightBytes + bytes <= (IsSocketEmpty ? emptyLimitBytes : limitBytes) || InFlightBytes == 0;

    public void Charge(long bytes) => InFlightBytes += bytes;
}
