using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Positions in the send queue:
//
//   completed | head ......... cursor ......... started ........ tail
//               acked up to    sent up to       has PSNs         posted
//               AckPsn         CursorPsn        _nextPsn
//
// Going back moves the cursor to AckPsn; _sentPsn, the end of everything ever sent, stays. All distances are taken from
// AckPsn and are unsigned, so that even a message of 2^23 packets has an order.

/// <summary>
/// How far a requester is in its send queue: which PSNs were given out, sent and acknowledged, and what is charged to
/// the windows for those on their way. Port token held by the caller.
/// </summary>
internal sealed class SendProgress(QueuePair pair, SendQueue queue, RdmaDeviceOptions options)
{
    private uint _started;
    private uint _nextPsn;
    private uint _sentPsn;
    private long _charged;
    private long _readCharged;

    /// <summary>What was sent of requests whose turn has not come.</summary>
    public EarlyFirsts Early { get; } = new(pair);

    /// <summary>The oldest request that has not completed.</summary>
    public uint Head { get; private set; }

    /// <summary>The request whose packet is sent next.</summary>
    public uint Cursor { get; private set; }

    /// <summary>Which of its packets.</summary>
    public int CursorPacket { get; private set; }

    /// <summary>The oldest PSN without an answer.</summary>
    public uint AckPsn { get; private set; }

    /// <summary>
    /// Requests on the wire that will be answered (<see cref="SendSlot.IsAnswered"/>); of a READ, pieces.
    /// </summary>
    public int AnswersOutstanding { get; private set; }

    /// <summary>Work requests of that kind that were started and have not completed: a fence waits for them.</summary>
    public int AnswersIncomplete { get; private set; }

    public ref SendSlot HeadSlot => ref queue[Head];

    public ref SendSlot CursorSlot => ref queue[Cursor];

    /// <summary>The request at the cursor has no PSN yet: it may still wait.</summary>
    public bool IsCursorNew => Cursor == _started;

    /// <summary>Something is posted that was not sent, or must be sent again.</summary>
    public bool HasWork => Cursor != queue.Tail;

    /// <summary>Everything that has a PSN is complete.</summary>
    public bool IsIdle => Head == _started;

    /// <summary>Whether a packet that was sent, and not taken back, has no answer.</summary>
    public bool IsOutstanding => CursorPsn != AckPsn;

    /// <summary>PSN of the packet at the cursor. The request there has been started.</summary>
    public uint CursorPsn => IsCursorNew ? _nextPsn : Psn.Add(queue[Cursor].FirstPsn, (uint)CursorPacket);

    private int PiecePackets => Math.Max(1, options.ReadRequestBytes / pair.MtuBytes);

    /// <summary>Starts over, with that PSN.</summary>
    public void Reset(uint firstPsn)
    {
        TakeBackCharges();
        Head = Cursor = _started = AskedPosition = 0;
        CursorPacket = AnswersIncomplete = 0;
        AckPsn = _nextPsn = _sentPsn = firstPsn;
        Early.Reset();
    }

    /// <summary>Gives the request at the cursor its PSNs.</summary>
    public void Start()
    {
        ref SendSlot slot = ref queue[Cursor];
        slot.FirstPsn = _nextPsn;
        slot.SuperPackets = 0;
        slot.PacketCount = slot.PacketsAt(pair.MtuBytes);
        _nextPsn = Psn.Add(_nextPsn, (uint)slot.PacketCount);
        AnswersIncomplete += slot.IsAnswered ? 1 : 0;
        _started++;
    }

    /// <summary>The request at the cursor needs no packet, and nothing before it is outstanding.</summary>
    public void PassLocal()
    {
        _started++;
        Cursor++;
        AskedPosition = Cursor;
    }

    /// <summary>What a packet with that payload is charged, whatever super-packet it is in.</summary>
    public int ChargeOf(int payloadBytes) => payloadBytes + pair.Peer.Window.DatagramChargeBytes;

