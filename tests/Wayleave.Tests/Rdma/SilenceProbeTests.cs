using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>What a requester does when it hears nothing, packet by packet; MTU 1024, timeout 67 ms.</summary>
public class SilenceProbeTests
{
    private static readonly TimeSpan s_probeAfter = TimeSpan.FromMilliseconds(2);

    private sealed class Pairs
    {
        public Pairs(TimeSpan? floor = null, ResponderDefences? defences = null)
        {
            Link = new TestLink(o => o with
            {
                ProbeAfter = s_probeAfter,
                ProbeFloor = floor,
                Defences = defences ?? ResponderDefences.All,
            });
            Source = Link.A.Register(Link.A.Allocate(65536));
            Target = Link.B.Register(Link.B.Allocate(65536));
            (A, B) = Link.Connect();
        }

        public TestLink Link { get; }

        public MemoryRegion Source { get; }

        public MemoryRegion Target { get; }

        public QueuePair A { get; }

        public QueuePair B { get; }

        public void Post(uint length, WorkRequestOpcode opcode = WorkRequestOpcode.RdmaWrite) => Assert.Equal(
            Errno.Success,
            A.PostSend(
                new SendWorkRequest
                {
                    Opcode = opcode,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = Target.Iova,
                    RKey = Target.Key,
                },
                new Sge(Source.Iova, length, Source.Key)));

        public string[] TakeLog()
        {
            string[] log = [.. Link.Log];
            Link.Log.Clear();
            return log;
        }

        public WorkCompletionStatus[] Poll() => [.. TestNode.Poll(A.SendCompletionQueue).Select(c => c.Status)];
    }

    [Fact]
    public void A_lost_question_is_followed_by_a_duplicate_without_data_whose_answer_tells_what_is_lost()
    {
        Pairs p = new();
        p.Link.Filter = (_, _) => false;
        p.Post(2048);
        p.Link.Run();
        p.TakeLog();
        p.Link.Filter = null;
        p.Link.Advance(s_probeAfter);
        p.Link.Run();
        Assert.Equal(
            [
                "A RC_SEND_ONLY 9fffff A",
                "B RC_ACKNOWLEDGE 9fffff 1f msn=0",
                "A RC_WRITE_FIRST a00000 A",
                "B RC_ACKNOWLEDGE a00000 1f msn=0",
                "A RC_WRITE_LAST a00001 A",
                "B RC_ACKNOWLEDGE a00001 1f msn=1",
            ],
            p.TakeLog());
        Assert.Equal([WorkCompletionStatus.Success], p.Poll());
        Assert.Equal((1L, 0L), (p.Link.A.Port.Stats.Probes, p.Link.A.Port.Stats.Timeouts));
    }

    [Fact]
    public void A_peer_that_was_merely_not_running_is_sent_nothing_again()
    {
        Pairs p = new();
        List<byte[]> held = [];
        p.Link.Filter = (from, packet) =>
        {
            held.Add(packet.ToArray());
            return false;
        };
        p.Post(2048);
        p.Post(1024);
        p.Link.Run();
        for (int i = 0; i < 3; i++)
        {
            p.Link.Advance(TimeSpan.FromMilliseconds(10)); // 2, 6 and 14 ms have passed, and not 67
            p.Link.Run();
        }

        p.Post(1024); // nothing is sent behind a probe
        p.Link.Run();
        Assert.Equal((6, 3L), (held.Count, p.Link.A.Port.Stats.Probes));
        p.Link.Filter = null;
        p.TakeLog();
        foreach (byte[] packet in held)
        {
            p.Link.B.Port.HandleDatagrams(p.Link.A.Gid, 4791, packet, packet.Length, 0, p.Link.Now);
            p.Link.Step(p.Link.B, p.Link.A);
        }

        p.Link.Run();
        Assert.Equal(3, p.Poll().Length);
        Assert.Equal(0, p.Link.A.Port.Stats.Retransmits);
        Assert.Equal(["A RC_WRITE_ONLY a00003 A"], p.TakeLog().Where(l => l.StartsWith('A')));
    }

