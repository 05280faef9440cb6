using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>What queue pairs cost, and what a device says of itself.</summary>
public class QueuePairMemoryTests
{
    [Theory]
    [InlineData(QueuePairType.ReliableConnection)]
    [InlineData(QueuePairType.UnreliableConnection)]
    [InlineData(QueuePairType.UnreliableDatagram)]
    public void An_idle_queue_pair_takes_less_than_2_KiB_besides_its_rings(QueuePairType type)
    {
        const int Count = 200;
        TestNode node = new("10.77.0.1", 1);
        CompletionQueue completions = TestNode.CreateCompletionQueue();
        QueuePairCapabilities capabilities = new()
        {
            MaxSendWr = 1,
            MaxReceiveWr = 1,
            MaxSendSge = 1,
            MaxReceiveSge = 1,
            MaxInlineData = 0,
        };
        node.CreatePair(type, completions, capabilities: capabilities); // the first one warms tables up
        QueuePair[] pairs = new QueuePair[Count];
        long before = GC.GetAllocatedBytesForCurrentThread();
        _ = new SendQueue(type, capabilities, 1u << 31, SendFlags.None);
        _ = new ReceiveQueue(maxWr: 1, maxSge: 1, shared: null);
        long rings = GC.GetAllocatedBytesForCurrentThread() - before;
        before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < Count; i++)
        {
            pairs[i] = node.CreatePair(type, completions, capabilities: capabilities);
        }

        long each = (GC.GetAllocatedBytesForCurrentThread() - before) / Count - rings;
        Assert.True(each < 2048, $"{each} bytes besides {rings} of its rings");
        Assert.Equal(Count, pairs.Distinct().Count());
    }

    [Fact]
    public void A_port_says_what_it_is()
    {
        TestNode node = new("10.77.0.1", 1);
        Assert.Equal(
            new PortAttributes(PathMtu.Mtu4096, node.Gid, 1, Bth.DefaultPKey, 1u << 31, false), node.Port.Query());
        _ = new Devices.Rdma.Connections.ConnectionManager(node.Device);
        Assert.True(node.Port.Query().HasConnectionManager);
        Assert.Equal(RdmaDevice.MaxRdAtomic, DeviceAttributes.Instance.MaxRdAtomic);
    }
}
