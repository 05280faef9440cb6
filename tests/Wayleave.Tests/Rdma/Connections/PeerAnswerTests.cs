using System.Buffers.Binary;
using System.Text;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma.Connections;

/// <summary>
/// A peer knows the names of what is between it and us, and may answer it with any message: all of it, and in any
/// order.
/// </summary>
public class PeerAnswerTests
{
    private const uint PeersName = 0x1111;

    private static readonly CmParameters s_own = new() { MovesPair = false };

    private static readonly byte[] s_nothing = new byte[MadHeader.MadBytes];

    private static readonly string[] s_stages =
    [
        "look-up sent", "look-up received", "look-up served", "REQ sent", "REQ sent, own pair", "REQ received",
        "REP received, own pair", "REP sent", "established, active", "established, passive", "DREQ sent", "time-wait",
    ];

    [Fact]
    public void H_14_Every_answer_at_every_stage()
    {
        StringBuilder text = new();
        foreach (string stage in s_stages)
        {
            text.Append(stage).Append('\n');
            foreach (CmMessageId kind in Enum.GetValues<CmMessageId>())
            {
                (ConnectionBench bench, CmConnection connection) = Reach(stage);
                CmState before = connection.State;
                string answers = string.Join(' ', bench.Inject(Answer(bench, kind, connection)).Select(x => x.Id));
                List<CmEvent> raised = Events(bench.ManagerB);
                string events = string.Join(' ', raised.Select(e => e.Kind));
                string state = connection.State == before ? "" : $"-> {connection.State}";
                string[] parts = [state, answers.Length == 0 ? "" : $"answer {answers}", $"event {events}"];
                string what = string.Join(", ", parts.Where(p => p.Length > "event ".Length));
                text.Append($"  {kind,-22} {(what.Length == 0 ? "nothing" : what)}\n");
                End(bench, [connection, .. raised.Select(e => e.Connection)]);
            }
        }

        Snapshot.Match(text.ToString(), "ConnectionAnswers");
    }

    // A look-up has no queue pair that a REP could connect.
    [Fact]
    public void H_14_A_look_up_that_is_answered_with_a_REP_goes_on()
    {
        (ConnectionBench bench, CmConnection lookUp) = Reach("look-up sent");
        Assert.Empty(bench.Inject(Answer(bench, CmMessageId.ConnectReply, lookUp)));
        Assert.Equal((CmState.RequestSent, 1), (lookUp.State, bench.ManagerB.Count));
        bench.Inject(Answer(bench, CmMessageId.ServiceIdReply, lookUp));
        ConnectionBench.Expect(bench.ManagerB, CmEventKind.Established);
        Assert.Equal(0x99u, lookUp.RemoteQpNumber);
    }

    // The name of a look-up and the name and GUID of a request could be the same bits.
    [Fact]
    public void H_14_A_request_named_as_a_look_up_is_another()
    {
        (ConnectionBench bench, CmConnection lookUp) = Reach("look-up received");
        bench.Inject(Answer(bench, CmMessageId.ConnectRequest, lookUp));
        CmEvent asked = ConnectionBench.Expect(bench.ManagerB, CmEventKind.ConnectRequest);
        Assert.False(asked.Connection.IsDatagram);
    }

    [Fact]
    public void F_06_H_14_Nothing_that_a_peer_answers_throws_or_leaves_a_connection()
    {
        for (int seed = 0; seed < FuzzRounds.Of(250); seed++)
        {
            try
            {
                new Hunt((ulong)seed).Run();
            }
            catch (Exception e) when (e is not Xunit.Sdk.XunitException)
            {
                Assert.Fail($"seed {seed}: {e}");
            }
        }
    }

