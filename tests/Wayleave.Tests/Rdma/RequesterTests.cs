using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>The sending half, one packet at a time. Own PSNs start at b00000.</summary>
public class RequesterTests
{
    private const uint Own = Conversation.OwnFirst;
    private static readonly TimeSpan s_timeout = TimeSpan.FromMilliseconds(67.2); // code 14 is 67.1 ms

    private static byte[] Bytes(int length, byte seed = 0x55) => TestMemory.Pattern(length, seed);

    private static void SendReadResponse(Conversation c, Opcode opcode, uint psn, int payload) =>
        c.Send(new RawPacket(opcode, psn) { Payload = Bytes(payload) });

    [Theory]
    [InlineData(0, 0)]
    [InlineData(1, 3)]
    [InlineData(2, 2)]
    [InlineData(3, 1)]
    [InlineData(4, 0)]
    [InlineData(61, 3)]
    public void ROCE_09_H_13_A_SEND_is_padded_with_zeros(int length, int pad)
    {
        Conversation c = new();
        c.Memory.FillPattern(0, 4096, 0xFF);
        c.Post(1, WorkRequestOpcode.Send, 0, 4096);
        c.Expect("RC_SEND_FIRST b00000");
        c.Expect("RC_SEND_MIDDLE b00001");
        c.Expect("RC_SEND_MIDDLE b00002");
        c.Expect("RC_SEND_LAST b00003 A");
        c.Post(1, WorkRequestOpcode.Send, 0, (uint)length);
        byte[] packet = c.Expect("RC_SEND_ONLY b00004 A");
        Assert.Equal(12 + length + pad + 4, packet.Length);
        Assert.Equal(pad, packet[1] >> 4 & 3);
        Assert.All(packet[(12 + length)..^4], b => Assert.Equal(0, b));
    }

    [Fact]
    public void ROCE_11_A_message_splits_by_the_MTU_and_an_exact_multiple_ends_with_a_full_Last()
    {
        foreach (PathMtu code in Enum.GetValues<PathMtu>())
        {
            int mtu = 128 << (int)code;
            (int, int, int)[] cases = [(3 * mtu - 1, 3, mtu - 1), (3 * mtu, 3, mtu), (3 * mtu + 1, 4, 1)];
            foreach ((int length, int packets, int last) in cases)
            {
                Conversation c = new(a => a with { PathMtu = code });
                c.Post(1, WorkRequestOpcode.RdmaWrite, 0, (uint)length);
                byte[] packet = c.Expect("RC_WRITE_FIRST b00000");
                for (int i = 1; i < packets; i++)
                {
                    packet = c.Expect(
                        i == packets - 1 ? $"RC_WRITE_LAST {Own + i:x6} A" : $"RC_WRITE_MIDDLE {Own + i:x6}");
                }

                Assert.Equal(DropReason.None, PacketView.TryParse(packet, out PacketView view));
                Assert.Equal(last, view.PayloadBytes);
                c.ExpectNothing();
            }
        }
    }

