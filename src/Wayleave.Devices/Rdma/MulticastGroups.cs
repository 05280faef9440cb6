using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Which queue pairs are attached to which multicast group, by port (IBTA 10.5). Knows nothing of sockets: it says when
/// the first came and the last went. Port token held by the caller.
/// </summary>
public sealed class MulticastGroups
{
    private readonly RdmaPort _port;

    // Small arrays that are replaced: who walks over one in a delivery keeps it, whatever happens meanwhile.
    private readonly Dictionary<(int Port, Gid Group), QueuePair[]> _groups = [];

    internal MulticastGroups(RdmaPort port) => _port = port;

    /// <summary>Who gets what came there, in the order in which they were attached; often nobody.</summary>
    internal ReadOnlySpan<QueuePair> Find(PortLink link, Gid group) =>
        _groups.TryGetValue((link.Number, group), out QueuePair[]? attached) ? attached : default;

    /// <summary>
    /// Lets a queue pair get what is sent to a group (<c>ibv_attach_mcast</c>) at the port that it is on: each that is
    /// attached gets a copy of what has its Q_Key, its own datagrams included. Attaching twice is fine.
    /// </summary>
    /// <param name="pair">Of datagrams; it stays attached until it is detached, whatever its state.</param>
    /// <param name="group">Of the port's address family.</param>
    /// <param name="port">At which port: that of the queue pair, which is known from INIT on.</param>
    /// <param name="joins">
    /// Nobody at the port was attached to it before: the edge opens a socket for it, and detaches where it cannot.
    /// </param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for another type of queue pair, or a GID that names no group of the port's family;
    /// <see cref="Errno.ENOMEM"/> beyond <see cref="RdmaDeviceOptions.MulticastGroupsMax"/> or
    /// <see cref="RdmaDeviceOptions.MulticastPairsMax"/>. Then nothing changed.
    /// </returns>
    public Errno TryAttach(QueuePair pair, Gid group, out int port, out bool joins)
    {
        _port.AssertHeld();
        port = pair.PortLink.Number;
        joins = false;
        bool fits = pair.Type == QueuePairType.UnreliableDatagram
            && group.IsMulticast
            && group.IsIPv4 == pair.PortLink.Gid.IsIPv4;
        if (!fits)
        {
            return Errno.EINVAL;
        }

        (int, Gid) key = (pair.PortLink.Number, group);
        bool exists = _groups.TryGetValue(key, out QueuePair[]? attached);
        if (exists && Array.IndexOf(attached!, pair) >= 0)
        {
            return Errno.Success;
        }

        if ((!exists && _groups.Count >= _port.Options.MulticastGroupsMax)
            || (attached?.Length ?? 0) >= _port.Options.MulticastPairsMax)
        {
            return Errno.ENOMEM;
        }

        _groups[key] = [.. attached ?? [], pair];
        pair.GroupCount++;
        joins = !exists;
        return Errno.Success;
    }

    /// <summary>Ends that (<c>ibv_detach_mcast</c>): nothing more comes from the group.</summary>
    /// <param name="pair">Attached.</param>
    /// <param name="group">As it was attached to.</param>
    /// <param name="port">At which port it was.</param>
    /// <param name="leaves">Nobody at the port is attached to it any more: the edge closes its socket.</param>
    /// <returns><see cref="Errno.EINVAL"/> when it is not attached.</returns>
    public Errno TryDetach(QueuePair pair, Gid group, out int port, out bool leaves)
    {
        _port.AssertHeld();
        leaves = false;
        foreach (PortLink link in _port.Links)
        {
            (int Port, Gid) key = (port = link.Number, group);
            if (_groups.TryGetValue(key, out QueuePair[]? attached) && Array.IndexOf(attached, pair) >= 0)
            {
                pair.GroupCount--;
                leaves = attached.Length == 1;
                if (leaves)
                {
                    _groups.Remove(key);
                }
                else if (_port.Options.Defences.ForgetsDetached)
                {
                    _groups[key] = [.. attached.Where(p => p != pair)];
                }

                return Errno.Success;
            }
        }

        port = 0;
        return Errno.EINVAL;
    }
}
