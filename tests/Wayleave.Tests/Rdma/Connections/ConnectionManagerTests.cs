using Wayleave.Core;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma.Connections;

/// <summary>Connections over queue pair 1: made, refused, lost and ended.</summary>
public class ConnectionManagerTests
{
    private static readonly TimeSpan s_response = TimeSpan.FromTicks((long)(40.96 * (1 << 20)));

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ROCE_69_A_request_is_accepted_and_data_flows(bool ipv6)
    {
        ConnectionBench bench = new(ipv6: ipv6);
        CmConnection a = bench.Connect(out QueuePair pairA, new CmParameters
        {
            ResponderResources = 3,
            InitiatorDepth = 9,
            PrivateData = new byte[] { 1, 2, 3 },
        });
        bench.Link.Run();
        CmConnection b = bench.Accept(out QueuePair pairB, new CmParameters
        {
            ResponderResources = 5,
            InitiatorDepth = 2,
            PrivateData = new byte[] { 9, 8 },
        });
        Assert.Equal((QueuePairState.ReadyToSend, CmState.ReplySent), (pairB.State, b.State));
        Assert.Equal([1, 2, 3, 0], b.Request!.PrivateData[..4].ToArray());
        bench.Link.Run();
        CmEvent established = ConnectionBench.Expect(bench.ManagerA, CmEventKind.Established);
        Assert.Equal([9, 8, 0], established.PrivateData[..3].ToArray());
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Established);
        Assert.Equal(
            ["A UD_SEND_ONLY", "B UD_SEND_ONLY", "A UD_SEND_ONLY"],
            bench.Link.Log.Select(l => l[..l.LastIndexOf(' ')]));