    /// <summary>The PSN behind everything that was ever sent.</summary>
    public uint SentPsn => _sentPsn;

    /// <summary>What was sent since an acknowledgement was asked for.</summary>
    public long UnaskedBytes { get; private set; }

    /// <summary>The first request whose last packet an acknowledgement that was asked for will not speak for.</summary>
    public uint AskedPosition { get; private set; }

    /// <summary>That many packets from the cursor on were sent, all of one request.</summary>
    /// <param name="packets">How many.</param>
    /// <param name="chargeBytes">Of all of them, without what the super-packet costs.</param>
    /// <param name="opens">The first of them opened a super-packet.</param>
    /// <param name="unaskedBytes">Charge behind the last of them that asks for an acknowledgement.</param>
    /// <returns>How many of them had been sent before.</returns>
    public int NoteSent(int packets, int chargeBytes, bool opens, long unaskedBytes)
    {
        DestinationWindow window = pair.Peer.Window;
        if (opens)
        {
            chargeBytes += window.SuperPacketChargeBytes;
            CursorSlot.SuperPackets++;
        }

        window.Charge(chargeBytes);
        _charged += chargeBytes;
        int repeated = Advance(CursorPacket + packets);
        SetUnasked(unaskedBytes);
        return repeated;
    }

    /// <summary>
    /// When the first packet of the request at the cursor is out already, it counts as sent from now on.
    /// </summary>
    public void PassEarly()
    {
        if (CursorPacket == 0 && Early.TryTake(Cursor, CursorPsn))
        {
            int charge = ChargeOf(pair.MtuBytes);
            NoteSent(1, charge, opens: false, UnaskedBytes + charge);
        }
    }

    /// <summary>
    /// Which packets a READ request sent now asks for: up to the end of the piece that the packet is in.
    /// </summary>
    public (int End, uint LengthBytes) ReadPiece(in SendSlot slot, int packet)
    {
        int piece = PiecePackets;
        int end = Math.Min((packet / piece + 1) * piece, slot.PacketCount);
        uint from = (uint)packet * (uint)pair.MtuBytes;
        uint to = (uint)Math.Min((ulong)end * (uint)pair.MtuBytes, slot.ResponseBytes);
        return (end, to - from);
    }

    /// <summary>Whether a READ request asks from that packet on when nothing is lost.</summary>
    public bool StartsPiece(int packet) => packet % PiecePackets == 0;

    /// <summary>
    /// What the responses from the cursor to that packet, of that length together, are charged: how many super-packets
    /// they come in is up to the peer, and twice as many as would do is the most.
    /// </summary>
    public int ChargeOfRead(int end, uint lengthBytes)
    {
        int charge = (int)lengthBytes;
        for (int packet = CursorPacket; packet < end; packet++)
        {
            charge += ChargeOfReadPacket(packet);
        }

        return charge;
    }

    /// <summary>
    /// The next response is one from the middle of a READ: then, and only then, a peer may have sent others ahead.
    /// </summary>
    public bool AwaitsMiddle
    {
        get
        {
            ref SendSlot slot = ref queue[Head];
            int index = Psn.Distance(slot.FirstPsn, AckPsn);
            return slot.IsAnswered && !StartsPiece(index) && index < ReadPiece(slot, index).End - 1;
        }
    }

    /// <summary>
    /// How many responses from the middle of a READ may come next, on their way and before the last one of its piece.
    /// </summary>
    public int MiddlesToCome
    {
        get
        {
            if (IsIdle || !AwaitsMiddle)
            {
                return 0;
            }

            ref SendSlot slot = ref queue[Head];
            int index = Psn.Distance(slot.FirstPsn, AckPsn);
            return (int)Math.Min((uint)(ReadPiece(slot, index).End - 1 - index), Ahead(_sentPsn));
        }
    }

