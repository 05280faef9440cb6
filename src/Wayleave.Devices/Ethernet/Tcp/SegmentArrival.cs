using Wayleave.Core;

namespace Wayleave.Devices.Ethernet.Tcp;

// RFC 9293 3.10.7.3 and 3.10.7.4, with RFC 5961 and RFC 7323 where they change the order. The order is the defence: a
// segment passes each check or changes nothing.

/// <summary>What a segment does to a connection that exists.</summary>
internal static class SegmentArrival
{
    /// <summary>RFC 9293 3.10.7.3.</summary>
    public static void InSynSent(TcpConnection connection, TimeSpan now, scoped in TcpSegment segment)
    {
        TcpSender sender = connection.Sender;
        long ack = sender.PositionOf(segment.Acknowledgement);
        if (segment.HasAck && (ack <= 0 || ack > sender.Nxt))
        {
            connection.Endpoint.Answers.ToStranger(now, connection.Flow, segment);
            return;
        }

        if (segment.HasRst)
        {
            if (segment.HasAck)
            {
                connection.Terminate(TcpEvent.Reset, Errno.ECONNREFUSED);
            }

            return;
        }

        if (!segment.HasSyn)
        {
            return;
        }

        connection.Receiver.Start(segment.Sequence);
        connection.AdoptOptions(now, segment.Options, connection.Timers.WasSynRetransmitted);
        if (!segment.HasAck)
        {
            // Both opened at once: our SYN goes out again, with an acknowledgement of theirs.
            connection.Enter(TcpEvent.SynReceived);
            connection.RequestSyn();
            return;
        }

        connection.Enter(TcpEvent.SynAckReceived);
        HandleEstablished(connection, now, segment, position: 0, ack);
        connection.Receiver.RequestAckOnce();
        connection.Endpoint.Raise(connection, TcpEvents.Connected);
        HandleText(connection, now, segment, position: 1);
    }

    /// <summary>RFC 9293 3.10.7.4: the states from SYN-RECEIVED to TIME-WAIT.</summary>
    public static void InSynchronized(TcpConnection connection, TimeSpan now, scoped in TcpSegment segment)
    {
        TcpReceiver receiver = connection.Receiver;
        long position = receiver.PositionOf(segment.Sequence);
        if (!IsAcceptable(connection, now, segment, position))
        {
            return;
        }

        if (segment.HasRst)
        {
            HandleReset(connection, now, position);
            return;
        }

        if (segment.HasSyn)
        {
            HandleSyn(connection, now, segment);
            return;
        }

        if (!segment.HasAck)
        {
            return;
        }

        long ack = connection.Sender.PositionOf(segment.Acknowledgement);
        if (!IsAckPossible(connection, now, segment, ack))
        {
            return;
        }

        connection.Timestamps.Update(segment.Options, now, position <= receiver.LastAcknowledged);
        if (connection.State == TcpState.TimeWait)
        {
            // RFC 9293 ignores text here; tcp_timewait_state_process tells the peer that it goes beyond the end.
            if (segment.LengthInSequence > 0)
            {
                connection.Endpoint.TryAnswerInvalid(connection, now, segment.PayloadBytes > 0);
            }

            return;
        }

        HandleAck(connection, now, segment, position, ack);
        if (connection.State == TcpState.Closed)
        {
            return;
        }

        HandleText(connection, now, segment, position);
    }

    private static bool IsAcceptable(
        TcpConnection connection, TimeSpan now, scoped in TcpSegment segment, long position)
    {
        TcpReceiver receiver = connection.Receiver;
        TcpStats stats = connection.Endpoint.Stats;
        bool isOld = !segment.HasRst && connection.Endpoint.Options.Defences.RefusesOldTimestamps
            && connection.Timestamps.IsOld(segment.Options, now);
        if (isOld)
        {
            stats.OldTimestamps++;
            connection.Endpoint.TryAnswerInvalid(connection, now, segment.PayloadBytes > 0 && !segment.HasSyn);
            return false;
        }

        int length = segment.HasRst ? 0 : segment.LengthInSequence;
        if (receiver.IsAcceptable(position, length))
        {
            return true;
        }

        // A closed window: no data, but RFC 9293 says that acknowledgements, and Linux that a FIN, still count.
        if (receiver.Window == 0 && position == receiver.Next && length > 0 && !segment.HasSyn)
        {
            receiver.RequestAckOnce();
            return true;
        }

        if (segment.HasRst)
        {
            return false;
        }

        if (segment.HasSyn && connection.State != TcpState.TimeWait)
        {
            HandleSyn(connection, now, segment);
            return false;
        }

        HandleOld(connection, now, segment, position);
        return false;
    }

    // What was received before is acknowledged again, the second copy named (RFC 2883); what was never announced is
    // answered in moderation.
    private static void HandleOld(TcpConnection connection, TimeSpan now, scoped in TcpSegment segment, long position)
    {
        if (connection.State == TcpState.TimeWait && segment.HasFin)
        {
            connection.Timers.StartTimeWait(now);
        }

        if (connection.Endpoint.TryAnswerInvalid(connection, now, segment.PayloadBytes > 0 && !segment.HasSyn))
        {
            connection.Receiver.NoteDuplicate(position, segment.PayloadBytes);
        }
    }

