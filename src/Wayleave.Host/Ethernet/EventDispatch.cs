using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Tcp;

namespace Wayleave.Host.Ethernet;

/// <summary>
/// The host above a NIC, with whoever waits for its connections told at the end of each turn. Nothing of theirs runs
/// here: a waiter continues elsewhere.
/// </summary>
internal sealed class EventDispatch(IpHost host) : INicHost
{
    /// <summary>Called under the port token: only marks.</summary>
    public Action<MemoryBinding>? Revoked { get; set; }

    public TimeSpan? NextDeadline => host.NextDeadline;

    public void HandleFrame(ReceivedFrame frame, TimeSpan now) => host.HandleFrame(frame, now);

    public void HandleTimeout(TimeSpan now) => host.HandleTimeout(now);

    public void HandleRoomChanged(TimeSpan now) => host.HandleRoomChanged(now);

    public void HandleRevoked(MemoryBinding binding, TimeSpan now)
    {
        host.HandleRevoked(binding, now);
        Revoked?.Invoke(binding);
    }

    public bool PollTransmit(TimeSpan now, ref SuperFrame frame)
    {
        if (host.PollTransmit(now, ref frame))
        {
            return true;
        }

        while (host.Tcp.PollConnection(out TcpConnection? connection, out TcpEvents events))
        {
            (connection.Tag as DevmemConnection)?.HandleEvents(events);
        }

        while (host.Tcp.PollListener(out TcpListener? listener))
        {
            (listener.Tag as DevmemListener)?.HandleAcceptable();
        }

        return false;
    }
}
