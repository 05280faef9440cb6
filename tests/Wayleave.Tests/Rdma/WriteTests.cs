using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>RDMA WRITE between two ports.</summary>
public class WriteTests
{
    [Fact]
    public void ROCE_10_A_message_of_3500_bytes_is_First_Middle_Middle_Last_with_AckReq_on_the_Last()
    {
        TestLink link = new();
        (QueuePair a, QueuePair b) = link.Connect();
        TestMemory source = link.A.Allocate(1 << 20), target = link.B.Allocate(1 << 20);
        MemoryRegion local = link.A.Register(source), remote = link.B.Register(target);
        source.FillPattern(0, 3500, 0x11);

        Assert.Equal(Errno.Success, a.PostSend(
            new SendWorkRequest
            {
                WrId = 7,
                Opcode = WorkRequestOpcode.RdmaWrite,
                Flags = SendFlags.Signaled,
                RemoteAddress = remote.Iova + 0x100,
                RKey = remote.Key,
            },
            new Sge(local.Iova, 3500, local.Key)));
        link.Run();

        Assert.Equal(
            [
                "A RC_WRITE_FIRST a00000",
                "A RC_WRITE_MIDDLE a00001",
                "A RC_WRITE_MIDDLE a00002",
                "A RC_WRITE_LAST a00003 A",
                "B RC_ACKNOWLEDGE a00003 1f msn=1",
            ],
            link.Log);
        Assert.Equal(TestMemory.Pattern(3500, 0x11), target.Read(0x100, 3500));
        WorkCompletion completion = Assert.Single(TestNode.Poll(a.SendCompletionQueue));
        Assert.Equal(
            (7ul, WorkCompletionStatus.Success, WorkCompletionOpcode.RdmaWrite),
            (completion.WrId, completion.Status, completion.Opcode));
        Assert.Empty(TestNode.Poll(b.ReceiveCompletionQueue));
        Assert.Equal(3500, link.B.Port.Stats.BytesPlaced);
    }

    [Fact]
    public void The_processor_is_told_of_the_next_packet_in_cold_memory_and_never_of_what_is_behind_its_end()
    {
        List<int> told = [];
        TestLink link = new(configureB: o => o with { CachedBytes = 0, WillWrite = bytes => told.Add(bytes.Length) });
        (QueuePair a, _) = link.Connect();
        TestMemory source = link.A.Allocate(1 << 20), target = link.B.Allocate(1 << 20);
        MemoryRegion local = link.A.Register(source), remote = link.B.Register(target);

        Assert.Equal(Errno.Success, a.PostSend(
            new SendWorkRequest
            {
                Opcode = WorkRequestOpcode.RdmaWrite,
                RemoteAddress = remote.Iova,
                RKey = remote.Key,
            },
            new Sge(local.Iova, 3500, local.Key)));
        link.Run();

        Assert.Equal([1024, 1024, 428], told);
        Assert.Equal(3500, link.B.Port.Stats.BytesPlaced);
        Assert.Equal(3500, Enum.GetValues<PeerRoute>().Sum(link.B.Port.Dma.BytesWritten));
    }
}
