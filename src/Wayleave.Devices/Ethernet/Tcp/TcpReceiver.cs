using Wayleave.Devices.Ethernet.Tcp.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

// Positions count the peer's stream in 64 bits: its SYN is 0, its first byte 1.
//
//      delivered             in order, unread      too early
//   |--------------|-------------------------|....=====....==..|
//                                            Next              Edge: promised, never moves left

/// <summary>
/// The receiving half of a connection: reassembly, window and acknowledgements (RFC 9293 3.10.7.4, 3.8.6).
/// </summary>
internal sealed class TcpReceiver(TcpEndpointOptions options, TcpStats stats, DevmemReceiveQueue queue)
{
    private readonly Assembler _assembler = new(options.ReassemblyRangesMax);
    private AckPolicy _acks = new(options.DelayedAck);
    private uint _initial;
    private long _finPosition = -1;
    private (long Left, long Right) _duplicate;

    /// <summary>RCV.NXT.</summary>
    public long Next { get; private set; }

    /// <summary>The right edge that the peer was told.</summary>
    public long Edge { get; private set; }

    /// <summary>What the last acknowledgement said (RFC 7323: Last.ACK.sent).</summary>
    public long LastAcknowledged { get; private set; }

    /// <summary>Our shift, 0 when windows are not scaled.</summary>
    public int WindowShift { get; set; }

    /// <summary>The largest segment seen of the peer (<c>rcv_mss</c>).</summary>
    public int SegmentBytes { get; private set; } = options.MinimumSegmentBytes;

    /// <summary>The peer's FIN and everything before it has arrived.</summary>
    public bool HasFin => _finPosition >= 0 && Next > _finPosition;

    public uint NextSequence => _initial + (uint)Next;

    public TimeSpan Deadline => _acks.Deadline;

    public int AcksOwed => _acks.Owed;

    public long OutOfOrderBytes => _assembler.HeldBytes;

    public int OutOfOrderRanges => _assembler.Count;

    /// <summary>Bytes that may come.</summary>
    public long Window => Math.Max(Edge - Next, 0);

    /// <summary>The peer's SYN.</summary>
    public void Start(uint initialSequence)
    {
        _initial = initialSequence;
        Next = LastAcknowledged = Edge = 1;
    }

    /// <summary>What the SYN that began this connection promised, told by whoever answered it.</summary>
    public void StartWindow(long bytes) => Edge = Next + bytes;

    public long PositionOf(uint sequence) => Seq.ToPosition(sequence, NextSequence, Next);

    /// <summary>RFC 9293 3.10.7.4, first step: the table of acceptability.</summary>
    public bool IsAcceptable(long position, long lengthInSequence)
    {
        long window = Window;
        if (lengthInSequence == 0)
        {
            return window == 0 ? position == Next : position >= Next && position < Next + window;
        }

        long last = position + lengthInSequence - 1;
        return window > 0
            && ((position >= Next && position < Next + window) || (last >= Next && last < Next + window));
    }

    /// <summary>Another segment came; see <see cref="AckPolicy.BeginSegment"/>.</summary>
    public void BeginSegment() => _acks.BeginSegment();

    /// <summary>An acknowledgement is due now; several reasons are several.</summary>
    public void RequestAck() => _acks.RequestNow();

    /// <summary>An acknowledgement is due now; one for all reasons.</summary>
    public void RequestAckOnce() => _acks.RequestOnce();

    /// <summary>Bytes from a position on came again; what lies below RCV.NXT of them is named in the answer.</summary>
    public void NoteDuplicate(long position, int length)
    {
        long end = Math.Min(position + length, Next);
        if (position >= 1 && end > position)
        {
            stats.DuplicateSegments++;
            _duplicate = (position, end);
        }
    }

