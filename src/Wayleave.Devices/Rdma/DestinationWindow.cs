namespace Wayleave.Devices.Rdma;

/// <summary>
/// What may be on its way to one socket. It belongs to the destination, not to a queue pair: all of them share the
/// receive buffer there. Charged with wire bytes and a fixed cost a datagram.
/// </summary>
internal sealed class DestinationWindow(long limitBytes)
{
    /// <summary>May change at any time: what is on its way above a smaller limit is waited for.</summary>
    public long LimitBytes { get; set; } = limitBytes;

    public long InFlightBytes { get; private set; }

    /// <summary>One packet may always go when nothing is out, however small the limit.</summary>
    public bool Admits(int chargeBytes) => InFlightBytes + chargeBytes <= LimitBytes || InFlightBytes == 0;

    /// <summary>How many packets of that charge may go now.</summary>
    public int RoomFor(int chargeBytes) =>
        (int)Math.Max((LimitBytes - InFlightBytes) / chargeBytes, InFlightBytes == 0 ? 1 : 0);

    public void Charge(int bytes) => InFlightBytes += bytes;

    public void Release(long bytes) => InFlightBytes -= bytes;
}
