using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Faults that a port inflicts on itself, and what runs over it all the same.</summary>
public class FaultInjectionTests
{
    private const int Messages = 60;
    private const int Length = 3000;

    public static TheoryData<string, FaultOptions> Faults => new()
    {
        { "loss", new FaultOptions { LossPerMille = 100 } },
        { "duplication", new FaultOptions { DuplicationPerMille = 300 } },
        { "corruption", new FaultOptions { CorruptionPerMille = 100 } },
        { "reordering", new FaultOptions { ReorderingPerMille = 200 } },
        { "delay", new FaultOptions { Delay = TimeSpan.FromMicroseconds(30) } },
        { "not ready", new FaultOptions { NotReadyPerMille = 500, NotReadyBurst = 3 } },
        { "hostile but legal", FaultOptions.HostileButLegal(3) },
    };

    [Theory]
    [MemberData(nameof(Faults))]
    public void SENDs_and_WRITEs_survive_every_fault(string name, FaultOptions faults)
    {
        Assert.NotNull(name);
        (string outcome, TestLink link) = Play(faults);
        Assert.Equal("all there", outcome);
        RdmaStats stats = link.B.Port.Stats;
        long signs = stats.PacketsReceived - link.A.Port.Stats.PacketsSent + stats.PacketsDropped
            + stats.RnrNaksSent + stats.NaksPsnSequenceSent + link.A.Port.Stats.Retransmits;
        Assert.True(signs > 0 || faults.Delay > TimeSpan.Zero, "nothing happened");
    }

    [Fact]
    public void The_same_seed_makes_the_same_faults()
    {
        FaultOptions faults = FaultOptions.HostileButLegal(9);
        Assert.Equal(Play(faults).Link.Log, Play(faults).Link.Log);
        Assert.NotEqual(Play(faults).Link.Log, Play(faults with { Seed = 10 }).Link.Log);
    }

    [Fact]
    public void A_queue_pair_fails_at_the_PSN_that_it_was_told_to()
    {
        Conversation c = new();
        c.Pair.FailAtPsn = Conversation.First + 1;
        c.SendWrite(Conversation.First, 0, [1, 2, 3, 4]);
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        c.SendWrite(Conversation.First + 1, 4, [5, 6, 7, 8]);
        c.Expect("RC_ACKNOWLEDGE a00001 63 msn=1");
        c.ExpectState(QueuePairState.Error);
        Assert.Equal([1, 2, 3, 4, 0, 0, 0, 0], c.Memory.Read(0, 8));
    }

    [Fact]
    public void Options_out_of_range_are_refused_by_name()
    {
        RdmaDeviceOptions options = new() { Faults = new FaultOptions { LossPerMille = 1001, NotReadyBurst = 0 } };
        ArgumentException refused = Assert.Throws<ArgumentException>(options.Validate);
        Assert.Contains("LossPerMille must be 0 to 1000, not 1001", refused.Message, StringComparison.Ordinal);
        Assert.Contains("a burst is at least 1", refused.Message, StringComparison.Ordinal);
    }

    private static (string Outcome, TestLink Link) Play(FaultOptions faults)
    {
        TestLink link = new(o => o, o => o with { Faults = faults });
        (QueuePair a, QueuePair b) = link.Connect();
        TestMemory source = link.A.Allocate(1 << 18);
        TestMemory target = link.B.Allocate(1 << 18);
        source.FillPattern(0, Messages * Length, 0x21);
        MemoryRegion from = link.A.Register(source);
        MemoryRegion to = link.B.Register(target);
        for (uint i = 0; i < Messages; i++)
        {
            bool isSend = i % 2 == 0;
            Sge there = new(to.Iova + i * Length, Length, to.Key);
            if (isSend)
            {
                Assert.Equal(Errno.Success, b.PostReceive(new ReceiveWorkRequest(i), there));
            }

            SendWorkRequest request = new()
            {
                WrId = i,
                Opcode = isSend ? WorkRequestOpcode.Send : WorkRequestOpcode.RdmaWrite,
                Flags = SendFlags.Signaled,
                RemoteAddress = there.Address,
                RKey = to.Key,
            };
            Assert.Equal(Errno.Success, a.PostSend(request, new Sge(from.Iova + i * Length, Length, from.Key)));
        }

        link.RunFor(TimeSpan.FromSeconds(60));
        List<WorkCompletion> sent = TestNode.Poll(a.SendCompletionQueue);
        List<WorkCompletion> received = TestNode.Poll(b.ReceiveCompletionQueue);
        bool isWhole = sent.Count == Messages && sent.All(c => c.Status == WorkCompletionStatus.Success)
            && received.Count == Messages / 2 && received.All(c => c.ByteLength == Length)
            && source.Read(0, Messages * Length).AsSpan().SequenceEqual(target.Read(0, Messages * Length));
        return (isWhole ? "all there" : $"{sent.Count} sent, {received.Count} received", link);
    }
}
