using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
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
        { "late completions", new FaultOptions { CompletionDelay = TimeSpan.FromMilliseconds(1) } },
        { "hostile but legal", FaultOptions.HostileButLegal(3) },
        { "loss of what leaves", new FaultOptions { LossPerMille = 500, Directions = FaultDirections.Departing } },
        {
            "all of it, both ways",
            FaultOptions.HostileButLegal(4) with { CorruptionPerMille = 20, Directions = FaultDirections.Both }
        },
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
        Assert.True(
            signs > 0 || faults.Delay > TimeSpan.Zero || faults.CompletionDelay > TimeSpan.Zero, "nothing happened");
    }

    [Theory]
    [InlineData(1UL)]
    [InlineData(2UL)]
    [InlineData(3UL)]
    public void Mixed_requests_survive_loss_and_disorder_and_duplicates_both_ways(ulong seed)
    {
        FaultOptions faults = new()
        {
            Seed = seed,
            LossPerMille = 10,
            ReorderingPerMille = 50,
            DuplicationPerMille = 50,
            Directions = FaultDirections.Both,
        };
        (string outcome, TestLink link) = Play(faults);
        Assert.Equal("all there", outcome);
        Assert.True(link.A.Port.Stats.Retransmits > 0, "nothing happened");
    }

    [Fact]
    public void Completions_come_late_and_in_order()
    {
        FaultOptions faults = new() { CompletionDelay = TimeSpan.FromMilliseconds(5) };
        TestLink link = new(o => o with { Faults = faults }, o => o);
        (QueuePair a, _) = link.Connect();
        TestMemory source = link.A.Allocate(4096), target = link.B.Allocate(4096);
        MemoryRegion from = link.A.Register(source), to = link.B.Register(target);
        for (uint i = 0; i < 10; i++)
        {
            SendWorkRequest request = new()
            {
                WrId = i,
                Flags = SendFlags.Signaled,
                RemoteAddress = to.Iova,
                RKey = to.Key,
            };
            Assert.Equal(Errno.Success, a.PostSend(request, new Sge(from.Iova, 8, from.Key)));
        }

        link.RunFor(TimeSpan.FromMilliseconds(4));
        Assert.Empty(TestNode.Poll(a.SendCompletionQueue));
        link.RunFor(TimeSpan.FromMilliseconds(4));
        Assert.Equal(Enumerable.Range(0, 10).Select(i => (ulong)i),
            TestNode.Poll(a.SendCompletionQueue).Select(c => c.WrId));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(4096)]
    [InlineData(10_000)]
    public void A_key_that_is_dead_from_a_byte_on_is_refused_there_and_no_byte_behind_it_is_placed(
        long revokeAt)
    {
        TestLink link = new(o => o, o => o with { Faults = new FaultOptions { RevokeAtByte = revokeAt } });
        (QueuePair a, QueuePair b) = link.Connect();
        TestMemory source = link.A.Allocate(1 << 16), target = link.B.Allocate(1 << 16);
        source.FillPattern(0, 20_000, 0x21);
        MemoryRegion from = link.A.Register(source), to = link.B.Register(target);
        SendWorkRequest write = new() { Flags = SendFlags.Signaled, RemoteAddress = to.Iova, RKey = to.Key };
        Assert.Equal(Errno.Success, a.PostSend(write, new Sge(from.Iova, 20_000, from.Key)));
        link.RunFor(TimeSpan.FromSeconds(5));
        WorkCompletion completion = Assert.Single(TestNode.Poll(a.SendCompletionQueue));
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, completion.Status);
        Assert.Equal(QueuePairState.Error, b.State);
        int packet = 128 << (int)b.Attributes.PathMtu;
        int placed = (int)revokeAt / packet * packet;
        Assert.Equal(source.Read(0, placed), target.Read(0, placed));
        Assert.Equal(-1, target.Read(placed, 20_000 - placed).AsSpan().IndexOfAnyExcept((byte)0));
    }

    [Fact]
    public void A_queue_pair_fails_at_a_packet_of_its_life()
    {
        TestLink link = new(o => o, o => o with { Faults = new FaultOptions { FailAtPacket = 2 } });
        (QueuePair a, QueuePair b) = link.Connect();
        MemoryRegion from = link.A.Register(link.A.Allocate(4096)), to = link.B.Register(link.B.Allocate(4096));
        SendWorkRequest write = new() { Flags = SendFlags.Signaled, RemoteAddress = to.Iova, RKey = to.Key };
        for (int i = 0; i < 4; i++)
        {
            Assert.Equal(Errno.Success, a.PostSend(write, new Sge(from.Iova, 8, from.Key)));
        }

        link.RunFor(TimeSpan.FromSeconds(5));
        Assert.Equal(
            [
                WorkCompletionStatus.Success, WorkCompletionStatus.Success, WorkCompletionStatus.RemoteOperationError,
                WorkCompletionStatus.WorkRequestFlushed,
            ],
            TestNode.Poll(a.SendCompletionQueue).Select(c => c.Status));
        Assert.Equal(QueuePairState.Error, b.State);
    }

    // On every packet that carries an AETH: ACK, READ response, atomic acknowledgement.
    [Theory]
    [InlineData(true, Aeth.AckWithoutCredit)]
    [InlineData(false, Aeth.AckUnlimited)]
    public void Answers_offer_no_credit_when_they_are_told_to_and_say_that_nobody_counts_otherwise(
        bool offersNone, byte expected)
    {
        TestLink link = new(o => o, o => o with { Faults = new FaultOptions { OffersNoCredits = offersNone } });
        Func<QueuePairAttributes, QueuePairAttributes> mayAll = a =>
            a with { AccessFlags = a.AccessFlags | AccessFlags.RemoteAtomic };
        (QueuePair a, _) = link.Connect(mayAll, mayAll);
        const AccessFlags All = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead
            | AccessFlags.RemoteAtomic;
        MemoryRegion from = link.A.Register(link.A.Allocate(8192), All);
        MemoryRegion to = link.B.Register(link.B.Allocate(8192), All);
        SortedSet<Opcode> kinds = [];
        link.Filter = (sender, bytes) =>
        {
            Assert.Equal(DropReason.None, PacketView.TryParse(bytes.Span, out PacketView packet));
            if (ReferenceEquals(sender, link.B) && packet.Traits.Has(ExtensionHeaders.Aeth))
            {
                Assert.Equal(expected, packet.Aeth.Syndrome);
                kinds.Add(packet.Opcode);
            }

            return true;
        };
        (WorkRequestOpcode, uint)[] requests =
        [
            (WorkRequestOpcode.RdmaWrite, 8), (WorkRequestOpcode.RdmaRead, 4096), (WorkRequestOpcode.AtomicFetchAdd, 8),
        ];
        foreach ((WorkRequestOpcode opcode, uint length) in requests)
        {
            SendWorkRequest request = new()
            {
                Opcode = opcode,
                Flags = SendFlags.Signaled,
                RemoteAddress = to.Iova,
                RKey = to.Key,
            };
            Assert.Equal(Errno.Success, a.PostSend(request, new Sge(from.Iova, length, from.Key)));
            link.Run();
        }

        Assert.All(TestNode.Poll(a.SendCompletionQueue), c => Assert.Equal(WorkCompletionStatus.Success, c.Status));
        Assert.Equal(
            [
                Opcode.RcReadResponseFirst, Opcode.RcReadResponseLast, Opcode.RcAcknowledge,
                Opcode.RcAtomicAcknowledge,
            ],
            kinds);
    }

    [Fact]
    public void A_peer_that_dies_is_given_up_after_all_retries()
    {
        TestLink link = new(o => o, o => o with { Faults = new FaultOptions { DeathAfterPackets = 1 } });
        (QueuePair a, _) = link.Connect();
        MemoryRegion from = link.A.Register(link.A.Allocate(4096)), to = link.B.Register(link.B.Allocate(4096));
        SendWorkRequest write = new() { Flags = SendFlags.Signaled, RemoteAddress = to.Iova, RKey = to.Key };
        Assert.Equal(Errno.Success, a.PostSend(write, new Sge(from.Iova, 8, from.Key)));
        link.RunFor(TimeSpan.FromMilliseconds(1));
        long sent = link.B.Port.Stats.PacketsSent;
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(a.SendCompletionQueue)).Status);
        Assert.Equal(Errno.Success, a.PostSend(write, new Sge(from.Iova, 8, from.Key)));
        link.RunFor(TimeSpan.FromMinutes(5));
        Assert.Equal(
            WorkCompletionStatus.RetryExceeded, Assert.Single(TestNode.Poll(a.SendCompletionQueue)).Status);
        Assert.Equal(sent, link.B.Port.Stats.PacketsSent);
    }

    [Fact]
    public void What_is_held_back_does_not_arrive_after_the_death()
    {
        FaultOptions faults = new() { Delay = TimeSpan.FromMilliseconds(10), DeathAfterPackets = 1 };
        Assert.Equal(0, WriteOne(faults, TimeSpan.FromMilliseconds(40)));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1000)]
    public void A_delay_holds_for_every_copy(int duplicationPerMille)
    {
        FaultOptions faults = new()
        {
            Delay = TimeSpan.FromMilliseconds(10),
            DuplicationPerMille = duplicationPerMille,
        };
        Assert.Equal(0, WriteOne(faults, TimeSpan.FromMilliseconds(9)));
        Assert.Equal(0xA5, WriteOne(faults, TimeSpan.FromMilliseconds(10)));
    }

    // What a foreign receiver, which sees the identification, checks.
    [Theory]
    [InlineData("10.77.0.1", "10.77.0.2")]
    [InlineData("fd00::1", "fd00::2")]
    public void ROCE_07_What_leaves_has_the_ICRC_of_its_place_whatever_became_of_the_others(string from, string to)
    {
        FaultOptions faults = new()
        {
            Delay = TimeSpan.FromMicroseconds(20),
            LossPerMille = 200,
            DuplicationPerMille = 200,
            ReorderingPerMille = 200,
            Directions = FaultDirections.Departing,
        };
        foreach (FaultOptions each in (FaultOptions[])[faults, faults with { Delay = TimeSpan.Zero }])
        {
            TestLink link = new(o => o with { Faults = each }, null, from, to);
            (QueuePair a, _) = link.Connect();
            MemoryRegion source = link.A.Register(link.A.Allocate(1 << 16));
            MemoryRegion target = link.B.Register(link.B.Allocate(1 << 16));
            SendWorkRequest write = new() { RemoteAddress = target.Iova, RKey = target.Key };
            Assert.Equal(Errno.Success, a.PostSend(write, new Sge(source.Iova, 60_000, source.Key)));
            IcrcFlow flow = new(link.A.Gid, link.B.Gid, link.A.Port.Links[0].UdpPort, link.B.Port.Links[0].UdpPort);
            int together = 0, alone = 0;
            byte[] buffer = new byte[65_536];
            for (TimeSpan now = link.Now; now < link.Now + TimeSpan.FromSeconds(1); now += TimeSpan.FromMilliseconds(1))
            {
                link.A.Port.HandleTimeout(now);
                while (link.A.Port.PollTransmit(now, buffer, out Transmit transmit))
                {
                    ushort place = 0;
                    for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes, place++)
                    {
                        int length = Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at);
                        Assert.True(Icrc.Verify(flow, place, buffer.AsSpan(at, length)), $"place {place}");
                    }

                    (together, alone) = place > 1 ? (together + 1, alone) : (together, alone + 1);
                }
            }

            Assert.True(
                (together > 0 || each.Delay > TimeSpan.Zero) && alone > 0, $"{together} together, {alone} alone");
        }
    }

    [Fact]
    public void A_region_that_must_be_mapped_waits_for_its_time()
    {
        FaultOptions faults = new() { MapLatency = TimeSpan.FromMilliseconds(5) };
        TestLink link = new(o => o, o => o with { Faults = faults });
        (QueuePair a, _) = link.Connect();
        TestMemory target = link.B.Allocate(4096);
        MemoryRegion from = link.A.Register(link.A.Allocate(4096)), to = link.B.Register(target);
        SendWorkRequest write = new() { Flags = SendFlags.Signaled, RemoteAddress = to.Iova, RKey = to.Key };
        target.Move();
        Assert.Equal(Errno.Success, a.PostSend(write, new Sge(from.Iova, 8, from.Key)));
        link.RunFor(TimeSpan.FromMilliseconds(4));
        Assert.Equal(0, link.B.ServeFaults());
        link.RunFor(TimeSpan.FromMilliseconds(2));
        Assert.Equal(1, link.B.ServeFaults());
        link.RunFor(TimeSpan.FromMilliseconds(2));
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(a.SendCompletionQueue)).Status);
    }

    [Theory]
    [InlineData("loss=1%,reorder=5%,duplicate=5%,seed=7", "10 50 50 7 Both")]
    [InlineData("loss=0.5%,path=out", "5 0 0 1 Departing")]
    [InlineData("seed=3,hostile,loss=0%", "0 50 50 3 Both")]
    public void Faults_are_read_from_text(string text, string expected)
    {
        Assert.True(FaultOptions.TryParse(text, out FaultOptions f, out string problem), problem);
        Assert.Equal(
            expected, $"{f.LossPerMille} {f.ReorderingPerMille} {f.DuplicationPerMille} {f.Seed} {f.Directions}");
    }

    [Fact]
    public void Every_fault_has_a_word()
    {
        Assert.True(
            FaultOptions.TryParse(
                "corrupt=2%,hold=1ms,delay=10us,rnr=33%,rnr-burst=3,no-credits,map-latency=2ms,late=0.5ms,"
                + "revoke-at=65536,fail-at=9,die-after=100,path=in",
                out FaultOptions faults,
                out _));
        Assert.Equal(
            new FaultOptions
            {
                CorruptionPerMille = 20,
                HoldTime = TimeSpan.FromMilliseconds(1),
                Delay = TimeSpan.FromMicroseconds(10),
                NotReadyPerMille = 330,
                NotReadyBurst = 3,
                OffersNoCredits = true,
                MapLatency = TimeSpan.FromMilliseconds(2),
                CompletionDelay = TimeSpan.FromMicroseconds(500),
                RevokeAtByte = 65536,
                FailAtPacket = 9,
                DeathAfterPackets = 100,
            },
            faults);
    }

    [Theory]
    [InlineData("")]
    [InlineData("loss")]
    [InlineData("loss=1")]
    [InlineData("loss=101%")]
    [InlineData("loss=-1%")]
    [InlineData("loss=0.05%")]
    [InlineData("hostile=1")]
    [InlineData("delay=5")]
    [InlineData("delay=-5ms")]
    [InlineData("delay=1000s")]
    [InlineData("rnr-burst=0")]
    [InlineData("fail-at=16777216")]
    [InlineData("path=up")]
    [InlineData("loss=1%,")]
    public void Text_that_is_no_fault_is_refused(string text)
    {
        Assert.False(FaultOptions.TryParse(text, out _, out string problem));
        Assert.NotEqual("", problem);
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

    // What is in the target, whose port has the faults, after so long.
    private static byte WriteOne(FaultOptions faults, TimeSpan after)
    {
        TestLink link = new(o => o, o => o with { Faults = faults });
        (QueuePair a, _) = link.Connect();
        TestMemory source = link.A.Allocate(4096), target = link.B.Allocate(4096);
        source.FillPattern(0, 1, 0xA5);
        MemoryRegion from = link.A.Register(source), to = link.B.Register(target);
        for (uint i = 0; i < 2; i++)
        {
            SendWorkRequest write = new() { RemoteAddress = to.Iova + i, RKey = to.Key };
            Assert.Equal(Errno.Success, a.PostSend(write, new Sge(from.Iova, 1, from.Key)));
        }

        link.RunFor(after);
        return target.Read(0, 1)[0];
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