    /// <summary>A READ request was sent for the packets from the cursor to that one.</summary>
    /// <returns>1 when they were asked for before, else 0.</returns>
    public int NoteReadSent(int end, int chargeBytes)
    {
        pair.Peer.ReadWindow.Charge(chargeBytes);
        _readCharged += chargeBytes;
        AnswersOutstanding++;
        int repeated = Math.Min(Advance(end), 1);
        SetUnasked(0);
        return repeated;
    }

    /// <summary>Whether a response to that PSN can exist: sent, and not answered yet (H-06, H-11).</summary>
    public bool IsOnTheWay(uint psn) => Ahead(psn) < Ahead(_sentPsn);

    /// <summary>
    /// Takes the SENDs and WRITEs at the head for acknowledged, up to and without <paramref name="end"/>, as far as
    /// nothing that is answered stands in the way: one request at most, so that the caller can complete it.
    /// </summary>
    /// <returns>Whether the request at the head is complete.</returns>
    public bool AcknowledgeHead(uint end)
    {
        ref SendSlot slot = ref queue[Head];
        int from = Psn.Distance(slot.FirstPsn, AckPsn);
        int to = (int)Math.Min((uint)slot.PacketCount, (uint)from + Ahead(end));
        Release(ref slot, from, to);
        AckPsn = Psn.Add(slot.FirstPsn, (uint)to);
        return to == slot.PacketCount;
    }

    /// <summary>Whether the PSN lies within the request at the head.</summary>
    public bool IsInHead(uint psn)
    {
        ref SendSlot slot = ref queue[Head];
        return Ahead(psn) < Ahead(Psn.Add(slot.FirstPsn, (uint)slot.PacketCount));
    }

    /// <summary>
    /// A READ packet whose turn has not come is held: its bytes are in the socket no more. What it was charged besides
    /// is given back in its turn, for only then its place in its READ is known.
    /// </summary>
    /// <returns>
    /// What was given back: nothing, when it is late and was not asked for again, for then nothing is charged for it.
    /// </returns>
    public int NoteHeld(int payloadBytes)
    {
        int freed = (int)ReleaseRead(payloadBytes);
        return !options.Defences.FreesHeldOnce ? 0 : options.Defences.CountsFreed ? freed : payloadBytes;
    }

    /// <summary>
    /// The READ packet at <see cref="AckPsn"/> has arrived, now or when it was held. True when its request is complete.
    /// </summary>
    /// <param name="payloadBytes">Its payload.</param>
    /// <param name="endsPiece">It is the last one that its READ request asked for.</param>
    /// <param name="freedBytes">What <see cref="NoteHeld"/> gave back of it.</param>
    public bool TakeReadPacket(int payloadBytes, bool endsPiece, int freedBytes)
    {
        int index = Psn.Distance(queue[Head].FirstPsn, AckPsn);
        ReleaseRead(ChargeOfReadPacket(index) + payloadBytes - freedBytes);
        AnswersOutstanding -= endsPiece && AnswersOutstanding > 0 ? 1 : 0;
        AckPsn = Psn.Next(AckPsn);
        bool isComplete = Psn.Compare(AckPsn, queue[Head].LastPsn) > 0;
        AnswersIncomplete -= isComplete ? 1 : 0;
        return isComplete;
    }

    /// <summary>The request at the head is done, one way or another.</summary>
    public void RetireHead() => Head++;

    /// <summary>
    /// When what was acknowledged lies behind the cursor, because it was sent twice, goes on behind it.
    /// </summary>
    /// <returns>Whether it did: a READ may be asked for from its middle on.</returns>
    public bool CatchUp()
    {
        if (Ahead(CursorPsn) <= Ahead(_sentPsn))
        {
            return false;
        }

        TakeBackSends();
        MoveCursorToAck();
        return true;
    }

    /// <summary>Everything from the oldest unanswered packet on is to be sent again.</summary>
    public void GoBack()
    {
        TakeBackCharges();
        MoveCursorToAck();
    }

