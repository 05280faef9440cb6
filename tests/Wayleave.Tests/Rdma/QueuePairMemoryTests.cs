using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>What queue pairs cost, and what a device says of itself.</summary>
public class QueuePairMemoryTests
{
    // Assertions allocate too, twice as much before they are compiled a second time: none stands between the looks.
    [Theory]
    [InlineData(QueuePairType.ReliableConnection)]
    [InlineData(QueuePairType.UnreliableConnection)]
    [InlineData(QueuePairType.UnreliableDatagram)]
    public void An_idle_queue_pair_takes_less_than_2_KiB_with_its_rings(QueuePairType type)
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
        QueuePairRequest request = new(node.Domain, completions, completions, capabilities) { Type = type };
        Assert.Equal(Errno.Success, node.Device.TryCreateQueuePair(request, out _)); // warms tables up
        QueuePair?[] pairs = new QueuePair?[Count];
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < Count; i++)
        {
            _ = node.Device.TryCreateQueuePair(request, out pairs[i]); // null unless it succeeds
        }

        long each = (GC.GetAllocatedBytesForCurrentThread() - before) / Count;
        Assert.DoesNotContain(null, pairs);
        Assert.Equal(Count, pairs.Distinct().Count());
        Assert.True(each < 2048, $"{each} bytes");
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
