using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Scenarios.Vectors;
using Xunit;

namespace Wayleave.Tests.Vectors;

/// <summary>
/// Dialogs that no capture of the repository shows, composed of captured packets as rxe would have sent them
/// (<c>rxe_req.c</c>,
/// <c>rxe_comp.c</c>, <c>rxe_resp.c</c>).
/// </summary>
public class ComposedReplayTests
{
    private const int AfterTimeout = 68;

    // write_multi: 0 to 3 the request, 4 its ACK, which is lost. The answers to the repetition overtake the rest of it.
    private static readonly Take[] s_lostAcknowledgement =
    [
        new(0), new(1), new(2), new(3),
        new(4, Answers: 3, Dropped: true),
        new(0, AfterTimeout, Retransmission: "timeout"),
        new(1, AfterTimeout, Retransmission: "timeout"),
        new(4, AfterTimeout, Answers: 5),
        new(2, AfterTimeout, Retransmission: "timeout"),
        new(4, AfterTimeout, Answers: 6),
        new(3, AfterTimeout, Retransmission: "timeout"),
        new(4, AfterTimeout, Answers: 8),
        new(4, AfterTimeout, Answers: 10),
    ];

    // read_multi: 0 a READ, 1 to 4 its responses, 5 a WRITE behind it, 6 the ACK. The second response is lost.
    private static readonly Take[] s_lostResponse =
    [
        new(0),
        new(1, Answers: 0),
        new(2, Answers: 0, Dropped: true),
        new(3, Answers: 0, Ignored: true),
        new(4, Answers: 0, Ignored: true),
        new(0, AfterTimeout, Retransmission: "timeout", Change: AskForTheRest),
        new(2, AfterTimeout, Answers: 5),
        new(3, AfterTimeout, Answers: 5),
        new(4, AfterTimeout, Answers: 5),
        new(5, AfterTimeout),
        new(6, AfterTimeout, Answers: 9),
    ];

    public static TheoryData<ReplayRole> Roles => [ReplayRole.Responder, ReplayRole.Requester];

    [Theory]
    [MemberData(nameof(Roles))]
    public void ROCE_34_A_lost_ACK_costs_a_repetition_that_is_acknowledged_packet_by_packet(ReplayRole role) =>
        AssertMatches("write_multi", s_lostAcknowledgement, role);

    [Theory]
    [MemberData(nameof(Roles))]
    public void ROCE_32_A_READ_whose_response_was_lost_asks_for_the_rest_and_gets_Middle_and_Last(ReplayRole role) =>
        AssertMatches("read_multi", s_lostResponse, role);

    [Theory]
    [MemberData(nameof(Roles))]
    public void ROCE_40_A_WRITE_that_the_queue_pair_forbids_is_an_invalid_request_on_both_sides(ReplayRole role)
    {
        (Capture capture, CaptureVector vector) = CapturedDialog.Compose(
            "nak_mr_access",
            new Take(0),
            new Take(1, Answers: 0, Change: ack => ack[Bth.Size] = Aeth.NakInvalidRequest));
        VectorReplay replay = vector.Replay!;
        VectorCompletion refused = replay.Expect.Completions.A[0] with { Status = "IBV_WC_REM_INV_REQ_ERR" };
        AssertMatches(capture, vector, role, replay with
        {
            B = replay.B with { Qp = replay.B.Qp with { AccessFlags = ["REMOTE_READ"] } },
            Expect = replay.Expect with { Completions = replay.Expect.Completions with { A = [refused] } },
        });
    }

    [Theory]
    [MemberData(nameof(Roles))]
    public void ROCE_38_A_requester_whose_RNR_retries_run_out_fails_the_request(ReplayRole role)
    {
        (Capture capture, CaptureVector vector) = CapturedDialog.Compose(
            "rnr_retry_ok",
            new Take(0),
            new Take(1, Answers: 0),
            new Take(2, Milliseconds: 12, Retransmission: "rnr"),
            new Take(3, Milliseconds: 12, Answers: 2));
        VectorReplay replay = vector.Replay!;
        VectorCompletion failed = replay.Expect.Completions.A[0] with
        {
            Status = "IBV_WC_RNR_RETRY_EXC_ERR",
            Opcode = null,
            ByteLen = null,
            WcFlags = null,
        };
        AssertMatches(capture, vector, role, replay with
        {
            A = replay.A with { Qp = replay.A.Qp with { RnrRetry = 1 } },
            B = replay.B with { Recv = [] },
            Expect = replay.Expect with
            {
                Completions = new PerSide<IReadOnlyList<VectorCompletion>>([failed], []),
                FinalQpState = new PerSide<string>("ERR", "RTS"),
                PeerMemory = [],
            },
        });
    }

    [Fact]
    public void ROCE_36_A_requester_that_gives_up_too_early_is_noticed()
    {
        (Capture capture, CaptureVector vector) = CapturedDialog.Compose("write_multi", s_lostAcknowledgement);
        VectorReplay replay = vector.Replay!;
        VectorSide side = replay.A with { Qp = replay.A.Qp with { RetryCnt = 0 } };
        vector = vector with { Replay = replay with { A = side } };
        ReplayReport report = Replayer.Run(capture, vector, ReplayRole.Requester);
        Assert.Contains(report.Mismatches, m => m is { Where: "packet 5", Field: "packet", Got: "nothing" });
        Assert.Contains(report.Mismatches, m => m is { Where: "completion 0", Got: "IBV_WC_RETRY_EXC_ERR" });
        Assert.Contains(report.Mismatches, m => m is { Where: "queue pair", Field: "state", Got: "ERR" });
    }

    private static void AssertMatches(string name, Take[] takes, ReplayRole role)
    {
        (Capture capture, CaptureVector vector) = CapturedDialog.Compose(name, takes);
        AssertMatches(capture, vector, role, vector.Replay!);
    }

    private static void AssertMatches(Capture capture, CaptureVector vector, ReplayRole role, VectorReplay replay)
    {
        ReplayReport report = Replayer.Run(capture, vector with { Replay = replay }, role);
        Assert.True(report.Result == ReplayResult.Match, report.ToJson());
    }

    private static void AskForTheRest(byte[] request)
    {
        const uint Packet = 1024;
        Assert.Equal(DropReason.None, PacketView.TryParse(request, out PacketView view));
        Reth reth = view.Reth;
        BinaryPrimitives.WriteUInt32BigEndian(request.AsSpan(8), 1u << 31 | Psn.Next(view.Psn));
        (reth with { Va = reth.Va + Packet, Length = reth.Length - Packet }).WriteTo(request.AsSpan(Bth.Size));
    }
}
