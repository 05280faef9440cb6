using Wayleave.Core;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma.Connections;

/// <summary>
/// Connections whose queue pairs the application moves, look-ups for datagrams, and listeners that change.
/// </summary>
public class OwnQueuePairTests
{
    private const ushort Port = 4000;

    private static readonly CmParameters s_own = new() { MovesPair = false };

    [Fact]
    public void The_application_moves_its_queue_pair_by_what_the_manager_says()
    {
        ConnectionBench bench = new();
        CmConnection a = bench.Connect(out QueuePair pairA, s_own);
        Assert.Equal(QueuePairState.Reset, pairA.State);
        Assert.Null(bench.ManagerA.Describe(a));
        bench.Link.Run();
        CmConnection b = bench.Accept(out QueuePair pairB, s_own);
        Move(pairB, bench.ManagerB.Describe(b)!);
        bench.Link.Run();
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.ConnectResponse);
        Assert.Equal(CmState.ReplyReceived, a.State);
        Move(pairA, bench.ManagerA.Describe(a)!);
        Assert.Equal(pairA.Attributes.SqPsn, pairB.Attributes.RqPsn);
        Assert.Equal(pairB.Attributes.SqPsn, pairA.Attributes.RqPsn);
        Assert.Equal((pairB.QpNumber, pairA.QpNumber), (pairA.Attributes.DestQpNumber, pairB.Attributes.DestQpNumber));
        Assert.Equal(Errno.Success, bench.ManagerA.Establish(a));
        Assert.False(bench.ManagerA.PollEvent(out _));
        bench.Link.Run();
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Established);
        bench.ManagerA.Disconnect(bench.Link.Now, a);
        bench.Link.Run();
        Assert.Equal((QueuePairState.ReadyToSend, QueuePairState.ReadyToSend), (pairA.State, pairB.State));
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Disconnected);
    }

    [Fact]
    public void An_answer_that_the_application_does_not_want_is_rejected_to_the_other_side()
    {
        ConnectionBench bench = new();
        CmConnection a = bench.Connect(out _, s_own);
        bench.Link.Run();
        bench.Accept(out _);
        bench.Link.Run();
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.ConnectResponse);
        bench.ManagerA.Reject(a, new byte[] { 5 });
        bench.Link.Run();
        CmEvent rejected = ConnectionBench.Expect(bench.ManagerB, CmEventKind.Rejected);
        Assert.Equal((CmRejectReason.ConsumerDefined, 5), (rejected.Reason, rejected.PrivateData.Span[0]));
        Assert.Equal((0, 0), (bench.ManagerA.Count, bench.ManagerB.Count));
    }

    [Fact]
    public void A_look_up_names_the_queue_pair_and_its_key_and_a_repetition_gets_the_same_answer()
    {
        ConnectionBench bench = new();
        Assert.Equal(Errno.Success, bench.ManagerB.Listen(Port, 4, out _, isDatagram: true));
        CmConnection a = Resolve(bench, new byte[] { 1, 2 });
        bench.Link.Run();
        CmEvent asked = ConnectionBench.Expect(bench.ManagerB, CmEventKind.ConnectRequest);
        Assert.Equal([1, 2, 0], asked.PrivateData[..3].ToArray());
        CmConnection b = asked.Connection;
        Assert.Equal((true, Port), (b.IsDatagram, b.Port));
        Assert.Equal(Errno.EINVAL, bench.ManagerB.Serve(b, 1, 0, default));
        Assert.Equal(Errno.Success, bench.ManagerB.Serve(b, 0x1234, 0x0123_4567, new byte[] { 9 }));
        Assert.Equal(Errno.EINVAL, bench.ManagerB.Serve(b, 0x1234, 0x0123_4567, default));
        bench.Link.Run();
        CmEvent found = ConnectionBench.Expect(bench.ManagerA, CmEventKind.Established);
        Assert.Same(a, found.Connection);
        Assert.Equal((0x1234u, 0x0123_4567u), (a.RemoteQpNumber, a.RemoteQKey));
        Assert.Equal([9, 0], found.PrivateData[..2].ToArray());
        Assert.Equal((0, 1), (bench.ManagerA.Count, bench.ManagerB.Count));
        bench.ManagerB.Disconnect(bench.Link.Now, b);
        Assert.Equal(0, bench.ManagerB.Count);
    }

    [Fact]
    public void A_look_up_is_refused_where_nobody_listens_and_by_who_listens()
    {
        ConnectionBench bench = new();
        CmConnection nobody = Resolve(bench, default);
        bench.Link.Run();
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.Unreachable);
        Assert.Equal(CmDatagramReply.Unsupported, nobody.DatagramStatus);

        Assert.Equal(Errno.Success, bench.ManagerB.Listen(Port, 4, out CmListener? listener, isDatagram: true));
        CmConnection refused = Resolve(bench, default);
        bench.Link.Run();
        bench.ManagerB.Reject(ConnectionBench.Expect(bench.ManagerB, CmEventKind.ConnectRequest).Connection);
        bench.Link.Run();
        ConnectionBench.Expect(bench.ManagerA, CmEventKind.Unreachable);
        Assert.Equal(CmDatagramReply.Rejected, refused.DatagramStatus);

        // The listener of connections at the same port is another.
        Assert.Equal(0, listener!.Pending);
        Assert.Equal((0, 0), (bench.ManagerA.Count, bench.ManagerB.Count));
    }

    [Theory]
    [InlineData(0, false)]
    [InlineData(10, true)]
    public void A_request_for_a_port_whose_listener_has_just_gone_waits_for_the_next_one(int grace, bool waits)
    {
        ConnectionBench bench = new(
            new ConnectionManagerOptions { ListenerGrace = TimeSpan.FromSeconds(grace) }, listens: false);
        Assert.Equal(Errno.Success, bench.ManagerB.Listen(ConnectionBench.Port, 4, out CmListener? first));
        bench.ManagerB.Close(first!);
        CmConnection a = bench.Connect(out _);
        bench.Link.Run();
        Assert.Equal(waits, !bench.ManagerA.PollEvent(out CmEvent _));
        Assert.Equal(Errno.Success, bench.ManagerB.Listen(ConnectionBench.Port, 4, out CmListener? second));
        Assert.Equal(waits, bench.ManagerB.PollEvent(out CmEvent asked));
        if (waits)
        {
            // Nor does one that nobody took die with its listener; one that was taken is the application's.
            bench.ManagerB.Close(second!);
            Assert.Equal(CmState.Closed, asked.Connection.State);
            Assert.Equal(Errno.Success, bench.ManagerB.Listen(ConnectionBench.Port, 4, out CmListener? third));
            CmConnection taken = ConnectionBench.Expect(bench.ManagerB, CmEventKind.ConnectRequest).Connection;
            bench.ManagerB.Take(taken);
            bench.ManagerB.Close(third!);
            Assert.Equal(CmState.RequestReceived, taken.State);
            Assert.Equal(CmState.RequestSent, a.State);
        }
    }

    [Fact]
    public void A_request_that_waits_in_vain_is_refused_with_reason_8()
    {
        ConnectionBench bench = new(
            new ConnectionManagerOptions { ListenerGrace = TimeSpan.FromSeconds(1) }, listens: false);
        Assert.Equal(Errno.Success, bench.ManagerB.Listen(ConnectionBench.Port, 4, out CmListener? gone));
        bench.ManagerB.Close(gone!);
        bench.Connect(out _);
        bench.Link.RunFor(TimeSpan.FromSeconds(2));
        CmEvent rejected = ConnectionBench.Expect(bench.ManagerA, CmEventKind.Rejected);
        Assert.Equal(CmRejectReason.InvalidServiceId, rejected.Reason);
    }

    private static CmConnection Resolve(ConnectionBench bench, ReadOnlyMemory<byte> data)
    {
        Assert.Equal(
            Errno.Success,
            bench.ManagerA.Resolve(
                bench.Link.Now, bench.Link.B.Gid, Port, data, out CmConnection? connection));
        return connection!;
    }

    private static void Move(QueuePair pair, QueuePairAttributes attributes)
    {
        foreach (QueuePairState state in new[]
            { QueuePairState.Init, QueuePairState.ReadyToReceive, QueuePairState.ReadyToSend })
        {
            if (pair.State < state)
            {
                QueuePairTransitions.TryGet(
                    pair.State, state, pair.Type, out QueuePairAttributeMask required, out _);
                Assert.Equal(
                    Errno.Success,
                    pair.Modify(attributes with { State = state }, required | QueuePairAttributeMask.State));
            }
        }
    }
}
