using System.Buffers.Binary;
using Wayleave.Scenarios.Vectors;
using Xunit;

namespace Wayleave.Tests.Vectors;

/// <summary>
/// The twins of the replays: a capture that was changed in one place must not match any more, and the place is named.
/// </summary>
public class ReplayTwinTests
{
    // What the masks change, by offset from the BTH.
    [Theory]
    [InlineData("write_multi", ReplayRole.Requester, 1, 0, 0x06, "opcode")] // WRITE_MIDDLE to SEND_MIDDLE
    [InlineData("write_multi", ReplayRole.Requester, 1, 1, 0x80, "se")]
    [InlineData("write_multi", ReplayRole.Requester, 1, 1, 0x40, "mig")]
    [InlineData("write_multi", ReplayRole.Requester, 1, 3, 0x01, "p_key")]
    [InlineData("write_multi", ReplayRole.Requester, 1, 4, 0x80, "fecn_becn_resv6")]
    [InlineData("write_multi", ReplayRole.Requester, 1, 7, 0x01, "dest_qpn")]
    [InlineData("write_multi", ReplayRole.Requester, 1, 8, 0x80, "ackreq")]
    [InlineData("write_multi", ReplayRole.Requester, 1, 8, 0x01, "resv7")]
    [InlineData("write_multi", ReplayRole.Requester, 1, 11, 0x01, "psn")]
    [InlineData("write_multi", ReplayRole.Requester, 1, 12 + 5, 0x01, "payload[5]")]
    [InlineData("write_multi", ReplayRole.Requester, 0, 12 + 7, 0x01, "reth.va")]
    [InlineData("write_multi", ReplayRole.Requester, 0, 12 + 11, 0x01, "reth.rkey")]
    [InlineData("write_multi", ReplayRole.Requester, 0, 12 + 15, 0x01, "reth.length")]
    [InlineData("write_multi", ReplayRole.Requester, 3, 1, 0x10, "pad")]
    [InlineData("ip6_write_multi", ReplayRole.Requester, 2, 12 + 1023, 0x80, "payload[1023]")]
    [InlineData("send_imm", ReplayRole.Requester, 0, 12, 0x01, "immdt")]
    [InlineData("send_solicited_pad", ReplayRole.Requester, 0, 12 + 61 + 2, 0x01, "pad byte[2]")]
    [InlineData("write_multi", ReplayRole.Responder, 4, 12, 0x01, "aeth.syndrome")]
    [InlineData("write_multi", ReplayRole.Responder, 4, 15, 0x01, "aeth.msn")]
    [InlineData("read_multi", ReplayRole.Responder, 4, 12 + 4 + 430, 0x01, "payload[430]")]
    [InlineData("loss_req_3rd", ReplayRole.Responder, 4, 12, 0x02, "aeth.syndrome")]
    [InlineData("userspace_peer_v4", ReplayRole.Responder, 3, 12 + 4 + 5, 0x01, "payload[5]")] // was written
    [InlineData("userspace_peer_v4", ReplayRole.Requester, 4, 8, 0x80, "ackreq")]
    [InlineData("userspace_peer_v6", ReplayRole.Requester, 9, 15, 0x01, "aeth.msn")]
    [InlineData("cm_rping", ReplayRole.Requester, 8, 15, 0x01, "aeth.msn")]
    [InlineData("cm_reject", ReplayRole.Responder, 1, 20 + 24 + 11, 0x01, "payload[35]")] // the reason
    [InlineData("cm_reject", ReplayRole.Requester, 0, 12, 0x01, "deth.q_key")]
    [InlineData("cm_rping", ReplayRole.Requester, 0, 20 + 24 + 89, 0x01, "payload[113]")] // the flow label
    [InlineData("cm_rping", ReplayRole.Responder, 1, 20 + 24 + 26, 0x08, "payload[50]")] // the target ack delay
    [InlineData("cm_rping", ReplayRole.Requester, 2, 20 + 24 + 7, 0x01, "payload[31]")] // the peer's name
    [InlineData("cm_rping", ReplayRole.Requester, 27, 20 + 24 + 10, 0x01, "payload[34]")] // the peer's queue pair
    [InlineData("cm_rping", ReplayRole.Responder, 28, 20 + 24 + 3, 0x01, "payload[27]")] // our name
    public void A_changed_bit_in_a_packet_of_our_side_is_named(
        string name, ReplayRole role, int packet, int offset, int mask, string field)
    {
        Capture capture = CapturedDialog.WithPacket(name, packet, bytes => bytes[offset] ^= (byte)mask);
        ReplayReport report = Replayer.Run(capture, CapturedDialog.Vector(name), role);
        Assert.Equal(ReplayResult.Mismatch, report.Result);
        ReplayMismatch mismatch = Assert.Single(report.Mismatches);
        Assert.Equal(($"packet {packet}", field), (mismatch.Where, mismatch.Field));
        Assert.NotEqual(mismatch.Expected, mismatch.Got);
    }