    [Fact]
    public void A_path_that_carries_probes_and_no_data_runs_out_of_retries()
    {
        Pairs p = new();
        p.Link.Filter = (_, packet) => packet.Length < 100;
        p.Post(2048);
        p.Link.RunFor(TimeSpan.FromSeconds(10));
        Assert.Equal([WorkCompletionStatus.RetryExceeded], p.Poll());
        Assert.Equal(8, p.Link.A.Port.Stats.Timeouts);
    }

    [Fact]
    public void A_lost_READ_is_asked_for_again_and_so_is_a_lost_response()
    {
        Pairs p = new();
        int lost = 0;
        p.Link.Filter = (from, packet) => !packet.Span.IsEmpty && lost++ is not (0 or 3);
        p.Post(2048, WorkRequestOpcode.RdmaRead); // packet 0: the request
        p.Link.RunFor(TimeSpan.FromMilliseconds(60));
        Assert.Equal([WorkCompletionStatus.Success], p.Poll());
        Assert.Equal(0, p.Link.A.Port.Stats.Timeouts);
        Assert.True(p.Link.A.Port.Stats.Probes > 0);
    }

    [Fact]
    public void The_late_answer_of_an_earlier_probe_is_not_taken_for_that_of_a_later_one()
    {
        Pairs p = new();
        byte[]? late = null;
        p.Post(1024);
        p.Link.Filter = (from, _) => ReferenceEquals(from, p.Link.A); // answers are lost
        p.Link.Run();
        p.Link.Filter = (from, packet) =>
        {
            late = ReferenceEquals(from, p.Link.B) ? packet.ToArray() : late; // that of the probe is late
            return ReferenceEquals(from, p.Link.A);
        };
        p.Link.Advance(s_probeAfter);
        p.Link.Run();
        byte[] first = late!;
        p.Link.A.Port.HandleDatagrams(p.Link.B.Gid, 4791, first, first.Length, 0, p.Link.Now); // from the WRITE, say
        Assert.Single(p.Poll());
        p.Link.Filter = (_, _) => false; // the receiver does not run
        p.Post(1024);
        p.Link.Run();
        p.Link.Advance(s_probeAfter);
        p.Link.Run();
        p.TakeLog();
        p.Link.A.Port.HandleDatagrams(p.Link.B.Gid, 4791, first, first.Length, 0, p.Link.Now); // and from the probe
        p.Link.Run();
        Assert.Empty(p.TakeLog());
        Assert.Equal(0, p.Link.A.Port.Stats.Retransmits);
        p.Link.Filter = null;
        p.Link.Advance(TimeSpan.FromMilliseconds(8));
        p.Link.Run();
        Assert.Equal([WorkCompletionStatus.Success], p.Poll());
    }

    // The receiver does not run for longer than the acknowledge timeout, and then answers both copies of the question.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void The_second_answer_to_what_a_time_out_repeated_is_not_taken_for_that_of_a_probe(bool skips)
    {
        Pairs p = new(defences: new ResponderDefences { SkipsSecondAnswers = skips });
        List<byte[]> questions = [], answers = [];
        p.Link.Filter = (from, packet) =>
        {
            (ReferenceEquals(from, p.Link.A) ? questions : answers).Add(packet.ToArray());
            return false;
        };
        p.Post(1024);
        p.Link.RunFor(TimeSpan.FromMilliseconds(68));
        Assert.Equal(1, p.Link.A.Port.Stats.Timeouts);
        foreach (byte[] packet in questions)
        {
            p.Link.B.Port.HandleDatagrams(p.Link.A.Gid, 4791, packet, packet.Length, 0, p.Link.Now);
            p.Link.Step(p.Link.B, p.Link.A);
        }

        Assert.Equal(questions.Count, answers.Count); // of two copies, and of the probes between them
        TakeAnswer(answers[0]);
        Assert.Equal([WorkCompletionStatus.Success], p.Poll());

        p.Post(1024);
        p.Link.Run();
        p.Link.Advance(s_probeAfter);
        p.Link.Run();
        p.TakeLog();
        answers[1..].ForEach(TakeAnswer);
        p.Link.Run();
        Assert.Equal(skips ? [] : ["A RC_WRITE_ONLY a00001 A"], p.TakeLog());

        p.Link.Filter = null;
        p.Link.RunFor(TimeSpan.FromMilliseconds(60));
        Assert.Equal([WorkCompletionStatus.Success], p.Poll());

        void TakeAnswer(byte[] packet) => p.Link.A.Port.HandleDatagrams(
            p.Link.B.Gid, 4791, packet, packet.Length, 0, p.Link.Now);
    }