    private static void HandleReset(TcpConnection connection, TimeSpan now, long position)
    {
        if (position != connection.Receiver.Next && connection.Endpoint.Options.Defences.ChecksResets)
        {
            connection.Endpoint.Challenge(connection, now);
            return;
        }

        connection.Endpoint.Stats.ResetsReceived++;
        bool wasRefused = connection.State == TcpState.SynReceived;
        bool isOver = connection.State is TcpState.TimeWait or TcpState.LastAck or TcpState.Closing;
        connection.Terminate(
            TcpEvent.Reset,
            wasRefused ? Errno.ECONNREFUSED : isOver ? Errno.Success : Errno.ECONNRESET);
    }

    private static void HandleSyn(TcpConnection connection, TimeSpan now, scoped in TcpSegment segment)
    {
        if (connection.State == TcpState.SynReceived)
        {
            // A simultaneous open: either our answer was lost, or this one completes it.
            long ack = connection.Sender.PositionOf(segment.Acknowledgement);
            if (!segment.HasAck || ack != connection.Sender.Nxt)
            {
                connection.RequestSyn();
                return;
            }

            Complete(connection, now, segment, position: 0, ack);
            connection.Receiver.RequestAckOnce();
            return;
        }

        if (!connection.Endpoint.Options.Defences.ChallengesSyns)
        {
            connection.Abort(); // RFC 793 did this, and anybody who could guess a window could reset
            return;
        }

        connection.Endpoint.Challenge(connection, now);
    }

    private static bool IsAckPossible(TcpConnection connection, TimeSpan now, scoped in TcpSegment segment, long ack)
    {
        TcpSender sender = connection.Sender;
        if (connection.State == TcpState.SynReceived)
        {
            if (ack > sender.Una && ack <= sender.Nxt)
            {
                return true;
            }

            connection.Endpoint.Answers.ToStranger(now, connection.Flow, segment);
            return false;
        }

        bool isPossible = ack <= sender.Nxt
            && (ack >= sender.Una - sender.WindowMax || !connection.Endpoint.Options.Defences.ChecksAcknowledgements);
        if (!isPossible)
        {
            connection.Endpoint.Challenge(connection, now);
        }

        return isPossible;
    }

    private static void HandleAck(
        TcpConnection connection, TimeSpan now, scoped in TcpSegment segment, long position, long ack)
    {
        TcpSender sender = connection.Sender;
        if (connection.State == TcpState.SynReceived)
        {
            Complete(connection, now, segment, position, ack);
        }

        if (ack < sender.Una)
        {
            return;
        }

        long window = (long)segment.Window << sender.WindowShift;
        bool isProgress = ack > sender.Una;
        bool isDuplicate = !isProgress && segment.LengthInSequence == 0 && window == sender.Window
            && sender.Nxt > sender.Una;
        TimeSpan echoed = isProgress ? connection.Timestamps.RoundTrip(segment.Options, now) : TimeSpan.Zero;
        sender.HandleAck(now, ack, segment, isDuplicate, echoed);
        sender.HandleWindow(position, ack, window);
        if (!isProgress)
        {
            return;
        }

        connection.Timers.HandleProgress(now);
        connection.Endpoint.Raise(connection, TcpEvents.Acknowledged);
        if (sender.IsFinAcked && connection.State is TcpState.FinWait1 or TcpState.Closing or TcpState.LastAck)
        {
            HandleFinAcked(connection);
        }
    }

    private static void HandleFinAcked(TcpConnection connection)
    {
        if (connection.State == TcpState.LastAck)
        {
            connection.Terminate(TcpEvent.FinAcked, Errno.Success);
        }
        else
        {
            connection.Enter(TcpEvent.FinAcked);
        }
    }

    private static void Complete(
        TcpConnection connection, TimeSpan now, scoped in TcpSegment segment, long position, long ack)
    {
        HandleEstablished(connection, now, segment, position, ack);
        connection.Enter(TcpEvent.HandshakeDone);
        connection.Endpoint.Raise(connection, TcpEvents.Connected);
        if (connection.Sender.IsClosing)
        {
            connection.Enter(TcpEvent.Close); // the user closed while the handshake went on
        }
    }

    private static void HandleEstablished(
        TcpConnection connection, TimeSpan now, scoped in TcpSegment segment, long position, long ack)
    {
        connection.Sender.HandleSynAcked(ack);
        connection.Timers.HandleProgress(now);

        // RFC 7323 2.2: the window of a SYN is not scaled.
        int shift = segment.HasSyn ? 0 : connection.Sender.WindowShift;
        connection.Sender.HandleWindow(position, ack, (long)segment.Window << shift);
        if (!connection.Timers.WasSynRetransmitted && connection.Timers.SynSentAt != TimeSpan.Zero)
        {
            connection.Sender.Recovery.Rtt.AddSample(now - connection.Timers.SynSentAt);
        }
    }

    private static void HandleText(
        TcpConnection connection, TimeSpan now, scoped in TcpSegment segment, long position)
    {
        TcpReceiver receiver = connection.Receiver;
        bool brings = segment.PayloadBytes > 0 || segment.HasFin;
        if (!brings || !connection.State.CanReceive())
        {
            return;
        }

        if (connection.IsOrphan && position + segment.PayloadBytes > receiver.Next)
        {
            connection.Abort(); // RFC 1122 4.2.2.13: nobody will read it
            return;
        }

        long before = receiver.Next;
        receiver.HandleText(now, segment, position);
        if (receiver.Next == before)
        {
            return;
        }

        connection.Endpoint.Raise(connection, TcpEvents.Readable);
        if (receiver.HasFin)
        {
            connection.Enter(TcpEvent.FinReceived);
        }
    }
}