    [Theory]
    [InlineData("write_only", ReplayRole.Requester, 0)]
    [InlineData("ip6_send_only", ReplayRole.Responder, 1)]
    public void ROCE_04_A_wrong_icrc_in_a_packet_of_our_side_is_named(string name, ReplayRole role, int packet)
    {
        Capture capture = CapturedDialog.WithPacket(name, packet, bytes => bytes[^1] ^= 1, reseals: false);
        ReplayReport report = Replayer.Run(capture, CapturedDialog.Vector(name), role);
        ReplayMismatch mismatch = Assert.Single(report.Mismatches);
        Assert.Equal(($"packet {packet}", "icrc"), (mismatch.Where, mismatch.Field));
    }

    [Fact]
    public void ROCE_04_A_damaged_packet_of_the_peer_is_dropped_and_its_answer_missed()
    {
        Capture capture = CapturedDialog.WithPacket("write_only", 0, bytes => bytes[^8] ^= 1, reseals: false);
        ReplayReport report = Replayer.Run(capture, CapturedDialog.Vector("write_only"), ReplayRole.Responder);
        Assert.Contains(report.Mismatches, m => m is { Where: "packet 0", Field: "icrc verdict", Got: "bad" });
        Assert.Contains(report.Mismatches, m => m is { Where: "packet 1", Field: "packet", Got: "nothing" });
    }

    [Theory]
    [InlineData("write_only", ReplayRole.Responder, 0, 12 + 16)]
    [InlineData("send_multi", ReplayRole.Responder, 2, 12)]
    [InlineData("read_multi", ReplayRole.Requester, 3, 12)]
    public void A_changed_byte_from_the_peer_is_found_in_memory(string name, ReplayRole role, int packet, int offset)
    {
        Capture capture = CapturedDialog.WithPacket(name, packet, bytes => bytes[offset] ^= 1);
        ReplayReport report = Replayer.Run(capture, CapturedDialog.Vector(name), role);
        Assert.Contains(
            report.Mismatches, m => m.Where.StartsWith("memory 0x", StringComparison.Ordinal) && m.Field == "sha256");
    }