    [Theory]
    [InlineData(100, 130)] // 30 us with a variation that has gone: the floor
    [InlineData(10, 60)]
    [InlineData(null, 2000)]
    public void A_peer_whose_round_trips_are_known_is_asked_when_an_answer_is_late(int? floorUs, int atMostUs)
    {
        Pairs p = new(floorUs is { } us ? TimeSpan.FromMicroseconds(us) : null);
        for (int i = 0; i < 50; i++)
        {
            p.Post(1024);
            p.Link.Step(p.Link.A, p.Link.B);
            p.Link.Advance(TimeSpan.FromMicroseconds(30));
            p.Link.Run();
        }

        Assert.Equal(50, p.Poll().Length);
        Assert.Equal(0, p.Link.A.Port.Stats.Probes);
        p.Link.Filter = (_, _) => false;
        p.Post(1024);
        p.Link.Run();
        int tooSoonUs = Math.Max(30, floorUs ?? 2000) - 1;
        p.Link.Advance(TimeSpan.FromMicroseconds(tooSoonUs));
        Assert.Equal(0, p.Link.A.Port.Stats.Probes);
        p.Link.Filter = null;
        p.Link.Advance(TimeSpan.FromMicroseconds(atMostUs - tooSoonUs));
        p.Link.Run();
        Assert.Equal([WorkCompletionStatus.Success], p.Poll());
        Assert.Equal((1L, 0L), (p.Link.A.Port.Stats.Probes, p.Link.A.Port.Stats.Timeouts));
    }

    [Fact]
    public void What_was_sent_twice_says_nothing_about_how_long_an_answer_takes()
    {
        Pairs p = new(TimeSpan.FromMicroseconds(10));
        p.Link.Filter = (_, _) => false;
        p.Post(1024);
        p.Link.Run();
        p.Link.Filter = null;
        p.Link.Advance(s_probeAfter);
        p.Link.Run(); // the probe is answered, and the WRITE goes out again and is answered, in no time
        Assert.Equal([WorkCompletionStatus.Success], p.Poll());
        p.Link.Filter = (_, _) => false;
        p.Post(1024);
        p.Link.Run();
        p.Link.Advance(s_probeAfter / 2);
        p.Link.Run();
        Assert.Equal(1, p.Link.A.Port.Stats.Probes); // the first one
    }

    // A path keeps the order. What was asked before something that has its answer is lost; without such an answer, the
    // peer may not be running at all, and two questions tell as much as five.
    [Theory]
    [InlineData(true, 5)]
    [InlineData(false, 2)]
    public void What_a_peer_did_not_answer_though_it_answered_what_came_later_is_asked_for_by_everybody(
        bool hasLaterAnswer, int probes)
    {
        TestLink link = new(o => o with { ProbeAfter = s_probeAfter });
        MemoryRegion source = link.A.Register(link.A.Allocate(4096)), target = link.B.Register(link.B.Allocate(4096));
        QueuePair[] pairs = [.. Enumerable.Range(0, 6).Select(_ => link.Connect().A)];
        link.Filter = (_, _) => false;
        Post(pairs[..5]);
        link.Run();
        link.Advance(TimeSpan.FromMicroseconds(1));
        if (hasLaterAnswer)
        {
            link.Filter = null;
            Post(pairs[5..]);
            link.Run();
            Assert.Single(TestNode.Poll(pairs[5].SendCompletionQueue));
            link.Filter = (_, _) => false;
        }

        link.Advance(s_probeAfter);
        link.Run();
        Assert.Equal(probes, link.A.Port.Stats.Probes);

        // The answer to one of them tells the others.
        link.Filter = null;
        link.RunFor(TimeSpan.FromMilliseconds(30));
        Assert.All(pairs[..5], p => Assert.Single(TestNode.Poll(p.SendCompletionQueue)));
        Assert.Equal(0, link.A.Port.Stats.Timeouts);

        void Post(QueuePair[] to) => Assert.All(to, p => Assert.Equal(
            Errno.Success,
            p.PostSend(
                new SendWorkRequest
                {
                    Opcode = WorkRequestOpcode.RdmaWrite,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = target.Iova,
                    RKey = target.Key,
                },
                new Sge(source.Iova, 1024, source.Key))));
    }