    [Fact]
    public void ROCE_12_PSNs_wrap_at_24_bits()
    {
        Conversation c = new(a => a with { SqPsn = 0xFFFFFE });
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 4096);
        c.Expect("RC_WRITE_FIRST fffffe");
        c.Expect("RC_WRITE_MIDDLE ffffff");
        c.Expect("RC_WRITE_MIDDLE 000000");
        c.Expect("RC_WRITE_LAST 000001 A");
        c.SendAck(1, msn: 1);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
    }

    [Fact]
    public void Immediate_data_and_the_solicited_bit_travel_on_the_last_packet()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaWriteWithImmediate, 0, 1028, SendFlags.Signaled | SendFlags.Solicited);
        c.Expect("RC_WRITE_FIRST b00000");
        byte[] last = c.Expect("RC_WRITE_LAST_IMM b00001 A");
        Assert.Equal(DropReason.None, PacketView.TryParse(last, out PacketView view));
        Assert.Equal((0xCAFE_F00Du, true), (view.Immediate, view.Solicited));
        c.Post(2, WorkRequestOpcode.SendWithImmediate, 0, 4, SendFlags.Solicited);
        Assert.Equal(DropReason.None, PacketView.TryParse(c.Expect("RC_SEND_ONLY_IMM b00002 A"), out view));
        Assert.Equal((0xCAFE_F00Du, true), (view.Immediate, view.Solicited));
        c.Post(3, WorkRequestOpcode.RdmaWrite, 0, 4, SendFlags.Solicited);
        Assert.Equal(DropReason.None, PacketView.TryParse(c.Expect("RC_WRITE_ONLY b00003 A"), out view));
        Assert.False(view.Solicited);
    }

    [Fact]
    public void ROCE_34_A_lost_ACK_is_made_good_by_the_timer()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Expect("RC_SEND_ONLY b00000 A");
        c.Wait(s_timeout / 2);
        c.ExpectNothing();
        c.Wait(s_timeout);
        c.Expect("RC_SEND_ONLY b00000 A");
        c.SendAck(Own, msn: 1);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        c.ExpectNoCompletion();
        Assert.Equal((1L, 1L), (c.Node.Port.Stats.Retransmits, c.Node.Port.Stats.Timeouts));
    }

    [Fact]
    public void ROCE_35_After_a_timeout_only_what_is_not_acknowledged_is_sent_again()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 4096);
        for (int i = 0; i < 4; i++)
        {
            c.Expect(
                i == 0 ? "RC_WRITE_FIRST b00000" : i == 3 ? "RC_WRITE_LAST b00003 A" : $"RC_WRITE_MIDDLE b0000{i}");
        }

        c.SendAck(Own + 1);
        c.Wait(s_timeout);
        c.Expect("RC_WRITE_MIDDLE b00002");
        c.Expect("RC_WRITE_LAST b00003 A");
        c.SendAck(Own + 3, msn: 1);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        Assert.Null(c.Node.Port.NextDeadline is { } next && next > c.Now + s_timeout ? next : null);
    }

    [Theory]
    [InlineData(3, 4)]
    [InlineData(7, 8)]
    [InlineData(0, 1)]
    public void ROCE_36_ROCE_37_A_silent_peer_is_asked_once_more_than_the_retry_count(int retries, int transmissions)
    {
        Conversation c = new(a => a with { RetryCount = retries });
        c.PostReceive(7, 0, 8);
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Post(2, WorkRequestOpcode.Send, 0, 8, SendFlags.None);
        for (int i = 0; i < transmissions; i++)
        {
            c.Expect("RC_SEND_ONLY b00000 A");
            c.Expect("RC_SEND_ONLY b00001 A");
            c.ExpectState(QueuePairState.ReadyToSend);
            c.Wait(s_timeout);
        }

        c.ExpectNothing();
        c.ExpectState(QueuePairState.Error);
        c.ExpectCompletion(1, WorkCompletionStatus.RetryExceeded);
        c.ExpectCompletion(2, WorkCompletionStatus.WorkRequestFlushed);
        c.ExpectCompletion(7, WorkCompletionStatus.WorkRequestFlushed);
        c.ExpectNoCompletion();
    }

    [Fact]
    public void ROCE_37_Seven_retries_are_endless_in_the_rxe_profile()
    {
        Conversation c = new(a => a with { Profile = PeerProfile.Rxe });
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        for (int i = 0; i < 40; i++)
        {
            c.Expect("RC_SEND_ONLY b00000 A");
            c.Wait(s_timeout);
        }

        c.ExpectState(QueuePairState.ReadyToSend);
    }

    [Fact]
    public void ROCE_38_RNR_retries_run_out()
    {
        Conversation c = new(a => a with { RnrRetry = 1 });
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Expect("RC_SEND_ONLY b00000 A");
        c.SendAck(Own, 0x34);
        c.Wait(TimeSpan.FromMilliseconds(10.2));
        c.ExpectNothing();
        c.Wait(TimeSpan.FromMilliseconds(0.1));
        c.Expect("RC_SEND_ONLY b00000 A");
        c.SendAck(Own, 0x34);
        c.ExpectNothing();
        c.ExpectState(QueuePairState.Error);
        c.ExpectCompletion(1, WorkCompletionStatus.RnrRetryExceeded);
    }

    [Fact]
    public void After_an_RNR_NAK_one_packet_asks_and_the_rest_follows_when_it_is_taken()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 3072);
        c.Expect("RC_WRITE_FIRST b00000");
        c.Expect("RC_WRITE_MIDDLE b00001");
        c.Expect("RC_WRITE_LAST b00002 A");
        for (int i = 0; i < 3; i++)
        {
            c.SendAck(Own, 0x2C);
            c.Wait(TimeSpan.FromMilliseconds(1));
            c.Expect("RC_WRITE_FIRST b00000 A");
            c.ExpectNothing();
        }

        c.SendAck(Own);
        c.Expect("RC_WRITE_MIDDLE b00001");
        c.Expect("RC_WRITE_LAST b00002 A");
    }

    [Fact]
    public void The_rxe_profile_sends_everything_again_after_an_RNR_NAK()
    {
        Conversation c = new(a => a with { Profile = PeerProfile.Rxe });
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 2048);
        c.Expect("RC_WRITE_FIRST b00000");
        c.Expect("RC_WRITE_LAST b00001 A");
        c.SendAck(Own, 0x2C);
        c.Wait(TimeSpan.FromMilliseconds(1));
        c.Expect("RC_WRITE_FIRST b00000");
        c.Expect("RC_WRITE_LAST b00001 A");
    }

    [Fact]
    public void ROCE_39_Seven_RNR_retries_are_endless()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        for (int i = 0; i < 100; i++)
        {
            c.Expect("RC_SEND_ONLY b00000 A");
            c.SendAck(Own, 0x34);
            c.ExpectNothing();
            c.Wait(TimeSpan.FromMilliseconds(10.3));
        }

        c.Expect("RC_SEND_ONLY b00000 A");
        c.SendAck(Own, msn: 1);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
    }

    [Theory]
    [InlineData(Aeth.NakInvalidRequest, WorkCompletionStatus.RemoteInvalidRequest)]
    [InlineData(Aeth.NakRemoteAccess, WorkCompletionStatus.RemoteAccessError)]
    [InlineData(Aeth.NakRemoteOperation, WorkCompletionStatus.RemoteOperationError)]
    public void ROCE_40_41_54_A_NAK_fails_its_request_after_the_ones_before_and_flushes_the_rest(
        byte syndrome, WorkCompletionStatus status)
    {
        Conversation c = new();
        for (ulong i = 1; i <= 5; i++)
        {
            c.Post(i, WorkRequestOpcode.RdmaWrite, 0, 8);
        }

        for (int i = 0; i < 5; i++)
        {
            c.Expect($"RC_WRITE_ONLY b0000{i} A");
        }

        c.SendAck(Own + 1, syndrome, msn: 1);
        c.ExpectState(QueuePairState.Error);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        c.ExpectCompletion(2, status);
        c.ExpectCompletion(3, WorkCompletionStatus.WorkRequestFlushed);
        c.ExpectCompletion(4, WorkCompletionStatus.WorkRequestFlushed);
        c.ExpectCompletion(5, WorkCompletionStatus.WorkRequestFlushed);
        c.ExpectNoCompletion();
    }

    [Fact]
    public void ROCE_51_No_more_READs_are_on_the_wire_than_were_agreed()
    {
        Conversation c = new(a => a with { MaxRdAtomic = 2 });
        for (ulong i = 1; i <= 5; i++)
        {
            c.Post(i, WorkRequestOpcode.RdmaRead, 0, 8);
        }

        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_READ_REQUEST b00001 A");
        c.ExpectNothing();
        SendReadResponse(c, Opcode.RcReadResponseOnly, Own, 8);
        c.Expect("RC_READ_REQUEST b00002 A");
        c.ExpectNothing();
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
    }

    [Fact]
    public void A_fenced_request_leaves_after_the_READs_before_it()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 8);
        c.Post(2, WorkRequestOpcode.Send, 0x100, 8, SendFlags.Fence);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.ExpectNothing();
        SendReadResponse(c, Opcode.RcReadResponseOnly, Own, 8);
        c.Expect("RC_SEND_ONLY b00001 A");
    }

    [Fact]
    public void ROCE_53_An_ACK_behind_a_READ_means_that_its_responses_were_lost()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 2048);
        c.Post(2, WorkRequestOpcode.Send, 0x1000, 8);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_SEND_ONLY b00002 A");
        c.SendAck(Own + 2, msn: 2);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_SEND_ONLY b00002 A");
        c.ExpectNoCompletion();
        SendReadResponse(c, Opcode.RcReadResponseFirst, Own, 1024);
        SendReadResponse(c, Opcode.RcReadResponseLast, Own + 1, 1024);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        c.SendAck(Own + 2, msn: 2);
        c.ExpectCompletion(2, WorkCompletionStatus.Success);
    }

    [Theory]
    [InlineData(3)]
    [InlineData(2)]
    public void ROCE_32_What_comes_late_moves_the_place_that_a_READ_is_asked_for_again_from(int asked)
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 4000);
        c.Expect("RC_READ_REQUEST b00000 A");
        SendReadResponse(c, Opcode.RcReadResponseFirst, Own, 1024);
        SendReadResponse(c, Opcode.RcReadResponseLast, Own + 3, 928); // overtook those before it
        for (int late = 1; late < asked; late++)
        {
            SendReadResponse(c, Opcode.RcReadResponseMiddle, Own + (uint)late, 1024);
        }

        c.Expect($"RC_READ_REQUEST b0000{asked} A");
        if (asked == 2)
        {
            SendReadResponse(c, Opcode.RcReadResponseFirst, Own + 2, 1024);
        }

        SendReadResponse(
            c, asked == 3 ? Opcode.RcReadResponseOnly : Opcode.RcReadResponseLast, Own + 3, 928);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
    }

    [Fact]
    public void ROCE_32_A_lost_READ_response_is_asked_for_again_with_the_address_moved_on()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 4000);
        c.Expect("RC_READ_REQUEST b00000 A");
        SendReadResponse(c, Opcode.RcReadResponseFirst, Own, 1024);
        SendReadResponse(c, Opcode.RcReadResponseMiddle, Own + 1, 1024);
        SendReadResponse(c, Opcode.RcReadResponseLast, Own + 3, 928);
        byte[] again = c.Expect("RC_READ_REQUEST b00002 A");
        Assert.True(Reth.TryParse(again.AsSpan(Bth.Size), out Reth reth));
        Assert.Equal(new Reth(0x2000_0000 + 2048, 0x1234, 4000 - 2048), reth);
        SendReadResponse(c, Opcode.RcReadResponseLast, Own + 3, 928);
        c.ExpectNothing(); // once per gap

        // The rest may come as a new answer or as the end of the old one.
        SendReadResponse(c, Opcode.RcReadResponseFirst, Own + 2, 1024);
        SendReadResponse(c, Opcode.RcReadResponseLast, Own + 3, 928);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        Assert.Equal(Bytes(1024), c.Memory.Read(0, 1024));
        Assert.Equal(Bytes(928), c.Memory.Read(3072, 928));
    }

    [Fact]
    public void ROCE_32_The_rxe_profile_waits_for_its_timer()
    {
        Conversation c = new(a => a with { Profile = PeerProfile.Rxe });
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 3072);
        c.Expect("RC_READ_REQUEST b00000 A");
        SendReadResponse(c, Opcode.RcReadResponseFirst, Own, 1024);
        SendReadResponse(c, Opcode.RcReadResponseLast, Own + 2, 1024);
        c.ExpectNothing();
        c.Wait(s_timeout);
        c.Expect("RC_READ_REQUEST b00001 A");
    }

    [Fact]
    public void A_long_READ_is_asked_for_in_pieces()
    {
        Conversation c = new(options: o => o with { ReadRequestBytes = 4096 });
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 9000);
        Assert.True(Reth.TryParse(c.Expect("RC_READ_REQUEST b00000 A").AsSpan(Bth.Size), out Reth reth));
        Assert.Equal(new Reth(0x2000_0000, 0x1234, 4096), reth);
        Assert.True(Reth.TryParse(c.Expect("RC_READ_REQUEST b00004 A").AsSpan(Bth.Size), out reth));
        Assert.Equal(new Reth(0x2000_0000 + 4096, 0x1234, 4096), reth);
        Assert.True(Reth.TryParse(c.Expect("RC_READ_REQUEST b00008 A").AsSpan(Bth.Size), out reth));
        Assert.Equal(new Reth(0x2000_0000 + 8192, 0x1234, 808), reth);
        foreach (uint piece in new uint[] { 0, 4 })
        {
            SendReadResponse(c, Opcode.RcReadResponseFirst, Own + piece, 1024);
            SendReadResponse(c, Opcode.RcReadResponseMiddle, Own + piece + 1, 1024);
            SendReadResponse(c, Opcode.RcReadResponseMiddle, Own + piece + 2, 1024);
            SendReadResponse(c, Opcode.RcReadResponseLast, Own + piece + 3, 1024);
        }

        c.ExpectNoCompletion();
        SendReadResponse(c, Opcode.RcReadResponseOnly, Own + 8, 808);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
    }

    [Fact]
    public void ROCE_55_A_queue_pair_in_ERR_flushes_what_is_posted()
    {
        Conversation c = new();
        Assert.Equal(
            Errno.Success,
            c.Pair.Modify(new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State));
        c.Post(1, WorkRequestOpcode.Send, 0, 8, SendFlags.None);
        c.PostReceive(2, 0, 8);
        c.ExpectNothing();
        Assert.Equal(
            [(1ul, WorkCompletionStatus.WorkRequestFlushed), (2, WorkCompletionStatus.WorkRequestFlushed)],
            TestNode.Poll(c.Completions).OrderBy(w => w.WrId).Select(w => (w.WrId, w.Status)));
    }

    [Fact]
    public void ROCE_57_A_change_in_SQD_does_not_tell_again_that_the_queue_has_drained()
    {
        Conversation c = new();
        QueuePairAttributes drained = new() { State = QueuePairState.SendQueueDrained, Timeout = 15 };
        Assert.Equal(Errno.Success, c.Pair.Modify(drained, QueuePairAttributeMask.State));
        Assert.Equal([new AsyncEvent(AsyncEventType.SendQueueDrained, c.Pair.QpNumber)], c.Node.PollEvents());
        Assert.Equal(
            Errno.Success, c.Pair.Modify(drained, QueuePairAttributeMask.State | QueuePairAttributeMask.Timeout));
        Assert.Empty(c.Node.PollEvents());
        QueuePairAttributes back = new() { State = QueuePairState.ReadyToSend };
        Assert.Equal(Errno.Success, c.Pair.Modify(back, QueuePairAttributeMask.State));
        Assert.Equal(Errno.Success, c.Pair.Modify(drained, QueuePairAttributeMask.State));
        Assert.Single(c.Node.PollEvents()); // another drain
    }

    [Fact]
    public void ROCE_57_SQD_finishes_what_was_started_and_then_waits()
    {
        Conversation c = new(options: o => o with { SuperPacketSegments = 1 });
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 2048);
        c.Post(2, WorkRequestOpcode.RdmaWrite, 0, 8);
        byte[] buffer = new byte[65536];
        Assert.True(c.Node.Port.PollTransmit(c.Now, buffer, out _));
        Assert.Equal(
            Errno.Success,
            c.Pair.Modify(
                new QueuePairAttributes { State = QueuePairState.SendQueueDrained }, QueuePairAttributeMask.State));
        c.Expect("RC_WRITE_LAST b00001 A");
        c.ExpectNothing();
        Assert.Empty(c.Node.PollEvents());
        Assert.True(c.Pair.IsDraining);
        QueuePairAttributes early = new() { State = QueuePairState.ReadyToSend };
        Assert.Equal(Errno.EINVAL, c.Pair.Modify(early, QueuePairAttributeMask.State));
        c.SendAck(Own + 1, msn: 1);
        Assert.Equal([new AsyncEvent(AsyncEventType.SendQueueDrained, c.Pair.QpNumber)], c.Node.PollEvents());
        Assert.False(c.Pair.IsDraining);
        c.ExpectNothing();
        Assert.Equal(
            Errno.Success,
            c.Pair.Modify(
                new QueuePairAttributes { State = QueuePairState.ReadyToSend }, QueuePairAttributeMask.State));
        c.Expect("RC_WRITE_ONLY b00002 A");
    }

    [Fact]
    public void ROCE_60_A_queue_of_unsignalled_requests_is_full_until_a_signalled_one_was_polled()
    {
        Conversation c = new(capabilities: new QueuePairCapabilities { MaxSendWr = 4 });
        SendWorkRequest silent = new() { Opcode = WorkRequestOpcode.Send };
        for (int i = 0; i < 3; i++)
        {
            Assert.Equal(Errno.Success, c.Pair.PostSendInline(silent, []));
        }

        Assert.Equal(Errno.Success, c.Pair.PostSendInline(silent with { WrId = 9, Flags = SendFlags.Signaled }, []));
        Assert.Equal(Errno.ENOMEM, c.Pair.PostSendInline(silent, []));
        for (int i = 0; i < 4; i++)
        {
            c.Expect($"RC_SEND_ONLY b0000{i} A");
        }

        c.SendAck(Own + 3, msn: 4);
        Assert.Equal(Errno.ENOMEM, c.Pair.PostSendInline(silent, []));
        c.ExpectCompletion(9, WorkCompletionStatus.Success);
        Assert.Equal(Errno.Success, c.Pair.PostSendInline(silent, []));
    }

    [Fact]
    public void A_full_receive_queue_and_too_many_pieces_are_refused()
    {
        Conversation c = new(
            capabilities: new QueuePairCapabilities
            {
                MaxReceiveWr = 2,
                MaxSendSge = 2,
                MaxReceiveSge = 2,
                MaxInlineData = 4,
            });
        c.PostReceive(1, 0, 8);
        c.PostReceive(2, 0, 8);
        Assert.Equal(Errno.ENOMEM, c.Pair.PostReceive(new ReceiveWorkRequest(3), []));
        Assert.Equal(Errno.EINVAL, c.Pair.PostReceive(new ReceiveWorkRequest(3), new Sge[3]));
        Assert.Equal(
            Errno.EINVAL, c.Pair.PostSend(new SendWorkRequest { Opcode = WorkRequestOpcode.Send }, new Sge[3]));
        Assert.Equal(
            Errno.EINVAL, c.Pair.PostSendInline(new SendWorkRequest { Opcode = WorkRequestOpcode.Send }, new byte[5]));
        Assert.Equal(
            Errno.EINVAL, c.Pair.PostSendInline(new SendWorkRequest { Opcode = WorkRequestOpcode.RdmaRead }, []));
        Assert.Equal(Errno.EINVAL, c.Pair.PostSend(new SendWorkRequest { Opcode = (WorkRequestOpcode)5 }, []));
        Assert.Equal(
            Errno.EINVAL,
            c.Pair.PostSend(
                new SendWorkRequest { Opcode = WorkRequestOpcode.Send }, [new Sge(0, 1u << 31, 0), new Sge(0, 1, 0)]));
    }

    [Fact]
    public void A_message_may_come_from_several_regions_in_pieces_of_any_length()
    {
        Conversation c = new();
        TestMemory second = c.Node.Allocate(8192, pieces: 2);
        MemoryRegion region = c.Node.Register(second, iova: 0x9000_0000);
        c.Memory.FillPattern(0, 700, 0x11);
        second.FillPattern(3500, 1400, 0x55); // across the break between the two windows
        c.Pair.PostSend(
            new SendWorkRequest { Opcode = WorkRequestOpcode.Send, Flags = SendFlags.Signaled },
            [
                new Sge(c.Region.Iova, 700, c.Region.Key),
                new Sge(0, 0, 0),
                new Sge(region.Iova + 3500, 1400, region.Key),
            ]);
        byte[] first = c.Expect("RC_SEND_FIRST b00000");
        byte[] middle = c.Expect("RC_SEND_MIDDLE b00001");
        byte[] last = c.Expect("RC_SEND_LAST b00002 A");
        Assert.Equal([.. Bytes(700, 0x11), .. Bytes(1400)], [.. first[12..^4], .. middle[12..^4], .. last[12..^4]]);
    }

    [Fact]
    public void A_bad_local_key_fails_after_the_requests_before_it_were_acknowledged()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Post(2, WorkRequestOpcode.Send, 0, 8, key: 0xBAD);
        c.Post(3, WorkRequestOpcode.Send, 0, 8);
        c.Expect("RC_SEND_ONLY b00000 A");
        c.ExpectNothing();
        c.ExpectNoCompletion();
        c.SendAck(Own, msn: 1);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        c.ExpectCompletion(2, WorkCompletionStatus.LocalProtectionError);
        c.ExpectCompletion(3, WorkCompletionStatus.WorkRequestFlushed);
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void H_06_An_ACK_for_what_was_never_sent_completes_nothing()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Expect("RC_SEND_ONLY b00000 A");
        c.SendAck(Own + 1);
        c.SendAck(Own + 1000);
        c.SendAck(Own - 1);
        c.ExpectNoCompletion();
        c.ExpectNothing();
    }

    [Theory]
    [InlineData(Opcode.RcReadResponseOnly, 1024)]
    [InlineData(Opcode.RcReadResponseMiddle, 1024)]
    [InlineData(Opcode.RcReadResponseLast, 8)]
    public void H_07_A_READ_response_of_the_wrong_form_is_a_bad_response(Opcode opcode, int payload)
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 2048);
        c.Expect("RC_READ_REQUEST b00000 A");
        SendReadResponse(c, opcode, Own, payload);
        c.ExpectCompletion(1, WorkCompletionStatus.BadResponse);
        c.ExpectState(QueuePairState.Error);
        c.ExpectUntouched();
    }

    [Fact]
    public void H_07_A_READ_response_that_brings_more_than_was_asked_for_is_a_length_error()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 100);
        c.Expect("RC_READ_REQUEST b00000 A");
        SendReadResponse(c, Opcode.RcReadResponseOnly, Own, 104);
        c.ExpectCompletion(1, WorkCompletionStatus.LocalLengthError);
        c.ExpectUntouched();
    }

    [Fact]
    public void H_07_A_READ_response_to_a_WRITE_is_a_bad_response()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 8);
        c.Expect("RC_WRITE_ONLY b00000 A");
        SendReadResponse(c, Opcode.RcReadResponseOnly, Own, 8);
        c.ExpectCompletion(1, WorkCompletionStatus.BadResponse);
        c.ExpectUntouched();
    }

    [Fact]
    public void H_09_An_atomic_acknowledgement_of_a_READ_is_a_bad_response()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 8);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Send(new RawPacket(Opcode.RcAtomicAcknowledge, Own) { Original = ulong.MaxValue });
        c.ExpectCompletion(1, WorkCompletionStatus.BadResponse);
        c.ExpectUntouched();
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void H_08_H_09_Responses_that_nobody_asked_for_are_dropped()
    {
        Conversation c = new();
        SendReadResponse(c, Opcode.RcReadResponseOnly, Own, 8);
        c.SendAck(Own);
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 8);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.SendAck(Own, 0x40);
        c.SendAck(Own, 0xFF);
        c.ExpectUntouched();
        c.ExpectNoCompletion();
        c.ExpectState(QueuePairState.ReadyToSend);
    }

    [Fact]
    public void H_10_A_flood_of_RNR_NAKs_makes_one_transmission_a_timer()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Expect("RC_SEND_ONLY b00000 A");
        for (int i = 0; i < 1000; i++)
        {
            c.SendAck(Own, 0x21);
            c.ExpectNothing();
        }

        c.Wait(TimeSpan.FromMilliseconds(0.02));
        c.Expect("RC_SEND_ONLY b00000 A");
        c.ExpectNothing();
    }

    [Fact]
    public void H_11_A_sequence_NAK_outside_the_window_is_ignored()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.Send, 0, 8);
        c.Expect("RC_SEND_ONLY b00000 A");
        c.SendAck(Own - 5, Aeth.NakPsnSequence);
        c.SendAck(Own + 5, Aeth.NakPsnSequence);
        c.ExpectNothing();
        c.SendAck(Own, Aeth.NakPsnSequence);
        c.Expect("RC_SEND_ONLY b00000 A");
    }

    [Fact]
    public void The_window_closes_with_a_request_for_an_ACK_and_opens_with_the_ACK()
    {
        Conversation c = new(options: o => o with { WindowBytes = 4 * (1024 + 60 + 900), AcknowledgeShare = 1 });
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 10 * 1024);
        c.Expect("RC_WRITE_FIRST b00000");
        c.Expect("RC_WRITE_MIDDLE b00001");
        c.Expect("RC_WRITE_MIDDLE b00002");
        c.Expect("RC_WRITE_MIDDLE b00003 A");
        c.ExpectNothing();
        c.SendAck(Own + 1);
        c.Expect("RC_WRITE_MIDDLE b00004");
        c.Expect("RC_WRITE_MIDDLE b00005"); // 3 is asked about
        c.ExpectNothing();
        c.SendAck(Own + 3);
        c.Expect("RC_WRITE_MIDDLE b00006");
        c.Expect("RC_WRITE_MIDDLE b00007 A");
        c.ExpectNothing();
    }

    // Behind a long one nobody waits whose room a question could make, and each costs both sides a system call.
    [Theory]
    [InlineData(48, new[] { 5, 9, 13 })]
    [InlineData(64, new[] { 9 })]
    public void A_message_of_more_than_two_windows_asks_after_half_of_one_and_others_after_a_quarter(
        int packets, int[] asking)
    {
        Conversation c = new(options: o => o with
        {
            WindowBytes = 16 * (1024 + 60 + 900),
            SuperPacketSegments = 4,
        });
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, (uint)packets * 1024);
        List<int> asks = [];
        for (int i = 0; i < 14; i++)
        {
            if (c.Next().EndsWith(" A", StringComparison.Ordinal))
            {
                asks.Add(i);
            }
        }

        c.ExpectNothing();
        Assert.Equal(asking, asks);
    }

    [Fact]
    public void Room_for_a_fragment_waits_until_acknowledgements_make_room_for_a_whole_super_packet()
    {
        Conversation c = new(options: o => o with
        {
            WindowBytes = 16 * (1024 + 60 + 900), // First and Middle, three super-packets of four, and half of one
            SuperPacketSegments = 4,
        });
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 48 * 1024);
        Assert.Equal([2, 4, 4, 4], SuperPackets(c));
        Assert.Equal("RC_WRITE_MIDDLE b0000d A", c.LastSent);

        // Two packets would fit now, and four behind the next acknowledgement.
        c.SendAck(Own + 1);
        Assert.Equal([4], SuperPackets(c));
        c.SendAck(Own + 2);
        Assert.Equal([], SuperPackets(c));
        c.SendAck(Own + 13);
        Assert.Equal([4, 4, 4], SuperPackets(c));
    }

    [Fact]
    public void Room_for_a_fragment_is_used_when_no_acknowledgement_was_asked_for()
    {
        // The other queue pair's memory goes away in the middle of a run, so that nothing asks for what it has sent.
        Conversation c = new(options: o => o with { WindowBytes = 18 * (1024 + 60 + 900), SuperPacketSegments = 4 });
        DestinationWindow window = c.Pair.Peer.Window;
        window.Charge(15 * (1024 + 60 + 900));
        window.UnaskedBytes += 15 * (1024 + 60 + 900);
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 64 * 1024);
        Assert.Equal([2, 1], SuperPackets(c));
        Assert.Equal("RC_WRITE_MIDDLE b00002 A", c.LastSent);
    }

    [Fact]
    public void A_super_packet_that_arrives_whole_is_charged_its_bytes_and_once_the_cost_of_a_datagram()
    {
        Conversation c = new(
            a => a with { AddressVector = a.AddressVector with { KeepsSuperPackets = true } },
            o => o with { WindowBytes = 64 * 1024, SuperPacketSegments = 4 });
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 16 * 1024);
        c.Post(2, WorkRequestOpcode.Send, 0, 8);
        Assert.Equal([2, 4, 4, 4, 3], SuperPackets(c)); // the SEND rides at the end of the last one
        Assert.Equal((16 * 1024) + 8 + (17 * 32) + (5 * 900), c.Pair.Peer.Window.InFlightBytes);
        c.SendAck(Own + 5);
        Assert.Equal((10 * 1024) + 8 + (11 * 32) + (4 * 900), c.Pair.Peer.Window.InFlightBytes);
        c.SendAck(Own, Aeth.NakPsnSequence);
        c.SendAck(Own + 6, Aeth.NakPsnSequence);
        Assert.Equal(0, c.Pair.Peer.Window.InFlightBytes);
        Assert.Equal([4, 4, 3], SuperPackets(c));
        Assert.Equal((10 * 1024) + 8 + (11 * 32) + (3 * 900), c.Pair.Peer.Window.InFlightBytes);
        c.SendAck(Own + 16);
        Assert.Equal(0, c.Pair.Peer.Window.InFlightBytes);
    }

    [Fact]
    public void One_acknowledgement_is_asked_for_several_messages_when_more_are_queued_behind_them()
    {
        Conversation c = new(options: o => o with { WindowBytes = 1 << 20 });
        PostPairsOfPackets(c, 6);
        c.Expect("RC_WRITE_FIRST b00000");
        c.Expect("RC_WRITE_LAST b00001");
        c.Expect("RC_WRITE_FIRST b00002");
        c.Expect("RC_WRITE_LAST b00003 A");
        c.Expect("RC_WRITE_FIRST b00004");
        c.Expect("RC_WRITE_LAST b00005");
        for (uint psn = 6; psn < 12; psn += 2)
        {
            c.Expect($"RC_WRITE_FIRST b{psn:x5}");
            c.Expect($"RC_WRITE_LAST b{psn + 1:x5} A");
        }
    }

    // A READ may wait for room that a READ of somebody else holds: nobody would ask meanwhile.
    [Fact]
    public void A_message_asks_when_the_next_one_is_answered_itself()
    {
        Conversation c = new(options: o => o with { WindowBytes = 1 << 20 });
        PostPairsOfPackets(c, 1);
        for (ulong i = 2; i < 12; i++)
        {
            c.Post(i, WorkRequestOpcode.RdmaRead, 0, 8);
        }

        c.Expect("RC_WRITE_FIRST b00000");
        c.Expect("RC_WRITE_LAST b00001 A");
    }

    [Fact]
    public void A_message_that_is_sent_again_asks()
    {
        Conversation c = new(options: o => o with { WindowBytes = 1 << 20 });
        PostPairsOfPackets(c, 6);
        Assert.Equal([false, true, false, true, true, true], Ends());
        c.SendAck(Own, Aeth.NakPsnSequence);
        Assert.Equal([true, true, true, true, true, true], Ends());

        bool[] Ends()
        {
            bool[] asks = new bool[6];
            for (int i = 0; i < asks.Length; i++)
            {
                c.Expect($"RC_WRITE_FIRST b{2 * i:x5}");
                asks[i] = c.Next().EndsWith(" A", StringComparison.Ordinal);
            }

            return asks;
        }
    }

    [Fact]
    public void Every_message_asks_where_the_peer_is_used_to_it()
    {
        Conversation c = new(
            a => a with { Profile = new PeerProfile { AsksAtEveryMessage = true } },
            o => o with { WindowBytes = 1 << 20 });
        PostPairsOfPackets(c, 6);
        for (uint psn = 0; psn < 12; psn += 2)
        {
            c.Expect($"RC_WRITE_FIRST b{psn:x5}");
            c.Expect($"RC_WRITE_LAST b{psn + 1:x5} A");
        }
    }

    [Fact]
    public void A_message_that_nobody_asked_about_is_asked_about_when_the_queue_drains()
    {
        Conversation c = new(options: o => o with { WindowBytes = 1 << 20 });
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 8);
        PostPairsOfPackets(c, 1);
        for (ulong i = 2; i < 5; i++)
        {
            c.Post(i, WorkRequestOpcode.RdmaWrite, 0, 8, SendFlags.Fence); // behind the READ: not started yet
        }

        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_WRITE_FIRST b00001");
        c.Expect("RC_WRITE_LAST b00002");
        c.ExpectNothing();
        Assert.Equal(
            Errno.Success,
            c.Pair.Modify(
                new QueuePairAttributes { State = QueuePairState.SendQueueDrained }, QueuePairAttributeMask.State));
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_WRITE_FIRST b00001");
        c.Expect("RC_WRITE_LAST b00002 A");
        c.ExpectNothing();
        c.Send(new RawPacket(Opcode.RcReadResponseOnly, Own)
        {
            Aeth = new Aeth(Aeth.AckUnlimited, 1),
            Payload = new byte[8],
        });
        c.SendAck(Own + 2, msn: 2);
        Assert.Equal([new AsyncEvent(AsyncEventType.SendQueueDrained, c.Pair.QpNumber)], c.Node.PollEvents());
    }

    [Fact]
    public void A_message_that_nobody_asked_about_is_asked_about_when_the_next_one_fails_here()
    {
        Conversation c = new(options: o => o with { WindowBytes = 1 << 20 });
        PostPairsOfPackets(c, 1);
        c.Post(2, WorkRequestOpcode.RdmaWrite, 0, 2048, key: 0x999);
        c.Post(3, WorkRequestOpcode.RdmaWrite, 0, 2048);
        c.Post(4, WorkRequestOpcode.RdmaWrite, 0, 2048);
        c.Expect("RC_WRITE_FIRST b00000");
        c.Expect("RC_WRITE_LAST b00001");
        c.Expect("RC_WRITE_FIRST b00000");
        c.Expect("RC_WRITE_LAST b00001 A");
        c.ExpectNothing();
        c.SendAck(Own + 1, msn: 1);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        c.ExpectCompletion(2, WorkCompletionStatus.LocalProtectionError);
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void The_window_is_shared_by_the_queue_pairs_of_one_destination()
    {
        TestLink link = new(o => o with { WindowBytes = 4 * (1024 + 60 + 900) });
        (QueuePair a1, _) = link.Connect();
        (QueuePair a2, _) = link.Connect();
        TestMemory source = link.A.Allocate(65536), target = link.B.Allocate(65536);
        MemoryRegion local = link.A.Register(source), remote = link.B.Register(target);
        foreach (QueuePair pair in new[] { a1, a2 })
        {
            pair.PostSend(
                new SendWorkRequest
                {
                    Opcode = WorkRequestOpcode.RdmaWrite,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = remote.Iova,
                    RKey = remote.Key,
                },
                new Sge(local.Iova, 65536, local.Key));
        }

        byte[] buffer = new byte[65536];
        long packets = 0;
        while (link.A.Port.PollTransmit(link.Now, buffer, out Transmit transmit))
        {
            packets += (transmit.LengthBytes + transmit.SegmentBytes - 1) / transmit.SegmentBytes;
        }

        Assert.Equal(4, packets);
    }

    private static void PostPairsOfPackets(Conversation c, int count)
    {
        for (int i = 1; i <= count; i++)
        {
            c.Post((ulong)i, WorkRequestOpcode.RdmaWrite, 0, 2 * Conversation.Mtu);
        }
    }

    // How many packets each super-packet has that the port sends now.
    private static int[] SuperPackets(Conversation c)
    {
        byte[] buffer = new byte[65536];
        List<int> counts = [];
        while (c.Node.Port.PollTransmit(c.Now, buffer, out Transmit transmit))
        {
            int last = (transmit.LengthBytes - 1) / transmit.SegmentBytes;
            counts.Add(last + 1);
            int at = last * transmit.SegmentBytes;
            c.LastSent = TestLink.Describe(buffer.AsSpan(at, transmit.LengthBytes - at));
        }

        return [.. counts];
    }
}
