using System.Runtime.CompilerServices;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Connections;

/// <summary>
/// A queue pair is in one connection at a time, and in none for a while afterwards: what becomes of requests that say
/// otherwise, and of the connection that they contradict.
/// </summary>
public class StaleConnectionTests
{
    // A has never heard of the connection that B has with its address: it was asked for by hand.
    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    public void A_request_of_a_peer_that_has_forgotten_ends_the_old_connection_once_it_says_so(int lost)
    {
        ConnectionBench bench = new();
        (CmRequest request, CmConnection b) = EstablishByHand(bench);
        List<(CmMessageId Id, byte[] Mad)> answers =
            bench.Inject(ConnectionBench.Bytes(request with { LocalId = 0x9999 }));
        Assert.Equal([CmMessageId.ConnectReject, CmMessageId.DisconnectRequest], answers.Select(x => x.Id));
        Assert.Equal(CmRejectReason.StaleConnection, CmNotice.Parse(answers[0].Mad, answers[0].Id).Reason);
        Assert.Equal(QueuePairState.ReadyToSend, b.Pair!.State); // the question was lost with Inject
        bench.Loses = (_, name) => name == "DisconnectReply" && lost-- > 0;
        bench.Link.RunFor(TimeSpan.FromSeconds(20));
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Disconnected);
        Assert.Equal(QueuePairState.Error, b.Pair.State);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_request_forged_in_a_peers_name_does_not_end_its_connection(bool isListenedTo)
    {
        ConnectionBench bench = new();
        (CmConnection a, CmConnection b) = bench.Establish();
        Forge(bench, b, isListenedTo ? ConnectionBench.Port : (ushort)9);
        int questions = bench.Link.Log.Count;
        bench.Link.RunFor(TimeSpan.FromMinutes(1));
        Assert.Equal(isListenedTo ? 3 : 0, bench.Link.Log.Count - questions); // the first went with Forge; no answer
        ConnectionBench.ExpectNothing(bench.ManagerB);
        ConnectionBench.ExpectNothing(bench.ManagerA);
        bench.SendBothWays(a.Pair!, b.Pair!);
        bench.ManagerA.Disconnect(bench.Link.Now, a);
        bench.Link.Run();
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Disconnected);
    }

    [Fact]
    public void Twin_a_manager_that_asks_nobody_loses_its_connection_to_a_forged_request()
    {
        ConnectionBench bench = new(new ConnectionManagerOptions { AsksBeforeEnding = false });
        (_, CmConnection b) = bench.Establish();
        Forge(bench, b, 9);
        ConnectionBench.ExpectNothing(bench.ManagerB); // nobody listens there: this much is looked at all the same
        Forge(bench, b, ConnectionBench.Port);
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Disconnected);
        Assert.Equal(QueuePairState.Error, b.Pair!.State);
    }

    [Theory]
    [InlineData("other dialog")]
    [InlineData("other name of the peer")]
    [InlineData("other source")]
    [InlineData("nothing was asked")]
    public void An_answer_to_what_was_not_asked_does_not_end_a_connection(string what)
    {
        ConnectionBench bench = new();
        (CmRequest request, CmConnection b) = EstablishByHand(bench);
        ulong question = 0x55;
        if (what != "nothing was asked")
        {
            (_, byte[] mad) = bench.Inject(ConnectionBench.Bytes(request with { LocalId = 0x9999 }))[1];
            Assert.True(MadHeader.TryParse(mad, out MadHeader header));
            question = header.TransactionId;
        }

        Assert.True(Gid.TryParse("10.77.0.66", out Gid stranger));
        CmNotice reply = new()
        {
            Kind = CmMessageId.DisconnectReply,
            LocalId = request.LocalId ^ (what == "other name of the peer" ? 1u : 0),
            RemoteId = b.LocalId,
        };
        byte[] bytes = ConnectionBench.Bytes(reply, question ^ (what == "other dialog" ? 1u : 0));
        Assert.Empty(bench.Inject(bytes, what == "other source" ? stranger : null));
        Assert.Equal((CmState.Established, QueuePairState.ReadyToSend), (b.State, b.Pair!.State));
    }

    // A peer that has said which timeout it wants has said how long we wait afterwards.
    [Theory]
    [InlineData(17, 1.1)]
    [InlineData(19, 4.3)]
    [InlineData(20, 8.6)]
    [InlineData(30, 8.6)]
    [InlineData(31, 8.6)]
    public void Time_wait_is_twice_the_peers_timeout_and_never_longer_than_ours(int code, double seconds)
    {
        ConnectionBench bench = new();
        (CmRequest request, CmConnection b) = EstablishByHand(bench, code);
        EndByHand(bench, request, b);
        bench.Link.RunFor(TimeSpan.FromSeconds(seconds - 0.1));
        Assert.Equal(CmState.TimeWait, b.State);
        bench.Link.RunFor(TimeSpan.FromSeconds(0.2));
        Assert.Equal(CmState.Closed, b.State);
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.TimeWaitOver);
    }

    [Fact]
    public void Twin_a_manager_without_a_limit_waits_for_hours_because_its_peer_says_so()
    {
        ConnectionBench bench = new(new ConnectionManagerOptions { TimeWaitCodeMax = 31 });
        (CmRequest request, CmConnection b) = EstablishByHand(bench, 31);
        EndByHand(bench, request, b);
        bench.Link.RunFor(TimeSpan.FromHours(2));
        Assert.Equal(CmState.TimeWait, b.State);
    }

    // One that waits longer stands before those behind it, and is not what makes them too many.
    [Fact]
    public void What_has_left_time_wait_takes_no_place_in_it()
    {
        ConnectionBench bench = new(new ConnectionManagerOptions { TimeWaitMax = 2 });
        CmConnection first = ReachTimeWait(bench, 0x1111, ackTimeout: 20);
        CmConnection second = ReachTimeWait(bench, 0x2222);
        bench.Link.RunFor(TimeSpan.FromSeconds(2));
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.TimeWaitOver);
        CmConnection third = ReachTimeWait(bench, 0x3333);
        Assert.Equal(
            (CmState.TimeWait, CmState.Closed, CmState.TimeWait), (first.State, second.State, third.State));
    }

    // Both are due in the same turn: the one enters time-wait, and the other leaves it for that.
    [Fact]
    public void A_connection_that_makes_room_in_time_wait_is_over_though_it_was_due_itself()
    {
        ConnectionBench bench = new(new ConnectionManagerOptions { TimeWaitMax = 1, RetriesMax = 1 });
        (CmConnection asking, _) = bench.Establish();
        (CmConnection waiting, _) = bench.Establish();
        bench.Loses = (_, name) => name == "DisconnectRequest";
        bench.ManagerA.Disconnect(bench.Link.Now, asking);
        bench.Link.RunFor(TimeSpan.FromSeconds(8.4));
        bench.Loses = null;
        bench.ManagerA.Disconnect(bench.Link.Now, waiting);
        bench.Link.Run();
        Assert.Equal((CmState.DisconnectSent, CmState.TimeWait), (asking.State, waiting.State));
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.Disconnected);

        bench.Link.Advance(TimeSpan.FromSeconds(2));
        Assert.Equal((CmState.TimeWait, CmState.Closed), (asking.State, waiting.State));
        Assert.Same(waiting, ConnectionBench.Expect(bench.ManagerA, CmEventKind.TimeWaitOver).Connection);
        Assert.Same(asking, ConnectionBench.Expect(bench.ManagerA, CmEventKind.Disconnected).Connection);
        bench.Link.RunFor(TimeSpan.FromSeconds(30));
        Assert.Same(asking, ConnectionBench.Expect(bench.ManagerA, CmEventKind.TimeWaitOver).Connection);
        ConnectionBench.ExpectNothing(bench.ManagerA);
    }

    [Fact]
    public void A_queue_pair_that_was_destroyed_is_let_go_when_its_time_wait_is_over()
    {
        ConnectionBench bench = new();
        WeakReference pair = MakeAndDestroy(bench);
        MakeAndDestroy(bench); // what knows the last one only knows this one now
        Assert.Equal((0, 0), (bench.ManagerA.Count, bench.ManagerB.Count));
        for (int i = 0; i < 3 && pair.IsAlive; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }

        Assert.False(pair.IsAlive);
        GC.KeepAlive(bench);
    }

    // No local of the caller may hold what is made here.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static WeakReference MakeAndDestroy(ConnectionBench bench)
    {
        (CmConnection a, CmConnection b) = bench.Establish();
        bench.ManagerA.Disconnect(bench.Link.Now, a);
        bench.Link.RunFor(TimeSpan.FromSeconds(30));
        while (bench.ManagerA.PollEvent(out _) || bench.ManagerB.PollEvent(out _))
        {
        }

        bench.Link.A.Device.DestroyQueuePair(a.Pair!);
        bench.Link.B.Device.DestroyQueuePair(b.Pair!);
        bench.Link.Run();
        return new WeakReference(a.Pair);
    }

    private static void Forge(ConnectionBench bench, CmConnection victim, ushort port)
    {
        CmRequest request = bench.Request(0x9999) with
        {
            QpNumber = victim.RemoteQpNumber,
            ServiceId = CmRequest.ServiceIdOf(port),
        };
        (CmMessageId id, byte[] mad) = bench.Inject(ConnectionBench.Bytes(request))[0];
        Assert.Equal(CmRejectReason.StaleConnection, CmNotice.Parse(mad, id).Reason);
    }

    // cm_dup_req_handler and cm_match_req of Linux.
    [Fact]
    public void A_request_repeated_in_time_wait_is_rejected_as_stale()
    {
        (ConnectionBench bench, CmRequest request, CmConnection b) = InTimeWait();
        (CmMessageId id, byte[] mad) = Assert.Single(bench.Inject(ConnectionBench.Bytes(request)));
        CmNotice reject = CmNotice.Parse(mad, id);
        Assert.Equal(
            (CmMessageId.ConnectReject, CmSubject.None, b.LocalId, request.LocalId, CmRejectReason.StaleConnection),
            (reject.Kind, reject.About, reject.LocalId, reject.RemoteId, reject.Reason));
        Assert.Equal(CmState.TimeWait, b.State);
        ConnectionBench.ExpectNothing(bench.ManagerB);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_request_of_a_queue_pair_in_time_wait_is_rejected_as_stale_until_that_is_over(bool isListenedTo)
    {
        (ConnectionBench bench, CmRequest request, CmConnection b) = InTimeWait();
        CmRequest again = request with { LocalId = 0x2222, StartingPsn = 7 };
        CmRequest wanted = isListenedTo ? again : again with { ServiceId = CmRequest.ServiceIdOf(9) };
        (CmMessageId id, byte[] mad) = Assert.Single(bench.Inject(ConnectionBench.Bytes(wanted)));
        CmNotice reject = CmNotice.Parse(mad, id);
        Assert.Equal(
            (CmMessageId.ConnectReject, CmSubject.Request, 0u, 0x2222u, CmRejectReason.StaleConnection),
            (reject.Kind, reject.About, reject.LocalId, reject.RemoteId, reject.Reason));
        Assert.Equal((CmState.TimeWait, 1), (b.State, bench.ManagerB.Count));

        bench.Link.RunFor(TimeSpan.FromSeconds(2));
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.TimeWaitOver);
        Assert.Empty(bench.Inject(ConnectionBench.Bytes(again)));
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.ConnectRequest);
    }

    [Fact]
    public void A_queue_pair_that_asks_already_is_rejected_as_stale_when_it_asks_for_another_connection()
    {
        ConnectionBench bench = new();
        Assert.Empty(bench.Inject(ConnectionBench.Bytes(bench.Request())));
        (CmMessageId id, byte[] mad) = Assert.Single(bench.Inject(ConnectionBench.Bytes(bench.Request(0x2222))));
        Assert.Equal(CmRejectReason.StaleConnection, CmNotice.Parse(mad, id).Reason);
        CmEvent first = ConnectionBench.Expect(bench.ManagerB, CmEventKind.ConnectRequest);
        ConnectionBench.ExpectNothing(bench.ManagerB);

        bench.ManagerB.Reject(first.Connection);
        Assert.Contains(
            bench.Inject(ConnectionBench.Bytes(bench.Request(0x2222))), m => m.Id == CmMessageId.ConnectReject);
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.ConnectRequest);
    }

    // B has ended a connection that a stranger's request asked for.
    private static (ConnectionBench Bench, CmRequest Request, CmConnection B) InTimeWait()
    {
        ConnectionBench bench = new();
        (CmRequest request, CmConnection b) = EstablishByHand(bench);
        EndByHand(bench, request, b);
        return (bench, request, b);
    }

    private static CmConnection ReachTimeWait(ConnectionBench bench, uint name, int ackTimeout = 17)
    {
        (CmRequest request, CmConnection b) = EstablishByHand(bench, ackTimeout, name);
        EndByHand(bench, request, b);
        return b;
    }

    // A connection that A knows nothing of.
    private static (CmRequest Request, CmConnection B) EstablishByHand(
        ConnectionBench bench, int ackTimeout = 17, uint name = 0x1111)
    {
        CmRequest request = bench.Request(name) with { AckTimeout = ackTimeout, QpNumber = name + 1 };
        Assert.Empty(bench.Inject(ConnectionBench.Bytes(request)));
        CmConnection b = bench.Accept(out _);
        bench.Inject(ConnectionBench.Bytes(
            new CmNotice { Kind = CmMessageId.ReadyToUse, LocalId = request.LocalId, RemoteId = b.LocalId }));
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Established);
        return (request, b);
    }

    private static void EndByHand(ConnectionBench bench, CmRequest request, CmConnection b)
    {
        (CmMessageId id, _) = Assert.Single(bench.Inject(ConnectionBench.Bytes(new CmNotice
        {
            Kind = CmMessageId.DisconnectRequest,
            LocalId = request.LocalId,
            RemoteId = b.LocalId,
            RemoteQpNumber = b.Pair!.QpNumber,
        })));
        Assert.Equal(CmMessageId.DisconnectReply, id);
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Disconnected);
        Assert.Equal(CmState.TimeWait, b.State);
    }
}
