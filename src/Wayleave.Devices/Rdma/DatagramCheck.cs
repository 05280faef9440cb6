using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Checks the ICRC of datagrams, which anybody may send: nothing is known of the sender but its address. Port token
/// held by the caller.
/// </summary>
internal sealed class DatagramCheck(ushort localPort)
{
    private IcrcFlow _flow; // of the last sender: a batch is one's
    private Gid _source;
    private Gid _destination;
    private int _sourcePort = -1;

    /// <summary>Whether the ICRC fits.</summary>
    /// <param name="packet">BTH to ICRC.</param>
    /// <param name="source">Of any address family.</param>
    /// <param name="destination">The port, or a group of its family.</param>
    /// <param name="sourcePort">UDP port it came from.</param>
    /// <param name="identification">Tried first; what it turned out to be afterwards.</param>
    /// <param name="isFullCheck">All 32 bits were checked, not 16.</param>
    public bool Verify(
        ReadOnlySpan<byte> packet,
        Gid source,
        Gid destination,
        ushort sourcePort,
        ref int identification,
        out bool isFullCheck)
    {
        isFullCheck = true;
        if (source.IsIPv4 != destination.IsIPv4)
        {
            return false;
        }

        if (sourcePort != _sourcePort || source != _source || destination != _destination)
        {
            (_source, _destination, _sourcePort) = (source, destination, sourcePort);
            _flow = new IcrcFlow(source, destination, sourcePort, localPort);
        }

        if (Icrc.Verify(_flow, (ushort)identification, packet))
        {
            return true;
        }

        isFullCheck = false;
        bool fits = Icrc.TrySolveIdentification(_flow, packet, out ushort solved);
        identification = fits ? solved : identification;
        return fits;
    }
}