    // Nobody answers those two, ever, and they ask until their retries are spent. Others need not wait for that.
    [Fact]
    public void Queue_pairs_whose_peer_is_gone_do_not_keep_others_from_asking()
    {
        TestLink link = new(o => o with { ProbeAfter = s_probeAfter });
        MemoryRegion source = link.A.Register(link.A.Allocate(4096)), target = link.B.Register(link.B.Allocate(4096));
        (QueuePair A, QueuePair B)[] pairs = [.. Enumerable.Range(0, 3).Select(_ => link.Connect())];
        int seen = 0;
        link.Filter = (_, packet) => DestinationOf(packet) == pairs[2].B.QpNumber
            ? seen++ > 0
            : DestinationOf(packet) == pairs[2].A.QpNumber;
        foreach ((QueuePair a, _) in pairs)
        {
            Assert.Equal(
                Errno.Success,
                a.PostSend(
                    new SendWorkRequest
                    {
                        Opcode = WorkRequestOpcode.RdmaWrite,
                        Flags = SendFlags.Signaled,
                        RemoteAddress = target.Iova,
                        RKey = target.Key,
                    },
                    new Sge(source.Iova, 1024, source.Key)));
            link.Run();
            link.Advance(TimeSpan.FromMicroseconds(1));
        }

        link.RunFor(TimeSpan.FromMilliseconds(40));
        Assert.Single(TestNode.Poll(pairs[2].A.SendCompletionQueue));
        Assert.Equal(0, link.A.Port.Stats.Timeouts);

        static uint DestinationOf(ReadOnlyMemory<byte> bytes)
        {
            Assert.Equal(DropReason.None, PacketView.TryParse(bytes.Span, out PacketView packet));
            return packet.DestQp;
        }
    }

    // The first packet of a message asks nothing. However long the rest waits, its silence is not the peer's.
    [Theory]
    [InlineData(true, 0)]
    [InlineData(false, 1)]
    public void What_has_asked_nothing_is_not_kept_waiting(bool waitsFromQuestions, int probes)
    {
        ResponderDefences defences = new() { WaitsFromQuestions = waitsFromQuestions };
        Pairs p = new(defences: defences);
        byte[] buffer = new byte[65536];
        p.Post(65536); // two super-packets: the second waits for its turn
        Assert.True(p.Link.A.Port.PollTransmit(p.Link.Now, buffer, out _));
        p.Link.Advance(s_probeAfter);
        p.Link.Advance(TimeSpan.FromMilliseconds(1));
        while (p.Link.A.Port.PollTransmit(p.Link.Now, buffer, out _))
        {
        }

        Assert.Equal(probes, p.Link.A.Port.Stats.Probes);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_answer_that_is_owed_leaves_although_its_queue_pair_ends(bool isDestroyed)
    {
        foreach (bool settles in new[] { true, false })
        {
            TestLink link = new(null, o => o with { Defences = new ResponderDefences { SettlesBeforeEnd = settles } });
            (QueuePair a, QueuePair b) = link.Connect();
            MemoryRegion source = link.A.Register(link.A.Allocate(4096));
            MemoryRegion target = link.B.Register(link.B.Allocate(4096));
            SendWorkRequest write = new()
            {
                Opcode = WorkRequestOpcode.RdmaWrite,
                Flags = SendFlags.Signaled,
                RemoteAddress = target.Iova,
                RKey = target.Key,
            };
            Assert.Equal(Errno.Success, a.PostSend(write, new Sge(source.Iova, 4096, source.Key)));
            link.Step(link.A, link.B); // placed, and not acknowledged yet
            if (isDestroyed)
            {
                link.B.Device.DestroyQueuePair(b);
            }
            else
            {
                b.Modify(
                    new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State);
            }

            link.RunFor(TimeSpan.FromSeconds(5));
            Assert.Equal(
                settles ? WorkCompletionStatus.Success : WorkCompletionStatus.RetryExceeded,
                Assert.Single(TestNode.Poll(a.SendCompletionQueue)).Status);
            Assert.Equal(settles ? 1 : 0, link.B.Port.Stats.AcknowledgesSent);
        }
    }
}