        // What one side answers is the most that the other may have outstanding.
        Assert.Equal((5, 2), (pairA.Attributes.MaxRdAtomic, pairA.Attributes.MaxDestRdAtomic));
        Assert.Equal((2, 5), (pairB.Attributes.MaxRdAtomic, pairB.Attributes.MaxDestRdAtomic));
        Assert.Equal(pairA.Attributes.SqPsn, pairB.Attributes.RqPsn);
        Assert.Equal(pairB.Attributes.SqPsn, pairA.Attributes.RqPsn);
        Assert.Equal((CmState.Established, CmState.Established), (a.State, b.State));
        bench.SendBothWays(pairA, pairB);
    }

    // Who has the receives says how often it may be found without one (cm_req_handler, cm_rep_handler of Linux); how
    // often silence is borne is the word of the side that connects.
    [Fact]
    public void ROCE_69_Each_side_says_how_often_the_other_tries_again_without_a_receive()
    {
        ConnectionBench bench = new();
        bench.Connect(out QueuePair pairA, new CmParameters { RetryCount = 4, RnrRetryCount = 2 });
        bench.Link.Run();
        bench.Accept(out QueuePair pairB, new CmParameters { RetryCount = 6, RnrRetryCount = 5 });
        bench.Link.Run();
        Assert.Equal((4, 5), (pairA.Attributes.RetryCount, pairA.Attributes.RnrRetry));
        Assert.Equal((4, 2), (pairB.Attributes.RetryCount, pairB.Attributes.RnrRetry));
    }

    [Fact]
    public void ROCE_69_A_reply_repeats_the_transaction_of_its_request()
    {
        ConnectionBench bench = new();
        Assert.Empty(bench.Inject(ConnectionBench.Bytes(bench.Request(), 0xFEED)));
        bench.Accept(out QueuePair pair);
        List<(CmMessageId Id, byte[] Mad)> replies = bench.Inject(ConnectionBench.Bytes(bench.Request(), 0xFEED));
        Assert.Equal([CmMessageId.ConnectReply, CmMessageId.ConnectReply], replies.Select(r => r.Id));
        byte[] mad = replies[0].Mad;
        Assert.Equal(mad, replies[1].Mad); // the request came twice
        Assert.True(MadHeader.TryParse(mad, out MadHeader header));
        Assert.Equal(0xFEEDUL, header.TransactionId);
        CmReply reply = CmReply.Parse(mad);
        Assert.Equal((0x1111u, pair.QpNumber), (reply.RemoteId, reply.QpNumber));
        Assert.Equal((4, 1), (reply.ResponderResources, reply.InitiatorDepth));
        Assert.Equal(pair.Attributes.RqPsn, reply.StartingPsn);
        Assert.Equal(0x4C5E2Fu, pair.Attributes.SqPsn);
    }

    [Fact]
    public void ROCE_70_A_request_to_a_closed_port_is_rejected_with_reason_8()
    {
        ConnectionBench bench = new(listens: false);
        CmConnection a = bench.Connect(out QueuePair pair);
        bench.Link.Run();
        CmEvent rejected = ConnectionBench.Expect(bench.ManagerA, CmEventKind.Rejected);
        Assert.Equal((CmRejectReason.InvalidServiceId, CmState.Closed), (rejected.Reason, a.State));
        Assert.Equal((0, 0), (bench.ManagerA.Count, bench.ManagerB.Count));
        Assert.Equal(QueuePairState.Error, pair.State);

        (CmMessageId id, byte[] mad) = Assert.Single(bench.Inject(ConnectionBench.Bytes(bench.Request(), 7)));
        CmNotice reject = CmNotice.Parse(mad, id);
        Assert.Equal((CmMessageId.ConnectReject, CmSubject.Request, 0u, 0x1111u, CmRejectReason.InvalidServiceId),
            (reject.Kind, reject.About, reject.LocalId, reject.RemoteId, reject.Reason));
    }

    [Fact]
    public void An_application_that_refuses_tells_the_peer_why()
    {
        ConnectionBench bench = new();
        bench.Connect(out _);
        bench.Link.Run();
        CmEvent request = ConnectionBench.Expect(bench.ManagerB, CmEventKind.ConnectRequest);
        bench.ManagerB.Reject(request.Connection, new byte[] { 42 });
        bench.Link.Run();
        CmEvent rejected = ConnectionBench.Expect(bench.ManagerA, CmEventKind.Rejected);
        Assert.Equal((CmRejectReason.ConsumerDefined, 42), (rejected.Reason, rejected.PrivateData.Span[0]));
        Assert.Equal((0, 0, 0), (bench.ManagerA.Count, bench.ManagerB.Count, bench.Listener!.Pending));
    }

    [Theory]
    [InlineData("ConnectRequest")]
    [InlineData("ConnectReply")]
    [InlineData("ReadyToUse")]
    [InlineData("DisconnectRequest")]
    [InlineData("DisconnectReply")]
    public void ROCE_71_A_lost_message_is_made_good(string lost)
    {
        ConnectionBench bench = new();
        int left = 2;
        bench.Loses = (_, name) => name == lost && left-- > 0;
        CmConnection a = bench.Connect(out _);
        Assert.True(Until(bench, () => bench.ManagerB.PollEvent(out CmEvent e)
            && bench.ManagerB.Accept(bench.Link.Now, e.Connection, bench.Link.B.CreatePair(), new CmParameters())
                == Errno.Success));
        Assert.True(Until(bench, () => bench.ManagerB.PollEvent(out CmEvent e)
            && e.Kind == CmEventKind.Established));
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.Established);
        bench.ManagerA.Disconnect(bench.Link.Now, a);
        Assert.True(Until(bench, () => bench.ManagerB.PollEvent(out CmEvent e)
            && e.Kind == CmEventKind.Disconnected));
        Assert.True(Until(bench, () => bench.ManagerA.PollEvent(out CmEvent e)
            && e.Kind == CmEventKind.Disconnected));
        Assert.True(left <= 0);
        bench.Link.RunFor(TimeSpan.FromSeconds(30));
        Assert.Equal((0, 0), (bench.ManagerA.Count, bench.ManagerB.Count));
    }

    [Fact]
    public void ROCE_71_Messages_are_repeated_every_4_3_seconds_and_given_up_after_15()
    {
        ConnectionBench bench = new();
        bench.Loses = (_, _) => true;
        bench.Connect(out QueuePair pair);
        bench.Link.Run();
        List<TimeSpan> sent = [bench.Link.Now];
        while (bench.ManagerA.Count > 0)
        {
            int before = bench.Link.Log.Count;
            bench.Link.Advance(bench.Link.NextDeadline!.Value - bench.Link.Now);
            bench.Link.Run();
            sent.AddRange(Enumerable.Repeat(bench.Link.Now, bench.Link.Log.Count - before));
        }

        Assert.Equal(1 + 15 + 1, sent.Count); // the last one is a REJ
        Assert.All(sent.Zip(sent.Skip(1)), pair => Assert.Equal(s_response, pair.Second - pair.First));
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.Unreachable);
        Assert.Equal(QueuePairState.Error, pair.State);
    }

    [Fact]
    public void ROCE_71_H_32_Data_without_an_RTU_makes_the_connection_too()
    {
        ConnectionBench bench = new();
        bench.Loses = (_, name) => name == "ReadyToUse";
        bench.Connect(out QueuePair pairA);
        bench.Link.Run();
        bench.Accept(out QueuePair pairB);
        bench.Link.Run();
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.Established);
        ConnectionBench.ExpectNothing(bench.ManagerB);
        bench.SendBothWays(pairA, pairB);
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Established);
        bench.Link.RunFor(TimeSpan.FromSeconds(90));
        ConnectionBench.ExpectNothing(bench.ManagerB);
        Assert.Equal(QueuePairState.ReadyToSend, pairB.State);
    }

    [Fact]
    public void H_32_A_reply_that_nobody_confirms_is_repeated_and_then_torn_down()
    {
        ConnectionBench bench = new();
        Assert.Empty(bench.Inject(ConnectionBench.Bytes(bench.Request())));
        CmConnection b = bench.Accept(out QueuePair pair);
        bench.Link.RunFor(TimeSpan.FromSeconds(90));
        Assert.Equal(17, bench.Link.Log.Count(l => l.StartsWith("B UD", StringComparison.Ordinal))); // 16 REPs, a REJ
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Unreachable);
        Assert.Equal((CmState.Closed, QueuePairState.Error), (b.State, pair.State));
    }

    [Fact]
    public void ROCE_71_A_repeated_request_is_answered_with_an_MRA_while_the_application_thinks()
    {
        ConnectionBench bench = new();
        CmConnection a = bench.Connect(out _);
        bench.Link.Run();
        bench.Link.RunFor(s_response + TimeSpan.FromSeconds(1));
        Assert.Equal(3, bench.Link.Log.Count); // REQ, REQ, MRA
        int before = bench.Link.Log.Count;
        bench.Link.RunFor(TimeSpan.FromSeconds(60)); // the MRA asks for 69 s
        Assert.Equal(before, bench.Link.Log.Count);
        bench.Accept(out _);
        bench.Link.Run();
        Assert.Equal(CmState.Established, a.State);
    }

    [Theory]
    [InlineData("wrong queue pair")]
    [InlineData("wrong name of ours")]
    [InlineData("wrong name of the peer")]
    [InlineData("wrong source")]
    public void ROCE_72_A_DREQ_that_does_not_fit_ends_nothing(string what)
    {
        ConnectionBench bench = new();
        (CmConnection a, CmConnection b) = bench.Establish();
        CmNotice notice = new()
        {
            Kind = CmMessageId.DisconnectRequest,
            LocalId = a.LocalId ^ (what == "wrong name of the peer" ? 1u : 0),
            RemoteId = b.LocalId ^ (what == "wrong name of ours" ? 1u : 0),
            RemoteQpNumber = b.Pair!.QpNumber ^ (what == "wrong queue pair" ? 1u : 0),
        };
        Assert.True(Gid.TryParse("10.77.0.66", out Gid stranger));
        List<(CmMessageId Id, byte[])> answers = bench.Inject(
            ConnectionBench.Bytes(notice), what == "wrong source" ? stranger : null);
        Assert.Equal((CmState.Established, QueuePairState.ReadyToSend), (b.State, b.Pair.State));

        // Who asks about a name that we do not know is told that it is over.
        Assert.Equal(
            what == "wrong name of ours" ? [CmMessageId.DisconnectReply] : [], answers.Select(x => x.Id));
    }

    [Theory]
    [InlineData("wrong transaction")]
    [InlineData("wrong name of ours")]
    [InlineData("wrong name of the peer")]
    [InlineData("wrong source")]
    [InlineData("nothing")]
    public void ROCE_72_A_REJ_that_does_not_fit_ends_no_connection_that_was_made(string what)
    {
        foreach (CmRejectReason reason in Enum.GetValues<CmRejectReason>())
        {
            ConnectionBench bench = new();
            (CmConnection a, CmConnection b) = bench.Establish();
            CmNotice notice = new()
            {
                Kind = CmMessageId.ConnectReject,
                LocalId = a.LocalId ^ (what == "wrong name of the peer" ? 1u : 0),
                RemoteId = b.LocalId ^ (what == "wrong name of ours" ? 1u : 0),
                About = CmSubject.Reply,
                Reason = reason,
            };
            ulong transaction = b.TransactionId ^ (what == "wrong transaction" ? 1u : 0);
            Assert.True(Gid.TryParse("10.77.0.66", out Gid stranger));
            Assert.Empty(bench.Inject(
                ConnectionBench.Bytes(notice, transaction), what == "wrong source" ? stranger : null));
            Assert.Equal(
                what == "nothing"
                    ? (CmState.TimeWait, QueuePairState.Error)
                    : (CmState.Established, QueuePairState.ReadyToSend),
                (b.State, b.Pair!.State));
        }
    }

    // The peer knows nothing of the RTU, and has nothing that a DREQ could end.
    [Fact]
    public void H_32_A_peer_that_gives_up_its_reply_ends_the_connection_that_was_made_here()
    {
        ConnectionBench bench = new() { Loses = (_, name) => name == "ReadyToUse" };
        CmConnection a = bench.Connect(out QueuePair pair);
        bench.Link.Run();
        bench.Accept(out _);
        bench.Link.Run();
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.Established);
        bench.Link.RunFor(TimeSpan.FromSeconds(65));
        Assert.Equal((CmState.Established, QueuePairState.ReadyToSend), (a.State, pair.State));
        bench.Link.RunFor(TimeSpan.FromSeconds(10));
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Unreachable);
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.Disconnected);
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.TimeWaitOver);
        Assert.Equal((CmState.Closed, QueuePairState.Error), (a.State, pair.State));
        Assert.Equal((0, 0), (bench.ManagerA.Count, bench.ManagerB.Count));
    }

    [Fact]
    public void ROCE_72_A_disconnect_stops_both_queue_pairs_and_leaves_nothing_after_its_time_of_waiting()
    {
        ConnectionBench bench = new();
        (CmConnection a, CmConnection b) = bench.Establish();
        bench.ManagerB.Disconnect(bench.Link.Now, b);
        Assert.Equal(QueuePairState.Error, b.Pair!.State);
        bench.Link.Run();
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.Disconnected);
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Disconnected);
        Assert.Equal((QueuePairState.Error, CmState.TimeWait, CmState.TimeWait), (a.Pair!.State, a.State, b.State));
        uint number = a.Pair.QpNumber;
        bench.Link.A.Device.DestroyQueuePair(a.Pair);
        Assert.True(((IManagementAgent)bench.ManagerA).HoldsNumber(number));
        bench.Link.RunFor(TimeSpan.FromSeconds(2));
        Assert.False(((IManagementAgent)bench.ManagerA).HoldsNumber(number));
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.TimeWaitOver);
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.TimeWaitOver);
        Assert.Equal((0, 0), (bench.ManagerA.Count, bench.ManagerB.Count));
    }

    // What is left of the old one is between the managers: the peer says that it has heard, or says nothing.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_queue_pair_that_is_used_again_is_not_stopped_by_the_end_of_its_last_connection(bool isAnswered)
    {
        ConnectionBench bench = new();
        (CmConnection a, _) = bench.Establish();
        QueuePair pair = a.Pair!;
        bench.Loses = (_, name) => name == "DisconnectReply";
        bench.ManagerA.Disconnect(bench.Link.Now, a);
        bench.Link.Run();
        Assert.Equal(QueuePairState.Error, pair.State);
        Assert.Equal(
            Errno.Success,
            pair.Modify(new QueuePairAttributes { State = QueuePairState.Reset }, QueuePairAttributeMask.State));
        new Connection
        {
            Attributes = new Connection().Attributes with
            {
                AddressVector = new AddressVector(bench.Link.B.Gid),
                DestQpNumber = 0x99,
            },
        }.Apply(pair);
        bench.Loses = (_, name) => !isAnswered && name == "DisconnectReply";
        bench.Link.RunFor(TimeSpan.FromSeconds(isAnswered ? 5 : 75));
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.Disconnected);
        Assert.Equal(QueuePairState.ReadyToSend, pair.State);
    }

    [Fact]
    public void ROCE_72_Both_sides_may_disconnect_at_once()
    {
        ConnectionBench bench = new();
        (CmConnection a, CmConnection b) = bench.Establish();
        bench.ManagerA.Disconnect(bench.Link.Now, a);
        bench.ManagerB.Disconnect(bench.Link.Now, b);
        bench.Link.RunFor(TimeSpan.FromSeconds(30));
        Assert.Equal((0, 0), (bench.ManagerA.Count, bench.ManagerB.Count));
    }

    [Fact]
    public void ROCE_73_Private_data_of_56_bytes_fits_a_request_and_57_do_not()
    {
        ConnectionBench bench = new();
        byte[] data = TestMemory.Pattern(57, 1);
        bench.Connect(out _, new CmParameters { PrivateData = data.AsMemory(0, 56) });
        bench.Link.Run();
        CmEvent request = ConnectionBench.Expect(bench.ManagerB, CmEventKind.ConnectRequest);
        Assert.Equal(data[..56], request.PrivateData.ToArray());
        QueuePair pair = bench.Link.A.CreatePair();
        CmParameters parameters = new() { PrivateData = data };
        Assert.Equal(Errno.EINVAL, bench.ManagerA.Connect(
            bench.Link.Now, bench.Link.B.Gid, ConnectionBench.Port, pair, parameters, out _));
        Assert.Equal(QueuePairState.Reset, pair.State);
    }

    public static TheoryData<string, CmRejectReason> BadRequests => new()
    {
        { "class version", CmRejectReason.InvalidClassVersion },
        { "MTU 0", CmRejectReason.InvalidMtu },
        { "MTU 15", CmRejectReason.InvalidMtu },
        { "not our address", CmRejectReason.InvalidGid },
        { "transport", CmRejectReason.InvalidTransport },
        { "other port space", CmRejectReason.InvalidServiceId },
        { "version of rdma_cm's header", CmRejectReason.ConsumerDefined },
        { "truncated", CmRejectReason.None },
        { "other class", CmRejectReason.None },
        { "QPN 0", CmRejectReason.None },
        { "QPN of multicast", CmRejectReason.None },
        { "IP version 5", CmRejectReason.None },
        { "not its own address", CmRejectReason.None },
        { "LAP", CmRejectReason.None },
        { "unknown attribute", CmRejectReason.None },
    };

    [Theory]
    [MemberData(nameof(BadRequests))]
    public void H_14_A_request_that_makes_no_sense_is_dropped_or_rejected(string what, CmRejectReason reason)
    {
        ConnectionBench bench = new();
        CmRequest good = bench.Request();
        CmRequest request = what switch
        {
            "MTU 0" => good with { PathMtu = 0 },
            "MTU 15" => good with { PathMtu = 15 },
            "not our address" => good with { RemoteGid = Gid.FromIPv4(0x01020304) },
            "transport" => good with { Transport = 3 },
            "other port space" => good with { ServiceId = 0x0111_0000 | ConnectionBench.Port },
            "version of rdma_cm's header" => good with { HeaderVersion = 1 },
            "QPN 0" => good with { QpNumber = 0 },
            "QPN of multicast" => good with { QpNumber = 0xFFFFFF },
            "IP version 5" => good with { IPVersion = 5 },
            "not its own address" => good with { LocalGid = Gid.FromIPv4(0x01020304) },
            _ => good,
        };
        byte[] mad = ConnectionBench.Bytes(request);
        mad[2] = (byte)(what == "class version" ? 1 : mad[2]);
        mad[1] = (byte)(what == "other class" ? 3 : mad[1]);
        mad[17] = (byte)(what == "LAP" ? 0x19 : what == "unknown attribute" ? 0x77 : mad[17]);
        List<(CmMessageId Id, byte[] Mad)> answers = bench.Inject(what == "truncated" ? mad[..255] : mad);
        Assert.Equal(
            reason == CmRejectReason.None ? [] : [reason], answers.Select(x => CmNotice.Parse(x.Mad, x.Id).Reason));
        ConnectionBench.ExpectNothing(bench.ManagerB);
        Assert.Equal(0, bench.ManagerB.Count);
    }

    [Theory]
    [InlineData(0, null)]
    [InlineData(1, CmDatagramReply.Rejected)]
    public void H_14_A_look_up_whose_header_is_of_another_version_is_rejected(int version, int? status)
    {
        ConnectionBench bench = new();
        Assert.Equal(Errno.Success, bench.ManagerB.Listen(ConnectionBench.Port, 1, out _, isDatagram: true));
        CmDatagramRequest request = new()
        {
            RequestId = 5,
            ServiceId = CmDatagramRequest.ServiceIdOf(ConnectionBench.Port),
            LocalGid = bench.Link.A.Gid,
            RemoteGid = bench.Link.B.Gid,
            HeaderVersion = version,
        };
        byte[] mad = new byte[MadHeader.MadBytes];
        request.WriteTo(mad, 0x55);
        int?[] answers = [.. bench.Inject(mad).Select(x => (int?)CmDatagramReply.Parse(x.Mad).Status)];
        Assert.Equal(status is null ? [] : [status], answers);
        Assert.Equal(version == 0 ? 1 : 0, bench.ManagerB.Count);
    }

    [Fact]
    public void H_15_A_flood_of_requests_fills_the_backlog_and_no_more()
    {
        ConnectionBench bench = new(backlog: 4);
        for (uint i = 0; i < 1000; i++)
        {
            Gid source = Gid.FromIPv4(0x0A630000 | i);
            bench.Inject(
                ConnectionBench.Bytes(bench.Request(i + 1) with { LocalGid = source, QpNumber = 100 + i }), source);
        }

        Assert.Equal((4, 4), (bench.ManagerB.Count, bench.Listener!.Pending));
        Assert.Equal(996, bench.ManagerB.Ignored);
    }

    // Our name, which a REJ must have, comes with the MRA to a repeated request.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void H_15_Requests_that_are_taken_back_wait_in_the_backlog_until_the_application_comes_to_them(bool isPolled)
    {
        ConnectionBench bench = new(backlog: 2);
        List<CmEvent> polled = [];
        int accepted = 0;
        for (uint i = 1; i <= 1000; i++)
        {
            accepted += AskAndTakeBack(bench, i, isPolled ? polled.Add : null) ? 1 : 0;
        }

        Assert.Equal((2, 0, 2), (accepted, bench.ManagerB.Count, bench.Listener!.Pending));
        Assert.Equal(isPolled ? 2 : 0, polled.Count);
        Assert.All(polled, e => Assert.False(bench.ManagerB.Take(e.Connection)));
        ConnectionBench.ExpectNothing(bench.ManagerB); // those that nobody polled are not told
        Assert.Equal(0, bench.Listener.Pending);
        Assert.True(AskAndTakeBack(bench, 2000));
    }

    [Fact]
    public void A_request_that_is_taken_back_from_an_application_that_has_taken_it_is_told()
    {
        ConnectionBench bench = new();
        CmConnection? taken = null;
        Assert.True(AskAndTakeBack(bench, 1, e =>
        {
            taken = e.Connection;
            Assert.True(bench.ManagerB.Take(taken));
        }));
        CmEvent rejected = ConnectionBench.Expect(bench.ManagerB, CmEventKind.Rejected);
        Assert.Equal((CmRejectReason.ConsumerDefined, CmState.Closed), (rejected.Reason, taken!.State));
        Assert.Same(taken, rejected.Connection);
    }

    [Theory]
    [InlineData("accept")]
    [InlineData("reject")]
    [InlineData("disconnect")]
    public void H_15_An_answer_to_a_request_that_was_taken_back_makes_room_in_the_backlog(string answer)
    {
        ConnectionBench bench = new(backlog: 1);
        CmConnection? asked = null;
        Assert.True(AskAndTakeBack(bench, 1, e => asked = e.Connection));
        Assert.Equal(1, bench.Listener!.Pending);
        switch (answer)
        {
            case "accept":
                Assert.Equal(Errno.EINVAL, bench.ManagerB.Accept(
                    bench.Link.Now, asked!, bench.Link.B.CreatePair(), new CmParameters()));
                break;
            case "reject":
                bench.ManagerB.Reject(asked!);
                break;
            default:
                bench.ManagerB.Disconnect(bench.Link.Now, asked!);
                break;
        }

        Assert.Equal(0, bench.Listener.Pending);
        Assert.True(AskAndTakeBack(bench, 2));
    }

    [Fact]
    public void H_15_A_listener_that_closes_gives_back_what_its_requests_held_once()
    {
        ConnectionBench bench = new(new ConnectionManagerOptions { PendingMax = 1 });
        CmConnection? asked = null;
        Assert.True(AskAndTakeBack(bench, 1, e => asked = e.Connection));
        bench.ManagerB.Close(bench.Listener!);
        Assert.Equal(Errno.Success, bench.ManagerB.Listen(ConnectionBench.Port, 4, out CmListener? next));
        bench.Inject(ConnectionBench.Bytes(bench.Request(2)));
        Assert.False(bench.ManagerB.Take(asked!));
        Assert.Equal((1, 0), (next!.Pending, bench.Listener!.Pending));
        bench.Inject(ConnectionBench.Bytes(bench.Request(3) with { QpNumber = 300 }));
        Assert.Equal(1, bench.ManagerB.Count); // of both ports together one may wait, and does
    }

    // False: the request was dropped.
    private static bool AskAndTakeBack(ConnectionBench bench, uint name, Action<CmEvent>? handle = null)
    {
        byte[] request = ConnectionBench.Bytes(bench.Request(name) with { QpNumber = 100 + name });
        Assert.Empty(bench.Inject(request));
        if (handle is not null && bench.ManagerB.PollEvent(out CmEvent e))
        {
            handle(e);
        }

        List<(CmMessageId Id, byte[] Mad)> answers = bench.Inject(request);
        if (answers.Count > 0)
        {
            CmNotice receipt = CmNotice.Parse(answers[0].Mad, answers[0].Id);
            Assert.Empty(bench.Inject(ConnectionBench.Bytes(new CmNotice
            {
                Kind = CmMessageId.ConnectReject,
                LocalId = name,
                RemoteId = receipt.LocalId,
                About = CmSubject.Request,
                Reason = CmRejectReason.ConsumerDefined,
            })));
        }

        return answers.Count > 0;
    }

    [Theory]
    [InlineData(CmMessageId.ConnectReply)]
    [InlineData(CmMessageId.ReadyToUse)]
    [InlineData(CmMessageId.DisconnectReply)]
    [InlineData(CmMessageId.ConnectReject)]
    [InlineData(CmMessageId.MessageReceipt)]
    public void H_15_Messages_for_names_that_nobody_has_are_met_with_silence(CmMessageId id)
    {
        ConnectionBench bench = new();
        byte[] mad = ConnectionBench.Bytes(new CmNotice { Kind = id, LocalId = 3, RemoteId = 4 });
        Assert.Empty(bench.Inject(mad));
        Assert.Equal(1, bench.ManagerB.Ignored);
    }

    [Fact]
    public void H_15_Strangers_are_answered_so_often_a_second_and_not_with_more_than_they_sent()
    {
        ConnectionBench bench = new(listens: false);
        int Flood() => Enumerable.Range(0, 100).Sum(
            i => bench.Inject(ConnectionBench.Bytes(bench.Request((uint)i + 1))).Count);
        Assert.Equal(10, Flood());
        Assert.Equal(0, Flood());
        bench.Link.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal(10, Flood());
    }

    [Fact]
    public void A_listener_that_closes_rejects_what_waits()
    {
        ConnectionBench bench = new();
        bench.Connect(out _);
        bench.Link.Run();
        bench.ManagerB.Close(bench.Listener!);
        bench.Link.Run();
        Assert.Equal(
            CmRejectReason.InvalidServiceId,
            ConnectionBench.Expect(bench.ManagerA, CmEventKind.Rejected).Reason);
        Assert.Equal(0, bench.ManagerB.Count);
        Assert.Equal(Errno.Success, bench.ManagerB.Listen(ConnectionBench.Port, 1, out _));
        Assert.Equal(Errno.EADDRINUSE, bench.ManagerB.Listen(ConnectionBench.Port, 1, out _));
        Assert.Equal(Errno.EINVAL, bench.ManagerB.Listen(0, 1, out _));
    }

    [Fact]
    public void F_06_Any_datagram_leaves_the_state_bounded_and_gets_no_answer_but_REJ_DREP_and_what_is_owed()
    {
        ConnectionBench bench = new(new ConnectionManagerOptions { StrangerAnswersPerSecond = 10_000 });
        (CmConnection a, CmConnection b) = bench.Establish();
        SplitMix64 random = new(6);
        HashSet<CmMessageId> seen = [];
        for (int i = 0; i < FuzzRounds.Of(20_000); i++)
        {
            byte[] mad = new byte[MadHeader.MadBytes];
            random.Fill(mad);
            CmMessageId id = (CmMessageId)(0x10 + random.Next(12));
            ConnectionBench.Bytes(new CmNotice
            {
                Kind = id,
                LocalId = random.Next(3) == 0 ? a.LocalId : (uint)random.NextUInt64(),
                RemoteId = random.Next(3) == 0 ? b.LocalId : (uint)random.NextUInt64(),
            }).AsSpan(0, 32).CopyTo(mad);
            if (random.Next(3) == 0)
            {
                ConnectionBench.Bytes(bench.Request((uint)random.Next(50) + 1)).CopyTo(mad, 0);
                mad[24 + random.Next(230)] ^= (byte)(1 << random.Next(8));
            }

            seen.UnionWith(bench.Inject(mad).Select(x => x.Id));
            Assert.True(bench.ManagerB.Count <= 16, $"{bench.ManagerB.Count} connections");
            while (bench.ManagerB.PollEvent(out CmEvent cmEvent))
            {
                if (cmEvent.Kind == CmEventKind.ConnectRequest && random.Next(2) == 0)
                {
                    bench.ManagerB.Reject(cmEvent.Connection);
                }
            }

            if (random.Next(50) == 0)
            {
                bench.Link.Advance(TimeSpan.FromSeconds(random.Next(10)));
            }
        }

        Assert.Subset(
            new HashSet<CmMessageId>
            {
                CmMessageId.ConnectReject, CmMessageId.DisconnectReply, CmMessageId.MessageReceipt,
            },
            seen);
    }

    private static bool Until(ConnectionBench bench, Func<bool> condition)
    {
        bench.Link.Run();
        for (int i = 0; i < 100; i++)
        {
            if (condition())
            {
                return true;
            }

            bench.Link.Advance((bench.Link.NextDeadline ?? bench.Link.Now) - bench.Link.Now);
            bench.Link.Run();
        }

        return false;
    }
}
