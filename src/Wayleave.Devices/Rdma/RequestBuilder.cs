using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Makes the packets of requests, charges them to the window, and decides which of them ask for an acknowledgement.
/// Port token held by the caller.
/// </summary>
internal sealed class RequestBuilder(QueuePair pair, SendQueue queue, SendProgress progress)
{
    // Requests behind one whose end does not ask, for each that the next acknowledgement speaks for.
    private const uint FollowersWanted = 3;

    private int _superPacketPackets = 1; // of the path MTU that fit one super-packet

    // Nothing of its own: made where it is needed, since there are many queue pairs.
    private AnsweredRequestBuilder Answered => new(pair, progress);

    /// <summary>After an RNR NAK one packet at a time goes out, until one is taken.</summary>
    public bool Probes { get; set; }

    /// <summary>
    /// Adds the next packet, or the next few, of the request at the cursor to a super-packet. The request has started.
    /// </summary>
    /// <param name="superPacket">Takes them.</param>
    /// <param name="isFailing">A later request has failed: nothing will be sent behind those before it.</param>
    /// <param name="outcome">Done, or why the own memory gave nothing when the result is Nothing.</param>
    /// <param name="region">The region that refused, if there is one.</param>
    public BuildResult Build(
        ref SuperPacket superPacket, bool isFailing, out AccessOutcome outcome, out MemoryRegion? region)
    {
        (outcome, region) = (AccessOutcome.Done, null);
        progress.PassEarly();
        return progress.CursorSlot.IsAnswered ? Answered.Build(ref superPacket, out outcome, out region)
            : MustHoldBack(superPacket) ? BuildResult.WindowClosed
            : Probes ? BuildData(ref superPacket, isFailing, out outcome, out region)
            : BuildMiddles(ref superPacket, isFailing, out outcome, out region);
    }

