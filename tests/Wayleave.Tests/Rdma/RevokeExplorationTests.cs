using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// The sequence of architecture.md, Moving and taking back in every order: the real responder places packets, or sends
/// them, while the owner takes the memory back and hands it to somebody who fills it anew.
/// </summary>
public class RevokeExplorationTests
{
    private const byte NewOwner = 0xEE;
    private const int Packets = 3;
    private const int MessageBytes = Packets * Conversation.Mtu;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void No_packet_lands_after_the_proof_in_any_order(bool inOne)
    {
        HashSet<string> outcomes = [];
        Exploration exploration = Explorer.Exhaustive(
            _ => BuildWrite(ResponderDefences.All, outcomes, inOne: inOne));
        Assert.True(exploration.Runs > 100, $"only {exploration.Runs} orders");

        // Every way it can go was seen: taken back before any packet, between packets, and after the last.
        Assert.Equal(["placed 0", "placed 1", "placed 2", "placed 3"], outcomes.Order());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void No_packet_lands_after_the_proof_of_a_port_that_has_to_stand_still(bool inOne)
    {
        HashSet<string> outcomes = [];
        Exploration exploration = Explorer.Exhaustive(
            _ => BuildWrite(ResponderDefences.All, outcomes, RegionRevocation.Quiesce, inOne));
        Assert.True(exploration.Runs > 20, $"only {exploration.Runs} orders");
        Assert.Equal(["placed 0", "placed 1", "placed 2", "placed 3"], outcomes.Order());
    }

    [Fact]
    public void A_port_that_is_said_to_stand_still_and_does_not_is_caught() => Assert.Contains(
        "late write",
        Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => BuildWrite(
            new ResponderDefences { StandsStill = false }, [], RegionRevocation.Quiesce))).Message,
        StringComparison.Ordinal);

    // Where own work requests say that it belongs: what answers a READ, and a SEND.
    [Theory]
    [InlineData(false, false, RegionRevocation.Concurrent)]
    [InlineData(false, true, RegionRevocation.Concurrent)]
    [InlineData(false, true, RegionRevocation.Quiesce)]
    [InlineData(true, false, RegionRevocation.Concurrent)]
    [InlineData(true, true, RegionRevocation.Concurrent)]
    [InlineData(true, true, RegionRevocation.Quiesce)]
    public void Nothing_that_was_asked_for_lands_after_the_proof_in_any_order(
        bool isSend, bool inOne, RegionRevocation revocation)
    {
        HashSet<string> outcomes = [];
        Exploration exploration = Explorer.Exhaustive(
            _ => BuildScatter(ResponderDefences.All, outcomes, revocation, isSend, inOne));
        Assert.True(exploration.Runs > 20, $"only {exploration.Runs} orders");
        Assert.Equal(["placed 0", "placed 1", "placed 2", "placed 3"], outcomes.Order());
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void Whoever_asked_for_it_without_the_defences_is_caught(bool isSend, bool inOne)
    {
        void IsCaught(ResponderDefences broken, RegionRevocation revocation) => Assert.Contains(
            "late write",
            Assert.Throws<InterleavingException>(
                () => Explorer.Exhaustive(_ => BuildScatter(broken, [], revocation, isSend, inOne))).Message,
            StringComparison.Ordinal);

        IsCaught(new ResponderDefences { EntersGate = false }, RegionRevocation.Concurrent);
        IsCaught(ResponderDefences.BrokenRevokeGate, RegionRevocation.Concurrent);
        IsCaught(new ResponderDefences { StandsStill = false }, RegionRevocation.Quiesce);
    }

    [Fact]
    public void A_run_goes_on_where_its_memory_has_moved_in_any_order()
    {
        HashSet<string> outcomes = [];
        Exploration exploration = Explorer.Exhaustive(_ => BuildMove(ResponderDefences.All, outcomes));
        Assert.True(exploration.Runs > 100, $"only {exploration.Runs} orders");

        // All of them, with the move before, between and behind them; or some, and a NAK.
        Assert.Superset(new HashSet<string> { "placed 1", "placed 2", "placed 3" }, outcomes);
    }

    [Fact]
    public void A_run_that_goes_on_where_its_memory_was_is_caught() => Assert.Contains(
        "lost write",
        Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(
            _ => BuildMove(new ResponderDefences { ForgetsPlaces = false }, []))).Message,
        StringComparison.Ordinal);

    [Fact]
    public void No_byte_of_the_new_owner_is_read_in_any_order()
    {
        Exploration exploration = Explorer.Exhaustive(_ => BuildRead(ResponderDefences.All));
        Assert.True(exploration.Runs > 100, $"only {exploration.Runs} orders");
    }

    [Fact]
    public void A_responder_that_does_not_enter_the_gate_is_caught()
    {
        ResponderDefences broken = new() { EntersGate = false };
        Assert.Contains(
            "late write",
            Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => BuildWrite(broken, []))).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "late write",
            Assert.Throws<InterleavingException>(
                () => Explorer.Exhaustive(_ => BuildWrite(broken, [], inOne: true))).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "late read",
            Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => BuildRead(broken))).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void A_responder_that_keeps_translation_and_key_is_caught()
    {
        Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => BuildWrite(ResponderDefences.BrokenRevokeGate, [])));
        Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => BuildWrite(ResponderDefences.BrokenRevokeGate, [], inOne: true)));
        Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => BuildRead(ResponderDefences.BrokenRevokeGate)));
    }

    private static Scenario BuildWrite(
        ResponderDefences defences,
        HashSet<string> outcomes,
        RegionRevocation revocation = RegionRevocation.Concurrent,
        bool inOne = false)
    {
        Conversation c = new(options: o => o with { Defences = defences, Revocation = revocation });
        byte[] payload = new byte[Conversation.Mtu];
        Array.Fill(payload, (byte)0x11);
        RevokeOperation? revoke = null;
        bool handedOut = false;

        void Port()
        {
            c.Send(
                new RawPacket(Opcode.RcWriteFirst, Conversation.First)
                {
                    Reth = new Reth(
                        c.Region.Iova, c.Region.Key, (uint)(inOne ? MessageBytes + Conversation.Mtu : MessageBytes)),
                    Payload = payload,
                });
            if (inOne)
            {
                c.SendMiddles(Conversation.First + 1, payload, payload); // a run, and the Last never comes
                return;
            }

            c.Send(new RawPacket(Opcode.RcWriteMiddle, Conversation.First + 1) { Payload = payload });
            c.Send(new RawPacket(Opcode.RcWriteLast, Conversation.First + 2) { Payload = payload });
        }

        return new Scenario(
            [
                Actor.OnThread("port", Port),
                Actor.OnThread("owner", () => Owner(c, r => revoke = r, () => handedOut = true)),
            ],
            () => CheckHandedOut(c, handedOut),
            AtEnd: () =>
            {
                // Whoever comes next to a port that was asked to stand still finds it so.
                c.Node.Port.PollTransmit(c.Now, new byte[65536], out _);
                Assert.Equal(RetirementGrade.Retired, revoke!.Proof!.Grade);
                Assert.True(handedOut);
                Assert.Equal(c.Region.BytesRejected > 0, c.Region.BytesPlaced < MessageBytes);
                outcomes.Add($"placed {c.Region.BytesPlaced / Conversation.Mtu}");
            });
    }

    // The owner moves the memory and maps it again, while a run is placed.
    private static Scenario BuildMove(ResponderDefences defences, HashSet<string> outcomes)
    {
        Conversation c = new(options: o => o with { Defences = defences });
        byte[] payload = new byte[Conversation.Mtu];
        Array.Fill(payload, (byte)0x11);

        void Port()
        {
            c.Send(new RawPacket(Opcode.RcWriteFirst, Conversation.First)
            {
                Reth = new Reth(c.Region.Iova, c.Region.Key, MessageBytes + Conversation.Mtu),
                Payload = payload,
            });
            c.SendMiddles(Conversation.First + 1, payload, payload);
        }

        void Owner()
        {
            c.Memory.Invalidate();
            Interleave.Wait("drained", c.Memory.IsIdle);
            if (c.Memory.IsIdle())
            {
                c.Memory.Move();
                c.Node.Remap(c.Region);
            }
        }

        return new Scenario(
            [Actor.OnThread("port", Port), Actor.OnThread("owner", Owner)],
            () => { },
            AtEnd: () =>
            {
                int placed = (int)c.Region.BytesPlaced;
                if (c.Memory.Read(0, placed).AsSpan().IndexOfAnyExcept((byte)0x11) >= 0)
                {
                    throw new InvalidOperationException("lost write: what was placed is not where the memory is");
                }

                outcomes.Add($"placed {placed / Conversation.Mtu}");
            });
    }

    private static void CheckHandedOut(Conversation c, bool isHandedOut)
    {
        if (isHandedOut && c.Memory.Read(0, MessageBytes).AsSpan().IndexOfAnyExcept(NewOwner) >= 0)
        {
            throw new InvalidOperationException("late write: a byte of the new owner changed");
        }
    }

    private static Scenario BuildScatter(
        ResponderDefences defences, HashSet<string> outcomes, RegionRevocation revocation, bool isSend, bool inOne)
    {
        Conversation c = new(options: o => o with { Defences = defences, Revocation = revocation });
        byte[] payload = new byte[Conversation.Mtu];
        Array.Fill(payload, (byte)0x11);
        uint length = (uint)(inOne ? MessageBytes + Conversation.Mtu : MessageBytes);
        (uint psn, Opcode first, Opcode middle, Opcode last) = isSend
            ? (Conversation.First, Opcode.RcSendFirst, Opcode.RcSendMiddle, Opcode.RcSendLast)
            : (Conversation.OwnFirst,
                Opcode.RcReadResponseFirst, Opcode.RcReadResponseMiddle, Opcode.RcReadResponseLast);
        if (isSend)
        {
            c.PostReceive(1, 0, length);
        }
        else
        {
            c.Post(1, WorkRequestOpcode.RdmaRead, 0, length);
            c.Expect($"RC_READ_REQUEST {psn:x6} A");
        }

        RevokeOperation? revoke = null;
        bool handedOut = false;

        void Port()
        {
            c.Send(new RawPacket(first, psn) { Payload = payload });
            if (inOne)
            {
                c.SendMiddles(middle, psn + 1, payload, payload); // a run, and the Last never comes
                return;
            }

            c.Send(new RawPacket(middle, psn + 1) { Payload = payload });
            c.Send(new RawPacket(last, psn + 2) { Payload = payload });
        }

        return new Scenario(
            [
                Actor.OnThread("port", Port),
                Actor.OnThread("owner", () => Owner(c, r => revoke = r, () => handedOut = true)),
            ],
            () => CheckHandedOut(c, handedOut),
            AtEnd: () =>
            {
                c.Node.Port.PollTransmit(c.Now, new byte[65536], out _);
                Assert.Equal(RetirementGrade.Retired, revoke!.Proof!.Grade);
                Assert.True(handedOut);
                long placed = c.Node.Port.Dma.BytesWritten(PeerRoute.HostMemory);
                Assert.Equal(placed < MessageBytes, c.Pair.State == QueuePairState.Error);
                outcomes.Add($"placed {placed / Conversation.Mtu}");
            });
    }

    private static Scenario BuildRead(ResponderDefences defences)
    {
        Conversation c = new(options: o => o with { Defences = defences });
        c.SendRead(Conversation.First, 0, MessageBytes);
        byte[] buffer = new byte[65536];
        bool sawNewOwner = false;

        void Port()
        {
            while (c.Node.Port.PollTransmit(c.Now, buffer, out Transmit transmit))
            {
                for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
                {
                    ReadOnlySpan<byte> bytes = buffer.AsSpan(
                        at, Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at));
                    Assert.Equal(DropReason.None, PacketView.TryParse(bytes, out PacketView packet));
                    sawNewOwner |= packet.Payload.Contains(NewOwner);
                }
            }
        }

        return new Scenario(
            [Actor.OnThread("port", Port), Actor.OnThread("owner", () => Owner(c, _ => { }, () => { }))],
            () => { },
            AtEnd: () =>
            {
                if (sawNewOwner)
                {
                    throw new InvalidOperationException("late read: a byte of the new owner left");
                }
            });
    }

    // Takes the memory back; whoever is told of the proof, on whatever thread, gives it to a new owner.
    private static void Owner(Conversation c, Action<RevokeOperation> started, Action handedOut)
    {
        void HandOut()
        {
            byte[] pattern = new byte[MessageBytes];
            Array.Fill(pattern, NewOwner);
            c.Memory.Fill(0, pattern);
            handedOut();
        }

        bool pending;
        using (c.Node.Host.Enter())
        {
            RevokeOperation revoke = RevokeOperation.Start(c.Memory.Buffer, new RevokePolicy());
            started(revoke);
            pending = revoke.TryAddCompletion(HandOut);
        }

        if (!pending)
        {
            HandOut();
        }
    }
}
