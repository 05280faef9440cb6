using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>What a port keeps about the sockets at the other end.</summary>
public class PeerTests
{
    [Fact]
    public void A_peer_is_forgotten_with_its_last_queue_pair()
    {
        TestNode node = new("192.0.2.1", seed: 1);
        QueuePair first = Connect(node, "192.0.2.2"), second = Connect(node, "192.0.2.2");
        Assert.Equal(1, node.Port.Peers.Count);
        node.Device.DestroyQueuePair(first);
        Assert.Equal(1, node.Port.Peers.Count);
        node.Device.DestroyQueuePair(second);
        Assert.Equal(0, node.Port.Peers.Count);
        for (int i = 0; i < 100; i++)
        {
            node.Device.DestroyQueuePair(Connect(node, $"192.0.2.{i + 2}"));
        }

        Assert.Equal(0, node.Port.Peers.Count);
    }

    [Fact]
    public void A_drained_queue_pair_that_changes_its_peer_sends_to_the_new_one_and_leaves_the_old()
    {
        TestLink link = new();
        (QueuePair a, _) = link.Connect();
        MemoryRegion local = link.A.Register(link.A.Allocate(1 << 16));
        MemoryRegion remote = link.B.Register(link.B.Allocate(1 << 16));
        SendWorkRequest write = new()
        {
            WrId = 1,
            Opcode = WorkRequestOpcode.RdmaWrite,
            RemoteAddress = remote.Iova,
            RKey = remote.Key,
        };
        Assert.Equal(Errno.Success, a.PostSend(write, new Sge(local.Iova, 8, local.Key)));
        Assert.Equal(link.B.Gid, Poll(link.A)); // lost
        Peer old = a.Peer;
        Modify(a, new QueuePairAttributes { State = QueuePairState.SendQueueDrained }, QueuePairAttributeMask.State);
        Assert.True(Gid.TryParse("192.0.2.99", out Gid other));
        QueuePairAttributes moved = new()
        {
            State = QueuePairState.SendQueueDrained,
            AddressVector = new AddressVector(other),
        };
        const QueuePairAttributeMask Path = QueuePairAttributeMask.State | QueuePairAttributeMask.AddressVector;
        Assert.Equal(Errno.EINVAL, a.Modify(moved, Path));
        Assert.True(a.IsDraining);
        Assert.NotEqual(0, old.Window.InFlightBytes);
        link.RunFor(TimeSpan.FromSeconds(2)); // sent again, and answered
        Modify(a, moved, Path);
        Assert.Equal((0, 1), (old.Window.InFlightBytes, link.A.Port.Peers.Count));
        Modify(a, new QueuePairAttributes { State = QueuePairState.ReadyToSend }, QueuePairAttributeMask.State);
        Assert.Equal(Errno.Success, a.PostSend(write, new Sge(local.Iova, 8, local.Key)));
        Assert.Equal(other, Poll(link.A));
        Assert.NotEqual(0, a.Peer.Window.InFlightBytes);
    }

    private static QueuePair Connect(TestNode node, string peer)
    {
        Assert.True(Gid.TryParse(peer, out Gid gid));
        QueuePair pair = node.CreatePair();
        QueuePairAttributes attributes = new Connection().Attributes with
        {
            AddressVector = new AddressVector(gid),
            DestQpNumber = 17,
        };
        new Connection { Attributes = attributes }.Apply(pair);
        return pair;
    }

    private static void Modify(QueuePair pair, QueuePairAttributes attributes, QueuePairAttributeMask mask) =>
        Assert.Equal(Errno.Success, pair.Modify(attributes, mask));

    private static Gid Poll(TestNode node)
    {
        Assert.True(node.Port.PollTransmit(TimeSpan.FromSeconds(1), new byte[65536], out Transmit transmit));
        return transmit.Destination;
    }
}