    /// <summary>
    /// Data, a FIN, or both. What is new is delivered or kept; the references of what is kept are ours.
    /// </summary>
    /// <param name="now">Starts the delayed acknowledgement.</param>
    /// <param name="segment">Its payload.</param>
    /// <param name="position">Of its first byte.</param>
    public void HandleText(TimeSpan now, scoped in TcpSegment segment, long position)
    {
        long end = position + segment.PayloadBytes;
        NoteSegmentSize(segment.PayloadBytes, segment.SegmentBytes);
        if (segment.HasFin && _finPosition < 0 && end <= Edge && end >= Math.Max(Next, _assembler.End))
        {
            _finPosition = end; // a second one elsewhere, or one before bytes that are held, is a lie
        }

        if (end > Edge)
        {
            end = Edge;
            _acks.RequestOnce(); // the peer thinks that it may send more than it may
        }

        end = _finPosition >= 0 ? Math.Min(end, _finPosition) : end;
        if (position < Next && end > position)
        {
            NoteDuplicate(position, (int)(end - position));
            _acks.RequestNow();
        }

        bool wasGapped = _assembler.Count > 0;
        if (position > Next)
        {
            KeepOutOfOrder(segment, position, end);
        }
        else if (end > Next)
        {
            DeliverInOrder(now, segment, position, end, wasGapped);
        }

        if (Next == _finPosition)
        {
            Next++;
            _acks.RequestOnce();
        }
    }

    /// <summary>
    /// The window of the next segment, as the field holds it. The right edge moves with it, and never to the left.
    /// </summary>
    /// <param name="roomBytes">What the memory behind can take; see <see cref="IReceiveRoom"/>.</param>
    /// <param name="isSyn">RFC 7323 2.2: the window of a SYN is not scaled.</param>
    public ushort TakeWindow(long roomBytes, bool isSyn)
    {
        int shift = isSyn ? 0 : WindowShift;
        long promised = Math.Max(Edge - Next, 0), offered = Offer(roomBytes);
        long window = promised;
        if (offered - promised >= GrowthBytes)
        {
            window = offered >> shift << shift;
        }

        if (!options.Defences.KeepsPromisedWindow)
        {
            // What RFC 9293 3.8.6 discourages, and what lets a peer's data be refused that it was allowed to send.
            long shrunk = Math.Min(offered >> shift, ushort.MaxValue);
            Edge = Next + (shrunk << shift);
            return (ushort)shrunk;
        }

        // What was promised is kept in whole units, so it is rounded up and not down.
        long unit = (1L << shift) - 1;
        window = Math.Max(window, (promised + unit) >> shift << shift);
        long field = Math.Min(window >> shift, ushort.MaxValue);
        Edge = Math.Max(Edge, Next + (field << shift));
        return (ushort)field;
    }

    /// <summary>
    /// The reader made room that the peer should hear of without being asked (RFC 9293 3.8.6.2.2): at least a segment
    /// or half the buffer, and twice what it knows.
    /// </summary>
    public void HandleRoom(long roomBytes)
    {
        long promised = Math.Max(Edge - Next, 0), offered = Offer(roomBytes);
        if (!HasFin && offered - promised >= GrowthBytes && offered >= 2 * promised)
        {
            _acks.RequestOnce();
        }
    }

    /// <summary>Adds the blocks of RFC 2018 and, in front, one of RFC 2883.</summary>
    public void AddSackBlocks(ref SegmentOptions segmentOptions, int blocksMax)
    {
        if (_duplicate.Right > _duplicate.Left && blocksMax > 0)
        {
            segmentOptions.TryAddSackBlock(ToBlock(_duplicate.Left, _duplicate.Right));
            blocksMax--;
        }

        ulong below = ulong.MaxValue;
        for (int i = 0; i < Math.Min(blocksMax, _assembler.Count); i++)
        {
            int youngest = FindYoungest(below);
            below = _assembler.GetAge(youngest);
            segmentOptions.TryAddSackBlock(ToBlock(_assembler.GetStart(youngest), _assembler.GetEnd(youngest)));
        }
    }

    /// <summary>A segment with an acknowledgement left.</summary>
    public void HandleAckSent()
    {
        _acks.HandleSent();
        _duplicate = default;
        LastAcknowledged = Next;
    }

