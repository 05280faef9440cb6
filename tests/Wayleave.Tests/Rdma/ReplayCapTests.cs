using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;
using static Wayleave.Tests.Rdma.Conversation;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// Somebody who has seen a READ asks for it again in its sender's name (roce.md A15): 60 bytes, and the answer is as
/// long as the READ was.
/// </summary>
public class ReplayCapTests
{
    private const int Packets = MemoryBytes / Mtu;
    private const int WindowPackets = 16;
    private static readonly TimeSpan s_interval = TimeSpan.FromMilliseconds(10);

    private readonly byte[] _buffer = GC.AllocateArray<byte>(65536, pinned: true);

    [Fact]
    public void A_READ_asked_for_again_a_thousand_times_is_sent_a_few_times()
    {
        Assert.InRange(AnswersToAThousand(ResponderDefences.All, out long capped), Packets, MostAtOnce);
        Assert.InRange(capped, 900, 1000);
    }

    [Fact]
    public void Without_the_cap_it_is_sent_a_thousand_times()
    {
        Assert.Equal(1000 * Packets, AnswersToAThousand(new ResponderDefences { CapsReplays = false }, out _));
    }

    [Fact]
    public void An_answer_under_way_is_not_begun_again_for_ever()
    {
        Assert.InRange(AnswersUnderWay(ResponderDefences.All), Packets, Packets + MostAtOnce);
    }

    [Fact]
    public void Without_the_cap_an_answer_under_way_never_ends()
    {
        Assert.InRange(
            AnswersUnderWay(new ResponderDefences { CapsReplays = false }), 2 * MostAtOnce, int.MaxValue);
    }

    [Fact]
    public void A_round_trip_later_another_window_is_sent_and_the_peer_gets_on_from_there()
    {
        Conversation c = Talk(ResponderDefences.All);
        Spend(c);
        int have = 0;
        while (have < Packets)
        {
            c.Wait(s_interval);
            c.SendRead(First + (uint)have, (ulong)(have * Mtu), (uint)((Packets - have) * Mtu));
            List<uint> psns = Drain(c);
            Assert.Equal(Enumerable.Range(0, WindowPackets).Select(i => First + (uint)(have + i)), psns);
            have += psns.Count;
        }

        c.ExpectState(QueuePairState.ReadyToSend);
    }

    // Wherever in the READ he asks from, before the peer or behind it.
    [Theory]
    [InlineData(0)]
    [InlineData(10)]
    [InlineData(20)]
    [InlineData(30)]
    [InlineData(40)]
    [InlineData(63)]
    public void Somebody_who_forges_one_packet_a_round_trip_does_not_keep_the_peer_from_getting_on(int from) =>
        Assert.Equal(Packets, GotOn(ResponderDefences.All, from));

    [Fact]
    public void Without_the_reserve_one_packet_a_round_trip_is_enough() =>
        Assert.Equal(20, GotOn(new ResponderDefences { KeepsReplayReserve = false }, 0));

    // A queue pair that is reset begins anew, whoever took what before.
    [Fact]
    public void Nothing_of_before_is_left_after_a_reset()
    {
        ReplayAllowance allowance = new(s_interval, WindowPackets, WindowPackets / 2);
        ReplayBudget budget = default;
        budget.Reset(TimeSpan.Zero, allowance);
        Assert.Equal(WindowPackets, budget.Take(7, 100, 1, TimeSpan.Zero, allowance));
        Assert.Equal(0, budget.Take(7, 100, 1, TimeSpan.Zero, allowance));
        budget.Reset(TimeSpan.Zero, allowance);
        Assert.Equal(WindowPackets, budget.Take(8, 100, 1, TimeSpan.Zero, allowance));
        Assert.Equal(WindowPackets / 2, budget.Take(7, 100, 1, TimeSpan.Zero, allowance));
    }