    [Fact]
    public void A_request_ahead_of_its_place_is_refused_and_the_refusal_reported()
    {
        Capture capture = CapturedDialog.WithPacket(
            "write_only", 0, bytes => BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(8), 0x80A0_0003));
        ReplayReport report = Replayer.Run(capture, CapturedDialog.Vector("write_only"), ReplayRole.Responder);
        Assert.Contains(
            report.Mismatches,
            m => m is { Where: "packet 1", Field: "aeth.syndrome", Expected: "0x1f", Got: "0x60" });
    }

    [Theory]
    [InlineData("write_multi", ReplayRole.Requester, 1)]
    [InlineData("write_multi", ReplayRole.Requester, 4)]
    [InlineData("write_multi", ReplayRole.Responder, 1)]
    [InlineData("write_multi", ReplayRole.Responder, 4)]
    [InlineData("read_multi", ReplayRole.Requester, 2)]
    [InlineData("read_multi", ReplayRole.Responder, 2)]
    [InlineData("retry_exceeded", ReplayRole.Requester, 3)]
    [InlineData("rnr_retry_ok", ReplayRole.Requester, 3)]
    [InlineData("loss_req_3rd", ReplayRole.Requester, 5)]
    public void A_packet_that_is_missing_from_the_capture_is_reported(string name, ReplayRole role, int packet)
    {
        (Capture capture, CaptureVector vector) = CapturedDialog.WithoutPacket(name, packet);
        ReplayReport report = Replayer.Run(capture, vector, role);
        Assert.True(report.Result == ReplayResult.Mismatch, report.ToJson());
        Assert.NotEmpty(report.Mismatches);
    }

    [Theory]
    [InlineData("\"byte_len\": 64,", "\"byte_len\": 63,", "completion 0", "byte_len")]
    [InlineData("\"status\": \"IBV_WC_SUCCESS\"", "\"status\": \"IBV_WC_FATAL_ERR\"", "completion 0", "status")]
    [InlineData("\"opcode\": \"IBV_WC_RECV\"", "\"opcode\": \"IBV_WC_SEND\"", "completion 0", "opcode")]
    [InlineData("\"wr_id\": 1280, \"status\"", "\"wr_id\": 1281, \"status\"", "completion 0", "wr_id")]
    [InlineData("\"wc_flags\": [\"GRH\"]", "\"wc_flags\": []", "completion 0", "wc_flags")]
    [InlineData("\"A\": \"RTS\", \"B\": \"RTS\"", "\"A\": \"RTS\", \"B\": \"ERR\"", "queue pair", "state")]
    [InlineData("67193f2bfb0dcff1", "77193f2bfb0dcff1", "memory 0x20000000+64", "sha256")]
    [InlineData("\"answers\": 0", "\"answers\": 0, \"psn\": 1", "packet 1", "psn in the description")]
    public void A_changed_expectation_is_not_met(string from, string to, string where, string field)
    {
        CaptureVector vector = CaptureVector.Parse(CapturedDialog.ChangedDescription("send_only", from, to));
        ReplayReport report = Replayer.Run(CapturedDialog.Capture("send_only"), vector, ReplayRole.Responder);
        Assert.Contains(report.Mismatches, m => m.Where == where && m.Field == field);
    }

    [Fact]
    public void A_repetition_for_another_reason_is_reported()
    {
        CaptureVector vector = CapturedDialog.Vector("loss_req_3rd");
        VectorPacket[] packets =
            [.. vector.Packets.Select(p => p.Index == 7 ? p with { Retransmission = "nak_psn_sequence" } : p)];
        ReplayReport report = Replayer.Run(
            CapturedDialog.Capture("loss_req_3rd"), vector with { Packets = packets }, ReplayRole.Requester);
        ReplayMismatch mismatch = Assert.Single(report.Mismatches);
        Assert.Equal(("packet 7", "retransmission", "timeout"), (mismatch.Where, mismatch.Field, mismatch.Got));
    }

    [Fact]
    public void A_receive_that_comes_too_late_is_noticed()
    {
        CaptureVector vector = CapturedDialog.Vector("send_only");
        VectorReplay replay = vector.Replay!;
        VectorReceive[] late = [.. replay.B.Recv.Select(r => r with { When = "after_ms", AfterMs = 60 })];
        vector = vector with { Replay = replay with { B = replay.B with { Recv = late } } };
        ReplayReport report = Replayer.Run(CapturedDialog.Capture("send_only"), vector, ReplayRole.Responder);
        Assert.Contains(report.Mismatches, m => m is { Where: "packet 1", Field: "aeth.syndrome", Got: "0x2c" });
    }

    [Fact]
    public void Descriptions_of_another_capture_are_refused()
    {
        Capture longer = CapturedDialog.Capture("write_multi");
        CaptureVector shorter = CapturedDialog.Vector("write_only");
        FormatException refusal = Assert.Throws<FormatException>(
            () => Replayer.Run(longer, shorter, ReplayRole.Responder));
        Assert.Contains("do not belong together", refusal.Message, StringComparison.Ordinal);

        Capture write = CapturedDialog.Capture("write_only");
        CaptureVector send = CapturedDialog.Vector("send_only");
        ReplayReport report = Replayer.Run(write, send, ReplayRole.Requester);
        Assert.Equal(ReplayResult.Mismatch, report.Result);
    }
}