    public void HandleTimeout(TimeSpan now) => _acks.HandleTimeout(now);

    public bool IsAckDue(TimeSpan now) => _acks.IsDue(now);

    /// <summary>Whether something that came too early is in that binding's memory.</summary>
    public bool HoldsOutOfOrderOf(MemoryBinding binding) => _assembler.HoldsOf(binding);

    /// <summary>What came too early is forgotten; the peer sends it again (RFC 2018 section 8).</summary>
    public void ForgetOutOfOrder() => _assembler.Clear();

    /// <summary>The connection is over: every reference goes back.</summary>
    public void Close()
    {
        _assembler.Clear();
        queue.Close();
        _acks.Stop();
    }

    private long GrowthBytes => Math.Min(SegmentBytes, options.ReceiveBufferBytes / 2);

    // A peer that has sent little is promised little (Linux: rcv_ssthresh): many that connect and say nothing would
    // otherwise be promised all there is. It doubles with every window that is used up.
    private long Offer(long roomBytes)
    {
        long earned = ushort.MaxValue + Next;
        long room = Math.Min(options.ReceiveBufferBytes - queue.UnreadBytes, roomBytes + _assembler.HeldBytes);
        return Math.Max(Math.Min(room, earned), 0);
    }

    private SackBlock ToBlock(long left, long right) => new(_initial + (uint)left, _initial + (uint)right);

    // A super-packet's segments have one size; a single segment counts as it is.
    private void NoteSegmentSize(int payloadBytes, int segmentBytes)
    {
        int size = segmentBytes > 0 ? Math.Min(segmentBytes, payloadBytes) : payloadBytes;
        SegmentBytes = Math.Max(SegmentBytes, Math.Min(size, options.MtuBytes));
    }

    private void KeepOutOfOrder(scoped in TcpSegment segment, long position, long end)
    {
        _acks.RequestNow();
        if (end <= position)
        {
            return; // a FIN alone, whose turn will come
        }

        stats.OutOfOrderSegments++;
        long kept = _assembler.Insert(
            position, end - position, skip: 0, segment.Payload, out (long Left, long Right) duplicate);
        if (kept == 0 && duplicate.Right > duplicate.Left)
        {
            stats.DuplicateSegments++;
        }

        _duplicate = duplicate.Right > duplicate.Left ? duplicate : _duplicate;
    }

    private void DeliverInOrder(TimeSpan now, scoped in TcpSegment segment, long position, long end, bool wasGapped)
    {
        long before = Next;
        while (Next < end)
        {
            // The first copy of a byte is kept: up to what is held already, then what is held.
            long upTo = _assembler.Count > 0 ? Math.Min(end, _assembler.GetStart(0)) : end;
            Deliver(segment.Payload, Next - position, upTo - Next);
            long next = upTo;
            _assembler.Take(ref next, queue);
            Next = next;
        }

        stats.BytesDelivered += Next - before;
        if (wasGapped)
        {
            _acks.RequestOnce();
        }

        _acks.HandleInOrder(now, Next - before, SegmentBytes);
    }

    private void Deliver(ReadOnlySpan<PayloadFragment> fragments, long skip, long length)
    {
        foreach (PayloadFragment fragment in fragments)
        {
            if (length == 0)
            {
                break;
            }

            if (skip >= fragment.LengthBytes)
            {
                skip -= fragment.LengthBytes;
                continue;
            }

            int count = (int)Math.Min(fragment.LengthBytes - skip, length);
            PayloadFragment piece = fragment.Slice((int)skip, count);
            piece.Retain();
            queue.Append(piece);
            length -= count;
            skip = 0;
        }
    }

    private int FindYoungest(ulong below)
    {
        int found = -1;
        for (int i = 0; i < _assembler.Count; i++)
        {
            ulong age = _assembler.GetAge(i);
            if (age < below && (found < 0 || age > _assembler.GetAge(found)))
            {
                found = i;
            }
        }

        return found;
    }
}