    // B is at the stage, and what it has sent is gone.
    private static (ConnectionBench Bench, CmConnection Connection) Reach(string stage)
    {
        ConnectionBench bench = new(new ConnectionManagerOptions { RetriesMax = 2 });
        ConnectionManager b = bench.ManagerB;
        TimeSpan now = bench.Link.Now;
        Assert.Equal(Errno.Success, b.Listen(ConnectionBench.Port, 4, out _, isDatagram: true));
        CmConnection? connection;
        switch (stage)
        {
            case "look-up sent":
                Assert.Equal(Errno.Success, b.Resolve(now, bench.Link.A.Gid, 7, default, out connection));
                break;
            case "look-up received" or "look-up served":
                bench.Inject(LookUp(bench, PeersName));
                connection = ConnectionBench.Expect(b, CmEventKind.ConnectRequest).Connection;
                if (stage == "look-up served")
                {
                    Assert.Equal(Errno.Success, b.Serve(connection, 0x99, 1, default));
                }

                break;
            case "REQ sent" or "REQ sent, own pair" or "REP received, own pair" or "established, active":
                CmParameters asked = stage.Contains("own", StringComparison.Ordinal) ? s_own : new CmParameters();
                QueuePair pair = bench.Link.B.CreatePair();
                Assert.Equal(Errno.Success, b.Connect(now, bench.Link.A.Gid, 7, pair, asked, out connection));
                if (!stage.StartsWith("REQ", StringComparison.Ordinal))
                {
                    bench.Inject(Answer(bench, CmMessageId.ConnectReply, connection!));
                    ConnectionBench.Expect(
                        b, stage[0] == 'R' ? CmEventKind.ConnectResponse : CmEventKind.Established);
                }

                break;
            default:
                bench.Inject(Request(bench, PeersName));
                connection = stage == "REQ received"
                    ? ConnectionBench.Expect(b, CmEventKind.ConnectRequest).Connection
                    : bench.Accept(out _);
                if (stage is not ("REQ received" or "REP sent"))
                {
                    bench.Inject(Answer(bench, CmMessageId.ReadyToUse, connection));
                    ConnectionBench.Expect(b, CmEventKind.Established);
                }

                if (stage is "DREQ sent" or "time-wait")
                {
                    b.Disconnect(now, connection);
                }

                if (stage == "time-wait")
                {
                    bench.Inject(Answer(bench, CmMessageId.DisconnectReply, connection));
                    ConnectionBench.Expect(b, CmEventKind.Disconnected);
                }

                break;
        }

        bench.Inject(s_nothing);
        return (bench, connection!);
    }

    // What fits all names of a connection.
    private static byte[] Answer(ConnectionBench bench, CmMessageId kind, CmConnection connection)
    {
        uint peers = connection.RemoteId == 0 ? PeersName : connection.RemoteId;
        byte[] mad = new byte[MadHeader.MadBytes];
        switch (kind)
        {
            case CmMessageId.ConnectRequest:
                return Request(bench, peers);
            case CmMessageId.ServiceIdRequest:
                return LookUp(bench, peers);
            case CmMessageId.ConnectReply:
                new CmReply
                {
                    LocalId = peers,
                    RemoteId = connection.LocalId,
                    QpNumber = 0x78,
                    StartingPsn = 1,
                    ResponderResources = 1,
                    InitiatorDepth = 1,
                    NodeGuid = 1,
                }.WriteTo(mad, connection.TransactionId);
                break;
            case CmMessageId.ServiceIdReply:
                new CmDatagramReply
                {
                    RequestId = connection.LocalId,
                    Status = CmDatagramReply.Success,
                    QpNumber = 0x99,
                }.WriteTo(mad, connection.TransactionId);
                break;
            default:
                new CmNotice
                {
                    Kind = kind,
                    LocalId = peers,
                    RemoteId = connection.LocalId,
                    RemoteQpNumber = connection.Pair?.QpNumber ?? 0,
                    About = connection.State == CmState.RequestSent ? CmSubject.Request : CmSubject.Reply,
                    Reason = CmRejectReason.ConsumerDefined,
                    ServiceTimeout = 20,
                }.WriteTo(mad, connection.TransactionId);
                break;
        }

        return mad;
    }

    private static byte[] Request(ConnectionBench bench, uint name) =>
        ConnectionBench.Bytes(bench.Request(name) with { NodeGuid = ulong.MaxValue });