    [Fact]
    public void What_is_too_few_to_be_of_use_is_not_spent()
    {
        ReplayAllowance allowance = new(s_interval, WindowPackets, WindowPackets / 2);
        ReplayBudget budget = default;
        budget.Reset(TimeSpan.Zero, allowance);
        Assert.Equal(0, budget.Take(1, 100, WindowPackets + 1, TimeSpan.Zero, allowance));
        Assert.Equal(WindowPackets, budget.Take(1, 100, WindowPackets, TimeSpan.Zero, allowance));
        Assert.Equal(0, budget.Take(2, 100, (WindowPackets / 2) + 1, TimeSpan.Zero, allowance));
        Assert.Equal(WindowPackets / 2, budget.Take(3, 100, 1, TimeSpan.Zero, allowance));
        Assert.Equal(0, budget.Take(4, 100, 1, TimeSpan.Zero, allowance));
    }

    [Fact]
    public void What_was_not_spent_does_not_add_up()
    {
        Conversation c = Talk(ResponderDefences.All);
        Spend(c);
        c.Wait(100 * s_interval);
        c.SendRead(First, 0, MemoryBytes);
        c.SendRead(First, 0, MemoryBytes);
        Assert.Equal(WindowPackets, Drain(c).Count);
    }

    [Fact]
    public void New_answers_go_on_and_earn_that_they_are_sent_again()
    {
        Conversation c = Talk(ResponderDefences.All);
        Spend(c);
        c.SendRead(First + Packets, 0, 8 * Mtu);
        Assert.Equal(8, Drain(c).Count);
        for (int i = 0; i < ReplayBudget.TimesEach; i++)
        {
            c.SendRead(First + Packets, 0, 8 * Mtu);
            Assert.Equal(8, Drain(c).Count);
        }

        c.SendRead(First + Packets, 0, 8 * Mtu);
        Assert.Empty(Drain(c));
    }

    [Fact]
    public void An_atomic_is_not_executed_again_and_answered_no_oftener()
    {
        Conversation c = Talk(ResponderDefences.All);
        c.Send(Add());
        Assert.Single(Drain(c));
        c.ExpectState(QueuePairState.ReadyToSend);
        int answers = 0;
        for (int i = 0; i < 1000; i++)
        {
            c.Send(Add());
            answers += Drain(c).Count;
        }

        Assert.Equal(WindowPackets + ReplayBudget.TimesEach, answers);
        Assert.Equal(1ul, BitConverter.ToUInt64(c.Memory.Read(0, 8)));

        RawPacket Add() => new(Opcode.RcFetchAdd, First)
        {
            AckRequest = true,
            Atomic = new AtomicEth(c.Region.Iova, c.Region.Key, 1, 0),
        };
    }

