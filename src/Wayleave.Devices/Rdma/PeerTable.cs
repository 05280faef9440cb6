using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>The sockets that queue pairs of a device are connected to. Port token held by the caller.</summary>
internal sealed class PeerTable(RdmaPort port)
{
    private readonly List<Peer> _peers = [];
    private bool _hasReadWaiters; // of any peer
    private int _next;

    /// <summary>How many peers have a queue pair here.</summary>
    public int Count => _peers.Count;

    public IReadOnlyList<PeerStatus> GetStatus() => [.. _peers.Select(p => p.Status)];

    /// <summary>The one whose turn it is to send; there is one.</summary>
    public Peer Next()
    {
        _next = _next + 1 < _peers.Count ? _next + 1 : 0;
        return _peers[_next];
    }

    /// <summary>
    /// The peer of an address behind a port, for one more queue pair; ends with <see cref="Leave"/>.
    /// </summary>
    public Peer Join(PortLink link, in AddressVector address)
    {
        // One socket there has one receive buffer, whichever of our ports leads to it.
        Peer? peer = null;
        DestinationWindow? window = null;
        foreach (Peer known in _peers)
        {
            if (known.Address == address)
            {
                window = known.Window;
                peer = ReferenceEquals(known.Link, link) ? known : peer;
            }
        }

        if (peer is null)
        {
            peer = new Peer(port.Options, link, address, window);
            _peers.Add(peer);
        }

        peer.QueuePairs++;
        return peer;
    }

    /// <summary>The socket at an address behind a port; null when nobody here sends there.</summary>
    public Peer? Find(PortLink link, Gid destination) =>
        _peers.Find(p => ReferenceEquals(p.Link, link) && p.Address.Destination == destination);

    /// <summary>One queue pair less; the last one takes the peer with it.</summary>
    public void Leave(Peer peer)
    {
        if (--peer.QueuePairs != 0)
        {
            return;
        }

        _peers.Remove(peer);
        foreach (QueuePair pair in port.QueuePairs)
        {
            if (pair.HasPeer && ReferenceEquals(pair.Peer, peer))
            {
                pair.HandlePeerGone();
            }
        }
    }

    /// <summary>A READ of this queue pair waits until responses that are on their way have come.</summary>
    public void AddReadWaiter(QueuePair pair)
    {
        _hasReadWaiters = true;
        pair.Peer.ReadWaiters.Add(pair);
    }

    /// <summary>
    /// Responses have come, or were given up: whoever waits for room looks again, whoever its peer is.
    /// </summary>
    public void WakeReadWaiters()
    {
        if (_hasReadWaiters)
        {
            _hasReadWaiters = false;
            foreach (Peer peer in _peers)
            {
                SendOrder.WakeReadWaiters(peer);
            }
        }
    }
}