    private BuildResult BuildData(
        ref SuperPacket superPacket, bool isFailing, out AccessOutcome outcome, out MemoryRegion? region)
    {
        (outcome, region) = (AccessOutcome.Done, null);
        ref SendSlot slot = ref progress.CursorSlot;
        int mtu = pair.MtuBytes;
        bool isLast = progress.CursorPacket == slot.PacketCount - 1;
        uint offset = (uint)progress.CursorPacket * (uint)mtu;
        int payloadBytes = (int)Math.Min((uint)mtu, slot.LengthBytes - offset);
        DestinationWindow window = pair.Peer.Window;
        bool opens = superPacket.Count == 0;
        int charge = progress.ChargeOf(payloadBytes);
        int openingCharge = opens ? window.SuperPacketChargeBytes : 0;
        if (!window.Admits(charge + openingCharge))
        {
            return BuildResult.WindowClosed;
        }

        Opcode opcode = RequestHeaders.OpcodeOf(slot.Opcode, progress.CursorPacket == 0, isLast);
        int headerBytes = OpcodeTraits.Of(opcode).HeaderBytes;
        int packetBytes = PayloadPacket.SizeOf(headerBytes, payloadBytes);
        if (!superPacket.TryReserve(packetBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        long unasked = progress.UnaskedBytes + openingCharge + charge;
        bool asks = Probes
            || (isLast && (isFailing || !IsFollowed))
            || MustAsk(window.InFlightBytes + openingCharge + charge, unasked);
        Bth bth = new()
        {
            Opcode = opcode,
            Solicited = isLast && RequestHeaders.IsSolicited(slot),
            PadCount = -payloadBytes & 3,
            PKey = pair.Port.Options.PKey,
            DestQp = pair.DestQpNumber,
            AckRequest = asks,
            Psn = progress.CursorPsn,
        };
        outcome = Write(packet, bth, progress.Cursor, offset, payloadBytes, superPacket.Count, out region);
        if (outcome != AccessOutcome.Done)
        {
            return BuildResult.Nothing;
        }

        superPacket.Commit(packetBytes);
        uint position = progress.Cursor;
        pair.Port.Counters.Retransmits += progress.NoteSent(1, charge, opens, asks ? 0 : unasked);
        bool isAmongFirsts = opens
            || (!pair.Peer.Requests.IsSingle && packetBytes == superPacket.SegmentBytes);
        if (isAmongFirsts && opcode == Opcode.RcWriteFirst && !asks && !isFailing && MaySendEarly(superPacket))
        {
            SendEarly(ref superPacket, bth, Psn.Next(queue[position].LastPsn), position + 1);
        }

        return BuildResult.Built;
    }

    private bool MaySendEarly(in SuperPacket superPacket) => pair.Profile.FirstsAhead > 0
        && progress.Early.IsEmpty
        && (pair.Peer.Requests.IsSingle || MayTakeTwo(superPacket))
        && pair.State == QueuePairState.ReadyToSend;

    // Beside others that send to that socket, who begin a message with this one: then the next message too, and both
    // are sent in one turn. Where a turn is a message anyway, and enough are queued for IsFollowed.
    private bool MayTakeTwo(in SuperPacket superPacket) => pair.Congestion is null
        && queue.Tail - progress.Cursor > 2 * FollowersWanted
        && progress.CursorSlot.PacketCount - 1
            <= superPacket.CapacityFor(PayloadPacket.SizeOf(Bth.Size, pair.MtuBytes));

    private int EarlyMax =>
        pair.Peer.Requests.IsSingle ? Math.Min(pair.Profile.FirstsAhead, PeerProfile.FirstsAheadMax) : 1;

    // Another message follows in this turn, and its end asks for both. Not when somebody waits who may have little to
    // send.
    private bool TakesTwo => !pair.Peer.Requests.IsSingle && progress.Early.IsOne && !pair.Peer.HasNewcomer;

    // What cannot be sent early is looked at again in its turn, and what is wrong with it said.
    private void SendEarly(ref SuperPacket superPacket, in Bth bth, uint psn, uint position)
    {
        int mtu = pair.MtuBytes;
        int charge = progress.ChargeOf(mtu);
        int packetBytes = superPacket.SegmentBytes;
        uint end = position + (uint)Math.Min(EarlyMax, (int)(queue.Tail - position));
        for (; position != end; position++)
        {
            ref SendSlot slot = ref queue[position];
            if (Psn.Distance(bth.Psn, psn) > EarlyFirsts.PsnsMax
                || !progress.Early.MayFollow(slot, pair.Peer.Window, charge)
                || !superPacket.TryReserve(packetBytes, out Span<byte> packet))
            {
                return;
            }

            Bth header = bth with { Psn = psn };
            if (Write(packet, header, position, 0, mtu, superPacket.Count, out _) != AccessOutcome.Done)
            {
                return;
            }

            superPacket.Commit(packetBytes);
            progress.Early.Add(position, psn, charge);
            pair.Port.Counters.SentAhead++;
            psn = Psn.Add(psn, (uint)slot.PacketsAt(mtu));
        }
    }

    private AccessOutcome Write(
        Span<byte> packet,
        in Bth bth,
        uint position,
        uint offset,
        int payloadBytes,
        int segment,
        out MemoryRegion? region)
    {
        int headerBytes = OpcodeTraits.Of(bth.Opcode).HeaderBytes;
        RequestHeaders.Write(packet, bth, queue[position]);
        uint icrc = PayloadPacket.Begin(pair.Peer.Outbound, segment, bth, packet, headerBytes);
        Span<byte> payload = packet.Slice(headerBytes, payloadBytes);
        AccessOutcome outcome = Gather(position, offset, payload, ref icrc, out region);
        if (outcome == AccessOutcome.Done)
        {
            PayloadPacket.End(icrc, packet, headerBytes, payloadBytes);
        }

        return outcome;
    }

    /// <summary>
    /// As many packets from the middle of a message as fit, out of one piece of memory: they have the same size and
    /// almost the same headers, and the memory is looked up once. Anything else is left to <see cref="BuildData"/>.
    /// </summary>
    private BuildResult BuildMiddles(
        ref SuperPacket superPacket, bool isFailing, out AccessOutcome outcome, out MemoryRegion? region)
    {
        ref SendSlot slot = ref progress.CursorSlot;
        int first = progress.CursorPacket;
        int mtu = pair.MtuBytes;
        int charge = progress.ChargeOf(mtu);
        int packetBytes = PayloadPacket.SizeOf(Bth.Size, mtu);
        DestinationWindow window = pair.Peer.Window;
        bool opens = superPacket.Count == 0;
        int openingCharge = opens ? window.SuperPacketChargeBytes : 0;
        int left = slot.PacketCount - 1 - first;
        int count = Math.Min(left, window.RoomFor(charge, openingCharge));
        count = Math.Min(count, superPacket.RoomFor(packetBytes));
        if (first == 0 || count < 2 || (slot.Flags & SendFlags.Inline) != 0)
        {
            return BuildData(ref superPacket, isFailing, out outcome, out region);
        }

        outcome = pair.Memory.TryOpen(
            queue.Sges(progress.Cursor),
            (ulong)first * (ulong)mtu,
            count * mtu,
            out ReadOnlySpan<byte> bytes,
            out Translation? translation,
            out region);
        if (translation is null)
        {
            return BuildResult.Nothing;
        }

        count = Math.Min(count, bytes.Length / mtu);
        Bth bth = new()
        {
            Opcode = RequestHeaders.OpcodeOf(slot.Opcode, isFirst: false, isLast: false),
            PKey = pair.Port.Options.PKey,
            DestQp = pair.DestQpNumber,
            Psn = progress.CursorPsn,
        };

        // The last one of the super-packet, unless the end of the message comes behind it and asks anyway. Of what goes
        // out again that is not relied on: nobody answered the first time, and the end may be held back.
        long unasked = progress.UnaskedBytes + openingCharge;
        bool asks = count == left
            ? progress.IsOnTheWay(progress.CursorPsn)
            : MustAsk(window.InFlightBytes + openingCharge + count * charge, unasked + count * charge);
        int built = MiddleRun.Build(pair, region!, bth, asks, bytes, count, translation, ref superPacket);
        pair.Memory.Leave(translation);
        if (built == 0)
        {
            return BuildData(ref superPacket, isFailing, out outcome, out region); // the packet lies in two pieces
        }

        unasked = asks && built == count ? 0 : unasked + built * charge;
        pair.Port.Counters.Retransmits += progress.NoteSent(built, built * charge, opens, unasked);
        return BuildResult.Built;
    }

    // So many requests are queued behind the one at the cursor that one acknowledgement for some of them keeps nobody
    // waiting: there are three for each that it will speak for. Short ones share a super-packet and its answer anyway.
    private bool IsFollowed => !pair.Profile.AsksAtEveryMessage
        && progress.CursorPacket > 0
        && pair.State == QueuePairState.ReadyToSend
        && (pair.Peer.Requests.IsSingle || TakesTwo)
        && queue.Tail - progress.Cursor > FollowersWanted * (progress.Cursor - progress.AskedPosition + 1)
        && !progress.IsOnTheWay(progress.CursorPsn) // again: nobody answered, and nobody would
        && !queue[progress.Cursor + 1].IsAnswered // may have to wait for room
        && !queue[progress.Cursor + 1].IsLocal; // waits for everything before it

    // Besides the last packet of a message: one now and then, as much of all queue pairs together as of one, less often
    // in a message of more than two windows; and when nobody has asked about anything that is on its way, the one
    // behind which nothing worth sending fits the window, for nothing more would ask. Who has lost something asks there
    // in any case.
    private bool MustAsk(long inFlightBytes, long unaskedBytes)
    {
        DestinationWindow window = pair.Peer.Window;
        long unasked = unaskedBytes + window.UnaskedBytes - progress.UnaskedBytes - progress.Early.ChargedBytes;
        bool isLater = window.IsCareful || TakesTwo || progress.CursorSlot.LengthBytes > 2 * window.LimitBytes;
        int share = isLater ? Math.Min(pair.Port.Options.AcknowledgeShare, 2) : pair.Port.Options.AcknowledgeShare;
        return unasked >= window.LimitBytes / share
            || ((window.IsCareful || window.InFlightBytes <= window.UnaskedBytes)
                && inFlightBytes + Worthwhile(_superPacketPackets) > window.LimitBytes);
    }

    // A super-packet is opened when there is room for all that this request would put into it.
    private bool MustHoldBack(in SuperPacket superPacket)
    {
        if (superPacket.Count != 0)
        {
            return false;
        }

        ref SendSlot slot = ref progress.CursorSlot;
        int left = slot.PacketCount - progress.CursorPacket;
        if (left == 1 || Probes)
        {
            return false;
        }

        // First is longer than Middle, so the super-packet that it opens ends with the second packet: it is not worth a
        // start if the next one cannot follow.
        _superPacketPackets = superPacket.CapacityFor(PayloadPacket.SizeOf(Bth.Size, pair.MtuBytes));
        int wanted = progress.CursorPacket == 0
            ? Math.Min(left * MessagesTogether(superPacket), _superPacketPackets + 2)
            : Math.Min(left + progress.Early.PacketsBehind(queue), _superPacketPackets);
        return pair.Peer.Window.IsWorthWaiting(Worthwhile(wanted));
    }

    // That begin with the one at the cursor, if those behind it are like it.
    private int MessagesTogether(in SuperPacket superPacket) => MaySendEarly(superPacket)
        ? (int)Math.Min(queue.Tail - progress.Cursor, 1u + (uint)EarlyMax)
        : 1;

    private long Worthwhile(int packets)
    {
        DestinationWindow window = pair.Peer.Window;
        int charge = progress.ChargeOf(pair.MtuBytes);
        long all = (long)packets * charge + window.SuperPacketChargeBytes;
        return Math.Clamp(all, charge, Math.Max(charge, window.WorthwhileBytes));
    }

    private AccessOutcome Gather(
        uint position, uint offset, Span<byte> payload, ref uint icrc, out MemoryRegion? region)
    {
        if ((queue[position].Flags & SendFlags.Inline) == 0)
        {
            return pair.Memory.Gather(queue.Sges(position), offset, payload, ref icrc, out region);
        }

        region = null;
        icrc = Icrc.AppendCopy(icrc, queue.Inline(position).Slice((int)offset, payload.Length), payload);
        return AccessOutcome.Done;
    }
}