    private static byte[] LookUp(ConnectionBench bench, uint name)
    {
        byte[] mad = new byte[MadHeader.MadBytes];
        new CmDatagramRequest
        {
            RequestId = name,
            ServiceId = CmDatagramRequest.ServiceIdOf(ConnectionBench.Port),
            LocalGid = bench.Link.A.Gid,
            RemoteGid = bench.Link.B.Gid,
        }.WriteTo(mad, 0x55);
        return mad;
    }

    private static List<CmEvent> Events(ConnectionManager manager)
    {
        List<CmEvent> events = [];
        while (manager.PollEvent(out CmEvent e))
        {
            events.Add(e);
        }

        return events;
    }

    // The application ends all that it knows; then time alone ends the rest.
    private static void End(ConnectionBench bench, List<CmConnection> known)
    {
        known.AddRange(Events(bench.ManagerB).Select(e => e.Connection));
        foreach (CmConnection connection in known)
        {
            bench.ManagerB.Disconnect(bench.Link.Now, connection);
        }

        for (int i = 0; i < 30 && bench.ManagerB.Count > 0; i++)
        {
            bench.Link.Advance(TimeSpan.FromHours(1));
            bench.Inject(s_nothing);
            foreach (CmEvent e in Events(bench.ManagerB))
            {
                bench.ManagerB.Disconnect(bench.Link.Now, e.Connection);
            }
        }

        Assert.Equal(0, bench.ManagerB.Count);
    }

    /// <summary>
    /// An application of B that does anything at any time, and a peer that answers with names, transactions and numbers
    /// that it has seen, the latest ones more often.
    /// </summary>
    private sealed class Hunt
    {
        private readonly SplitMix64 _random;
        private readonly ConnectionBench _bench;
        private readonly List<uint> _names = [0, PeersName, 0x2222, 0x3333];
        private readonly List<ulong> _transactions = [0x55];
        private readonly List<uint> _numbers = [0, 0x77, 0x78];
        private readonly List<CmConnection> _known = [];
        private CmListener? _lookUps;

        public Hunt(ulong seed)
        {
            _random = new SplitMix64(seed);
            _bench = new ConnectionBench(new ConnectionManagerOptions
            {
                TimeWaitMax = 1 + _random.Next(3),
                RetriesMax = _random.Next(3),
                ListenerGrace = TimeSpan.FromSeconds(_random.Next(3)),
                StrangerAnswersPerSecond = 60_000,
            });
            Manager.Listen(ConnectionBench.Port, 4, out _lookUps, isDatagram: true);
        }

        private ConnectionManager Manager => _bench.ManagerB;

        public void Run()
        {
            for (int step = 0; step < 60; step++)
            {
                if (_random.Next(20) is < 12 and int command)
                {
                    Command(command);
                    Learn(_bench.Inject(s_nothing));
                }
                else
                {
                    Learn(_bench.Inject(Message()));
                }
            }

            End(_bench, _known);
        }

        private void Command(int which)
        {
            TimeSpan now = _bench.Link.Now;
            CmParameters parameters = _random.Next(2) == 0 ? s_own : new CmParameters();
            CmConnection? made = null;
            CmConnection? one = _known.Count == 0 ? null : Pick(_known);
            switch (which)
            {
                case 0:
                    QueuePair pair = _bench.Link.B.CreatePair();
                    Manager.Connect(now, _bench.Link.A.Gid, 7, pair, parameters, out made);
                    break;
                case 1:
                    Manager.Resolve(now, _bench.Link.A.Gid, 7, default, out made);
                    break;
                case 2 or 3:
                    HandleEvents();
                    break;
                case 4:
                    _bench.Link.Advance(TimeSpan.FromMilliseconds(_random.Next(3) * _random.Next(5000)));
                    break;
                case 5 when _random.Next(4) == 0:
                    ToggleListener();
                    break;
                case 6 when one is not null:
                    Manager.Accept(now, one, _bench.Link.B.CreatePair(), parameters);
                    break;
                case 7 when one is not null:
                    Manager.Serve(one, 0x99, 1, default);
                    break;
                case 8 when one is not null:
                    Manager.Reject(one);
                    break;
                case 9 when one is not null:
                    Manager.Disconnect(now, one);
                    break;
                case 10 when one is not null:
                    Manager.Establish(one);
                    Manager.Describe(one);
                    break;
                case 11 when one?.Pair is { } destroyed && _random.Next(4) == 0:
                    _bench.Link.B.Device.DestroyQueuePair(destroyed);
                    break;
                default:
                    break;
            }

            if (made is not null)
            {
                _known.Add(made);
            }
        }