    /// <summary>After a flush: nothing is started and nothing outstanding.</summary>
    public void Abandon()
    {
        TakeBackCharges();
        Cursor = _started = AskedPosition = Head;
        CursorPacket = AnswersIncomplete = 0;
    }

    private uint Ahead(uint psn) => (psn - AckPsn) & Psn.Mask;

    private int Advance(int nextPacket)
    {
        uint psn = CursorPsn;
        uint end = Psn.Add(psn, (uint)(nextPacket - CursorPacket));
        uint sent = Ahead(_sentPsn);
        uint from = Ahead(psn);
        uint to = Ahead(end);
        int repeated = from < sent ? (int)(Math.Min(to, sent) - from) : 0;
        _sentPsn = to > sent ? end : _sentPsn;
        bool isDone = nextPacket == queue[Cursor].PacketCount;
        Cursor += isDone ? 1u : 0;
        CursorPacket = isDone ? 0 : nextPacket;
        return repeated;
    }

    private void MoveCursorToAck()
    {
        Cursor = AskedPosition = Head;
        CursorPacket = IsIdle ? 0 : Psn.Distance(queue[Head].FirstPsn, AckPsn);
    }

    private int ChargeOfReadPacket(int packet)
    {
        DestinationWindow window = pair.Peer.ReadWindow;
        int share = 2 * window.SuperPacketChargeBytes * pair.MtuBytes / options.SuperPacketBytes;
        return window.DatagramChargeBytes + (StartsPiece(packet) ? window.SuperPacketChargeBytes : share);
    }

    // After a step back what was asked for before may still come: nothing is charged for that.
    private long ReleaseRead(long charge)
    {
        charge = Math.Min(charge, _readCharged);
        _readCharged -= charge;
        pair.Peer.ReadWindow.Release(charge);
        return charge;
    }

    private void SetUnasked(long bytes)
    {
        AskedPosition = bytes == 0 ? Cursor : AskedPosition;
        pair.Peer.Window.UnaskedBytes += bytes - UnaskedBytes;
        UnaskedBytes = bytes;
    }

    private void Release(ref SendSlot slot, int fromPacket, int toPacket)
    {
        ulong mtu = (ulong)pair.MtuBytes;
        ulong bytes = Math.Min((ulong)toPacket * mtu, slot.LengthBytes)
            - Math.Min((ulong)fromPacket * mtu, slot.LengthBytes);

        // After a step back the peer may acknowledge what it had already got and we have not sent again.
        DestinationWindow window = pair.Peer.Window;
        long packets = toPacket - fromPacket;
        long charge = (long)bytes
            + packets * window.DatagramChargeBytes
            + TakeSuperPackets(ref slot, packets, fromPacket) * window.SuperPacketChargeBytes;
        charge = Math.Min(charge, _charged);
        _charged -= charge;
        window.Release(charge);
        if (UnaskedBytes > _charged)
        {
            SetUnasked(_charged);
        }
    }

    // Within one request super-packets are about equally long, so as large a share of them is gone as of its packets.
    private long TakeSuperPackets(ref SendSlot slot, long packets, int fromPacket)
    {
        int sent = Head == Cursor ? CursorPacket : slot.PacketCount;
        long outstanding = sent - fromPacket;
        int gone = packets >= outstanding ? slot.SuperPackets : (int)(slot.SuperPackets * packets / outstanding);
        slot.SuperPackets -= gone;
        return gone;
    }

    private void TakeBackCharges()
    {
        if (pair.HasPeer)
        {
            TakeBackSends();
            pair.Peer.ReadWindow.Release(_readCharged);
            pair.Port.Peers.WakeReadWaiters();
        }

        _readCharged = 0;
        AnswersOutstanding = 0;
    }

    private void TakeBackSends()
    {
        Early.Forget();
        pair.Peer.Window.Release(_charged);
        SetUnasked(0);
        _charged = 0;
        for (uint position = Head; (int)(_started - position) > 0; position++) // a flush leaves the head behind it
        {
            queue[position].SuperPackets = 0;
        }
    }
}
