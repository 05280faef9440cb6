using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;
using static Wayleave.Tests.Rdma.Conversation;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// READs that are asked for again, on both sides, as <c>rxe_resp.c</c> and <c>rxe_comp.c</c> have it.
/// </summary>
public class ReadRepetitionTests
{
    [Fact]
    public void ROCE_80_A_READ_asked_for_again_is_answered_with_the_present_MSN()
    {
        Conversation c = new();
        c.SendRead(First, 0, 1024);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        c.SendWrite(First + 1, 0x2000, new byte[64]);
        c.Expect("RC_ACKNOWLEDGE a00001 1f msn=2");
        c.SendRead(First, 0, 1024);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=2");
    }

    [Fact]
    public void ROCE_53_An_answer_to_a_later_request_says_at_once_that_the_responses_of_a_READ_were_lost()
    {
        Conversation c = new(a => a with { Profile = PeerProfile.Rxe });
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 64);
        c.Post(2, WorkRequestOpcode.RdmaWrite, 0x1000, 64);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_WRITE_ONLY b00001 A");
        c.SendAck(OwnFirst + 1, msn: 2);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_WRITE_ONLY b00001 A");
        c.SendAck(OwnFirst + 1, msn: 2);
        c.ExpectNothing();
        c.ExpectNoCompletion();
    }

    [Fact]
    public void A_late_copy_of_an_old_READ_takes_no_place_of_a_new_one()
    {
        Conversation c = new(a => a with { MaxDestRdAtomic = 2 });
        c.SendRead(First, 0, 8);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        c.SendRead(First, 0, 8);
        c.SendRead(First, 0, 8);
        c.SendRead(First + 1, 0, 8);
        c.SendRead(First + 2, 0, 8);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        c.Expect("RC_READ_RESP_ONLY a00001 1f msn=2");
        c.Expect("RC_READ_RESP_ONLY a00002 1f msn=3");
        c.ExpectState(QueuePairState.ReadyToSend);
    }

    [Fact]
    public void A_READ_asked_for_again_whose_region_is_gone_by_right_is_refused_and_ends_nothing()
    {
        Conversation c = new();
        c.SendRead(First, 0, 8);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        MemoryRegion other = c.Node.Register(c.Node.Allocate(4096), iova: 0x5000_0000);
        Assert.Null(c.Node.Deregister(c.Region));
        c.SendRead(First, 0, 8);
        c.SendRead(First, 0, 8); // and again, before the first is answered
        c.SendWrite(First + 1, 0, [7], other.Key, address: other.Iova);
        c.SendRead(First + 2, 0, 0);
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=3");
        c.Expect("RC_ACKNOWLEDGE a00001 1f msn=2"); // owed all the while
        c.Expect("RC_READ_RESP_ONLY a00002 1f msn=3");
        c.ExpectNothing();
        c.ExpectState(QueuePairState.ReadyToSend);
        Assert.Empty(c.Node.PollEvents());

        // Later ones are new requests and repetitions as ever.
        c.SendRead(First + 2, 0, 0);
        c.Expect("RC_READ_RESP_ONLY a00002 1f msn=3");
        c.SendRead(First, 0, 8);
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=3");
        c.SendWrite(First + 3, 0, [8], other.Key, address: other.Iova);
        c.Expect("RC_ACKNOWLEDGE a00003 1f msn=4");
        c.SendRead(First + 4, 0, 8); // what was never answered ends the queue pair, as it must
        c.Expect("RC_ACKNOWLEDGE a00004 62 msn=4");
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void A_READ_asked_for_again_before_a_SEND_that_invalidates_its_window_ends_nothing()
    {
        Conversation c = new(
            access: AccessFlags.LocalWrite | AccessFlags.RemoteRead | AccessFlags.WindowBind,
            registration: RegistrationKind.OwnMemory);
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        WindowBind bind = new(c.Region.Key, c.Region.Iova, 4096, AccessFlags.RemoteRead);
        Assert.Equal(Errno.Success, c.Pair.PostBind(window, bind, 1));
        c.ExpectNothing();
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        c.PostReceive(2, 8192, 64);
        c.SendRead(First, 0, 8, window.Key);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1"); // late, but it comes
        c.SendRead(First, 0, 8, window.Key); // was asked for before it came
        c.Send(new RawPacket(Opcode.RcSendOnlyWithInvalidate, First + 1)
        {
            AckRequest = true,
            InvalidateKey = window.Key,
        });
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=2");
        c.Expect("RC_ACKNOWLEDGE a00001 1f msn=2");
        c.ExpectCompletion(2, WorkCompletionStatus.Success);
        c.ExpectState(QueuePairState.ReadyToSend);
    }

    [Fact]
    public void Of_a_long_READ_asked_for_again_nothing_is_sent_from_where_its_region_is_revoked()
    {
        Conversation c = new(options: o => o with { SuperPacketSegments = 1 });
        c.SendRead(First, 0, 3072);
        c.Expect("RC_READ_RESP_FIRST a00000 1f msn=1");
        c.Expect("RC_READ_RESP_MIDDLE a00001");
        c.Expect("RC_READ_RESP_LAST a00002 1f msn=1");
        c.SendRead(First, 0, 3072);
        Assert.True(c.Node.Port.PollTransmit(c.Now, new byte[65536], out _));
        Assert.Null(c.Node.Deregister(c.Region));
        c.Expect("RC_ACKNOWLEDGE a00001 62 msn=1");
        c.ExpectNothing();
        c.ExpectState(QueuePairState.ReadyToSend);
    }

    // rxe takes an old NAK in the middle of a READ (roce.md A5.1).
    [Fact]
    public void A_READ_asked_for_again_by_rxe_whose_region_is_gone_is_not_answered()
    {
        Conversation c = new(a => a with { Profile = PeerProfile.Rxe });
        c.SendRead(First, 0, 8);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        Assert.Null(c.Node.Deregister(c.Region));
        c.SendRead(First, 0, 8);
        c.SendRead(First + 1, 0, 0);
        c.Expect("RC_READ_RESP_ONLY a00001 1f msn=2");
        c.ExpectNothing();
        c.ExpectState(QueuePairState.ReadyToSend);
    }

    [Fact]
    public void Refusals_of_what_is_asked_for_again_are_bounded_as_its_answers_are()
    {
        Conversation c = new(options: o => o with { WindowBytes = 16 * Mtu });
        c.SendRead(First, 0, 8);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        Assert.Null(c.Node.Deregister(c.Region));
        for (int i = 0; i < 1000; i++)
        {
            c.SendRead(First, 0, 8);
            c.Node.Port.PollTransmit(c.Now, new byte[65536], out _);
        }

        // A window, what the one answer earned, and the reserve that another packet would have.
        Assert.Equal(16 + ReplayBudget.TimesEach, c.Node.Port.Stats.NaksRemoteAccessSent);
        Assert.Equal(1000 - c.Node.Port.Stats.NaksRemoteAccessSent, c.Node.Port.Stats.ReplaysCapped);
    }

    [Fact]
    public void An_atomic_asked_for_again_is_answered_though_its_region_is_gone()
    {
        const AccessFlags Rights = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteAtomic;
        Conversation c = new(a => a with { AccessFlags = Rights }, access: Rights);
        RawPacket add = new(Opcode.RcFetchAdd, First)
        {
            AckRequest = true,
            Atomic = new AtomicEth(c.Region.Iova, c.Region.Key, 1, 0),
        };
        c.Send(add);
        byte[] answer = c.Expect("RC_ATOMIC_ACKNOWLEDGE a00000 1f msn=1");
        Assert.Null(c.Node.Deregister(c.Region));
        c.Send(add);
        Assert.Equal(answer, c.Expect("RC_ATOMIC_ACKNOWLEDGE a00000 1f msn=1"));
        c.ExpectState(QueuePairState.ReadyToSend);
    }

    [Fact]
    public void A_requester_that_has_had_the_first_answer_ignores_the_refusal_of_the_second()
    {
        Late late = new();
        late.DeliverAnswer();
        Assert.Equal(
            WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(late.A.SendCompletionQueue)).Status);
        Assert.Null(late.Link.B.Deregister(late.From)); // A said that it has read it
        late.DeliverRepetition();
        late.Link.Run();
        Assert.Contains("B RC_ACKNOWLEDGE a00000 62 msn=1", late.Link.Log);
        Assert.Equal((QueuePairState.ReadyToSend, QueuePairState.ReadyToSend), (late.A.State, late.B.State));
        Assert.Equal(Errno.Success, late.A.PostSend(
            new SendWorkRequest { Opcode = WorkRequestOpcode.RdmaRead, Flags = SendFlags.Signaled }, []));
        late.Link.Run();
        Assert.Equal(
            WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(late.A.SendCompletionQueue)).Status);
    }

    [Fact]
    public void A_requester_that_lost_the_answer_hears_that_the_memory_was_taken_back()
    {
        Late late = new();
        Assert.Null(late.Link.B.Deregister(late.From));
        late.DeliverRepetition();
        late.Link.Run();
        Assert.Equal(
            WorkCompletionStatus.RemoteAccessError,
            Assert.Single(TestNode.Poll(late.A.SendCompletionQueue)).Status);
        Assert.Equal((QueuePairState.Error, QueuePairState.ReadyToSend), (late.A.State, late.B.State));
    }

    /// <summary>A READ of 8 bytes that was answered late, and asked for again: both packets are on their way.</summary>
    private sealed class Late
    {
        private readonly byte[] _answer;
        private readonly byte[] _repetition;

        public Late()
        {
            (A, B) = Link.Connect();
            MemoryRegion to = Link.A.Register(Link.A.Allocate(4096));
            From = Link.B.Register(Link.B.Allocate(4096));
            List<byte[]> held = [];
            Link.Filter = (sender, packet) =>
            {
                bool holds = ReferenceEquals(sender, Link.B) || held.Count == 1;
                if (holds)
                {
                    held.Add(packet.ToArray());
                }

                return !holds;
            };
            SendWorkRequest read = new()
            {
                Opcode = WorkRequestOpcode.RdmaRead,
                Flags = SendFlags.Signaled,
                RemoteAddress = From.Iova,
                RKey = From.Key,
            };
            Assert.Equal(Errno.Success, A.PostSend(read, new Sge(to.Iova, 8, to.Key)));
            Link.Run();
            Link.Advance(TimeSpan.FromMilliseconds(68));
            Link.Run();
            Assert.Equal(2, held.Count);
            (_answer, _repetition) = (held[0], held[1]);
            Link.Filter = null;
        }

        public TestLink Link { get; } = new();

        public QueuePair A { get; }

        public QueuePair B { get; }

        public MemoryRegion From { get; }

        public void DeliverAnswer() =>
            Link.A.Port.HandleDatagrams(Link.B.Gid, 4791, _answer, _answer.Length, 0, Link.Now);

        public void DeliverRepetition() =>
            Link.B.Port.HandleDatagrams(Link.A.Gid, 4791, _repetition, _repetition.Length, 0, Link.Now);
    }
}