        private void HandleEvents()
        {
            foreach (CmEvent e in Events(Manager))
            {
                _known.Add(e.Connection);
                if (e.Kind == CmEventKind.ConnectRequest && _random.Next(2) == 0)
                {
                    Manager.Take(e.Connection);
                }
            }
        }

        private void ToggleListener()
        {
            if (_lookUps is not null)
            {
                Manager.Close(_lookUps);
                _lookUps = null;
            }
            else
            {
                Manager.Listen(ConnectionBench.Port, 2, out _lookUps, isDatagram: true);
            }
        }

        private byte[] Message()
        {
            byte[] mad = new byte[MadHeader.MadBytes];
            CmMessageId kind = (CmMessageId)(0x10 + _random.Next(11));
            ulong transaction = Pick(_transactions);
            switch (kind)
            {
                case CmMessageId.ConnectRequest:
                    (_bench.Request(Pick(_names)) with
                    {
                        QpNumber = Pick(_numbers),
                        NodeGuid = _random.Next(2) == 0 ? 0xABCD : ulong.MaxValue,
                    }).WriteTo(mad, transaction);
                    break;
                case CmMessageId.ConnectReply:
                    new CmReply
                    {
                        LocalId = Pick(_names),
                        RemoteId = Pick(_names),
                        QpNumber = Pick(_numbers),
                        StartingPsn = 1,
                        ResponderResources = _random.Next(256),
                        InitiatorDepth = _random.Next(256),
                        NodeGuid = 1,
                    }.WriteTo(mad, transaction);
                    break;
                case CmMessageId.ServiceIdRequest:
                    return LookUp(_bench, Pick(_names));
                case CmMessageId.ServiceIdReply:
                    new CmDatagramReply
                    {
                        RequestId = Pick(_names),
                        Status = _random.Next(3),
                        QpNumber = Pick(_numbers),
                    }.WriteTo(mad, transaction);
                    break;
                default:
                    new CmNotice
                    {
                        Kind = kind,
                        LocalId = Pick(_names),
                        RemoteId = Pick(_names),
                        RemoteQpNumber = Pick(_numbers),
                        About = (CmSubject)_random.Next(4),
                        Reason = (CmRejectReason)(_random.Next(2) == 0 ? 10 : _random.Next(40)),
                        ServiceTimeout = _random.Next(32),
                    }.WriteTo(mad, transaction);
                    break;
            }

            return mad;
        }

        // Whatever could be a name or a number of a queue pair in what B has sent.
        private void Learn(List<(CmMessageId Id, byte[] Mad)> sent)
        {
            foreach ((_, byte[] mad) in sent)
            {
                _transactions.Add(BinaryPrimitives.ReadUInt64BigEndian(mad.AsSpan(8)));
                _names.Add(BinaryPrimitives.ReadUInt32BigEndian(mad.AsSpan(24)));
                _names.Add(BinaryPrimitives.ReadUInt32BigEndian(mad.AsSpan(28)));
                _numbers.Add(BinaryPrimitives.ReadUInt32BigEndian(mad.AsSpan(36)) >> 8);
                _numbers.Add(BinaryPrimitives.ReadUInt32BigEndian(mad.AsSpan(56)) >> 8);
            }
        }

        private T Pick<T>(List<T> from) => _random.Next(3) == 0
            ? from[_random.Next(from.Count)]
            : from[Math.Max(0, from.Count - 1 - _random.Next(6))];
    }
}