    // Time stands still while packets come, so no window is added: what a peer that is really there asks for again is
    // less than its answers have earned.
    [Theory]
    [InlineData(1, 50)]
    [InlineData(2, 50)]
    [InlineData(3, 33)]
    public void A_peer_that_loses_packets_is_answered_as_often_as_it_needs(ulong seed, int oneIn)
    {
        const int Reads = 16, ReadBytes = 128 << 10;
        TestLink link = new();
        (QueuePair a, _) = link.Connect();
        MemoryRegion local = link.A.Register(link.A.Allocate(ReadBytes));
        TestMemory memory = link.B.Allocate(ReadBytes);
        memory.FillPattern(0, ReadBytes, 0x55);
        MemoryRegion remote = link.B.Register(memory);
        SplitMix64 random = new(seed);
        link.Filter = (from, _) => from != link.B || random.Next(oneIn) != 0;
        for (ulong i = 0; i < Reads; i++)
        {
            Assert.Equal(Errno.Success, a.PostSend(
                new SendWorkRequest
                {
                    WrId = i,
                    Opcode = WorkRequestOpcode.RdmaRead,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = remote.Iova,
                    RKey = remote.Key,
                },
                new Sge(local.Iova, ReadBytes, local.Key)));
        }

        int done = 0;
        for (int i = 0; i < 10_000 && done < Reads; i++)
        {
            link.Run();
            List<WorkCompletion> completions = TestNode.Poll(a.SendCompletionQueue);
            Assert.All(completions, c => Assert.Equal(WorkCompletionStatus.Success, c.Status));
            done += completions.Count;
            if (completions.Count == 0 && link.NextDeadline is { } next)
            {
                link.Advance(next - link.Now);
            }
        }

        Assert.Equal(Reads, done);
        Assert.InRange(link.B.Port.Stats.Duplicates, 5, long.MaxValue);
        Assert.Equal(0, link.B.Port.Stats.ReplaysCapped);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    public void A_round_trip_takes_time(int milliseconds)
    {
        RdmaDeviceOptions options = new() { ReplayInterval = TimeSpan.FromMilliseconds(milliseconds) };
        Assert.Contains(
            nameof(options.ReplayInterval), Assert.Throws<ArgumentException>(options.Validate).Message,
            StringComparison.Ordinal);
    }

    // What was earned by the answer, and the window that there is from the start.
    private static int MostAtOnce => (ReplayBudget.TimesEach * Packets) + WindowPackets;

    private static Conversation Talk(ResponderDefences defences) => new(
        a => a with { AccessFlags = AccessFlags.RemoteRead | AccessFlags.RemoteAtomic },
        options: o => o with
        {
            Defences = defences,
            WindowBytes = WindowPackets * Mtu,
            ReplayInterval = s_interval,
        },
        access: AccessFlags.LocalWrite | AccessFlags.RemoteRead | AccessFlags.RemoteAtomic);

    // How far a peer comes in ten round trips that has 20 packets of its READ, when somebody else asks first each time.
    private int GotOn(ResponderDefences defences, int from)
    {
        Conversation c = Talk(defences);
        Spend(c);
        int have = 20;
        for (int i = 0; i < 10 && have < Packets; i++)
        {
            c.Wait(s_interval);
            List<uint> forged = Ask(from);
            List<uint> got = [.. forged, .. Ask(have)];
            while (got.Contains(First + (uint)have))
            {
                have++;
            }
        }

        return have;

        List<uint> Ask(int packet)
        {
            c.SendRead(First + (uint)packet, (ulong)(packet * Mtu), (uint)((Packets - packet) * Mtu));
            return Drain(c);
        }
    }

    private int AnswersToAThousand(ResponderDefences defences, out long capped)
    {
        Conversation c = Talk(defences);
        c.SendRead(First, 0, MemoryBytes);
        Assert.Equal(Packets, Drain(c).Count);
        int packets = 0;
        for (int i = 0; i < 1000; i++)
        {
            c.SendRead(First, 0, MemoryBytes);
            packets += Drain(c).Count;
        }

        c.ExpectState(QueuePairState.ReadyToSend);
        capped = c.Node.Port.Stats.ReplaysCapped;
        return packets;
    }

    // Asks for all of it again after each super-packet, until nothing comes or for a thousand of them.
    private int AnswersUnderWay(ResponderDefences defences)
    {
        Conversation c = Talk(defences);
        c.SendRead(First, 0, MemoryBytes);
        int packets = 0;
        for (int i = 0; i < 1000 && c.Node.Port.PollTransmit(c.Now, _buffer, out Transmit transmit); i++)
        {
            packets += Split(transmit).Count();
            c.SendRead(First, 0, MemoryBytes);
        }

        return packets;
    }

    private void Spend(Conversation c)
    {
        c.SendRead(First, 0, MemoryBytes);
        do
        {
            Drain(c);
            c.SendRead(First, 0, MemoryBytes);
        }
        while (c.Node.Port.Stats.ReplaysCapped < 2);
        Assert.Empty(Drain(c));
    }

    private List<uint> Drain(Conversation c)
    {
        List<uint> psns = [];
        while (c.Node.Port.PollTransmit(c.Now, _buffer, out Transmit transmit))
        {
            psns.AddRange(Split(transmit));
        }

        return psns;
    }

    private IEnumerable<uint> Split(Transmit transmit)
    {
        for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
        {
            int length = Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at);
            Assert.Equal(DropReason.None, PacketView.TryParse(_buffer.AsSpan(at, length), out PacketView packet));
            yield return packet.Psn;
        }
    }
}
