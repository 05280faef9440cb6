using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>What queue pairs cost, and what a device says of itself. By itself: it looks at the whole heap.</summary>
[CollectionDefinition(nameof(QueuePairMemoryTests), DisableParallelization = true)]
[Collection(nameof(QueuePairMemoryTests))]
public class QueuePairMemoryTests
{
    private const int Granted = 16;
    private const int Looks = 7;

    private static readonly QueuePairCapabilities s_small = new()
    {
        MaxSendWr = 1,
        MaxReceiveWr = 1,
        MaxSendSge = 1,
        MaxReceiveSge = 1,
        MaxInlineData = 0,
    };

    // What is left on the heap of a connection, and of one that has answered as many READs as it was granted.
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(Granted)]
    [InlineData(3 * Granted)]
    public void A_connected_queue_pair_takes_less_than_2_KiB_when_it_is_idle_whatever_it_has_answered(int reads)
    {
        // Without rings is what is left when the last entry costs as much as one more would. A READ that may be asked
        // for again is an entry too, of which there are as many as were granted.
        long all = BytesEach(reads, depth: 1, Granted);
        long requests = BytesEach(reads, depth: 2, Granted) - all;
        long remembered = reads < Granted ? 0 : BytesEach(2 * reads, depth: 1, 2 * Granted) - all;
        long each = all - requests - remembered;
        TestContext.Current.TestOutputHelper!.WriteLine(
            $"{each} bytes; {requests} for a request and a receive, {remembered} for what is remembered");
        Assert.True(each < 2048, $"{each} bytes");
        Assert.InRange(requests, 100, 200);
        Assert.InRange(remembered, 0, 32 * Granted);
    }

    // What other tests have left may end meanwhile, once or twice: the median of some looks does not know of it.
    private static long BytesEach(int reads, int depth, int granted) =>
        Enumerable.Range(0, Looks).Select(_ => LookAtBytesEach(reads, depth, granted)).Order().ElementAt(Looks / 2);

    private static long LookAtBytesEach(int reads, int depth, int granted)
    {
        const int Count = 256;
        TestNode node = new("10.77.0.1", 1);
        MemoryRegion region = node.Register(node.Allocate(4096));
        CompletionQueue completions = TestNode.CreateCompletionQueue();
        Connect(node, completions, region, reads, depth, granted); // warms the peer up, and what answers need
        QueuePair[] pairs = new QueuePair[Count];
        long before = HeapBytes();
        for (int i = 0; i < Count; i++)
        {
            pairs[i] = Connect(node, completions, region, reads, depth, granted);
        }

        long each = (HeapBytes() - before) / Count;
        Assert.All(pairs, pair => Assert.Equal(QueuePairState.ReadyToSend, pair.State));
        Assert.Equal(reads == 0 ? 0 : 1, node.Port.ResponsePool.FreeCount);
        return each;
    }

    // GetTotalMemory itself is content with a twentieth more or less of all that the process holds.
    private static long HeapBytes()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect();
        return GC.GetTotalMemory(forceFullCollection: false);
    }

    private static QueuePair Connect(
        TestNode node, CompletionQueue completions, MemoryRegion region, int reads, int depth, int granted)
    {
        Assert.True(Gid.TryParse("10.77.0.2", out Gid peer));
        QueuePairRequest request = new(
            node.Domain, completions, completions, s_small with { MaxSendWr = depth, MaxReceiveWr = depth });
        Assert.Equal(Errno.Success, node.Device.TryCreateQueuePair(request, out QueuePair? pair));
        QueuePairAttributes attributes = new Connection().Attributes with
        {
            AddressVector = new AddressVector(peer),
            DestQpNumber = 0x11,
            MaxRdAtomic = granted,
            MaxDestRdAtomic = granted,
        };
        new Connection { Attributes = attributes }.Apply(pair!);
        IcrcFlow flow = new(peer, node.Gid, 4791, 4791);
        byte[] buffer = new byte[65536];
        int answers = 0;
        for (uint i = 0; i < reads; i++)
        {
            byte[] packet = new RawPacket(Opcode.RcReadRequest, attributes.RqPsn + i)
            {
                DestQp = pair!.QpNumber,
                AckRequest = true,
                Reth = new Reth(region.Iova, region.Key, 8),
            }.Build(flow);
            node.Port.HandleDatagrams(peer, 4791, packet, packet.Length, 0, TimeSpan.FromSeconds(1));
            bool isLast = i % granted == granted - 1 || i == reads - 1;
            while (isLast && node.Port.PollTransmit(TimeSpan.FromSeconds(1), buffer, out Transmit transmit))
            {
                answers += transmit.LengthBytes / transmit.SegmentBytes;
            }
        }

        Assert.Equal(reads, answers);
        return pair!;
    }

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
        QueuePairRequest request = new(node.Domain, completions, completions, s_small) { Type = type };
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
