using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>One posted receive.</summary>
internal struct ReceiveSlot
{
    public ulong WrId;
    public ulong LengthBytes;
    public int SgeCount;
}

/// <summary>
/// The ring of receives of a queue pair, posted to from any thread and read by the port. With a shared queue behind it,
/// it holds the one receive that was taken from there.
/// </summary>
internal sealed class ReceiveQueue : WorkQueue
{
    private ReceiveSlot[] _slots; // both replaced as Capacity is changed
    private Sge[] _sges;
    private readonly SharedReceiveQueue? _shared;

    public ReceiveQueue(int maxWr, int maxSge, SharedReceiveQueue? shared)
        : base(shared is null ? maxWr : 1, shared?.MaxSge ?? maxSge)
    {
        _shared = shared;
        _slots = new ReceiveSlot[Capacity];
        _sges = new Sge[Capacity * SgeMax];
    }

    /// <summary>The oldest receive that has not completed. Port token held.</summary>
    public uint Head { get; private set; }

    public bool IsEmpty => Head == Tail;

    public bool IsShared => _shared is not null;

    public ref ReceiveSlot this[uint position] => ref _slots[SlotOf(position)];

    public ReadOnlySpan<Sge> Sges(uint position) =>
        _sges.AsSpan(SlotOf(position) * SgeMax, _slots[SlotOf(position)].SgeCount);

    /// <summary>Queues a receive. EINVAL for too many pieces, or where receives are shared.</summary>
    public Errno TryPost(in ReceiveWorkRequest request, ReadOnlySpan<Sge> sges)
    {
        if (sges.Length > SgeMax || IsShared)
        {
            return Errno.EINVAL;
        }

        ulong length = 0;
        foreach (ref readonly Sge sge in sges)
        {
            length += sge.LengthBytes;
        }

        Posting.Enter();
        bool fits = !IsFull;
        if (fits)
        {
            Fill(new ReceiveSlot { WrId = request.WrId, LengthBytes = length, SgeCount = sges.Length }, sges);
        }

        Posting.Exit();
        return fits ? Errno.Success : Errno.ENOMEM;
    }

    /// <summary>Whether a receive is there, or can be taken from the shared queue. Port token held.</summary>
    public bool TryReady() => !IsEmpty || (_shared is not null && _shared.TryTake(this));

    /// <summary>A receive comes from the shared queue; this one is empty. Port token held.</summary>
    public void Take(in ReceiveSlot slot, ReadOnlySpan<Sge> sges) => Fill(slot, sges);

    /// <summary>The receive at the head is done. Port token held.</summary>
    public void Advance() => Head++;

    /// <summary>Completes the receive at the head with the message that a packet ends. Port token held.</summary>
    public void Complete(QueuePair pair, in PacketView packet, uint bytes)
    {
        OpcodeTraits traits = packet.Traits;
        bool hasImmediate = traits.Has(ExtensionHeaders.ImmDt);
        bool hasInvalidate = traits.Has(ExtensionHeaders.Ieth);
        bool isDatagram = traits.Has(ExtensionHeaders.Deth);
        WorkCompletion completion = new()
        {
            Status = WorkCompletionStatus.Success,
            Opcode = RequestRules.IsWrite(packet.Opcode)
                ? WorkCompletionOpcode.ReceiveRdmaWithImmediate
                : WorkCompletionOpcode.Receive,
            ByteLength = bytes,
            Immediate = hasImmediate ? packet.Immediate : hasInvalidate ? packet.InvalidateKey : 0,
            SourceQp = isDatagram ? packet.Deth.SourceQp : 0,
            Flags = (hasImmediate ? WorkCompletionFlags.WithImmediate : WorkCompletionFlags.None)
                | (hasInvalidate ? WorkCompletionFlags.WithInvalidate : WorkCompletionFlags.None)
                | (isDatagram || pair.Profile.CompletionsCarryRxeFlags
                    ? WorkCompletionFlags.Grh
                    : WorkCompletionFlags.None),
        };
        Complete(pair, completion, packet.Solicited);
    }

    /// <summary>Completes the receive at the head with an error. Port token held.</summary>
    public void Complete(QueuePair pair, WorkCompletionStatus failure) =>
        Complete(pair, new WorkCompletion { Status = failure }, isSolicited: false);

    /// <summary>
    /// Flushes every receive, in order. Those of a shared queue stay there for the others; the event says that this
    /// queue pair takes no more. Port token held.
    /// </summary>
    public void Flush(QueuePair pair)
    {
        while (!IsEmpty)
        {
            Complete(pair, WorkCompletionStatus.WorkRequestFlushed);
        }
    }

    /// <summary>
    /// Makes room for another number of receives; those that wait stay, in order. Port token held; the free slots are
    /// those before the head, as in a shared queue.
    /// </summary>
    public bool TryResize(int maxWr)
    {
        int capacity = RoundUp(maxWr);
        Posting.Enter();
        bool fits = Used <= (uint)capacity;
        if (fits)
        {
            ReceiveSlot[] slots = new ReceiveSlot[capacity];
            Sge[] sges = new Sge[capacity * SgeMax];
            for (uint position = Head; position != Tail; position++)
            {
                int from = SlotOf(position);
                int to = (int)(position & (uint)(capacity - 1));
                slots[to] = _slots[from];
                _sges.AsSpan(from * SgeMax, SgeMax).CopyTo(sges.AsSpan(to * SgeMax));
            }

            (_slots, _sges, Capacity) = (slots, sges, capacity);
        }

        Posting.Exit();
        return fits;
    }

    public void Clear()
    {
        Head = 0;
        Rewind();
    }

    private void Fill(in ReceiveSlot slot, ReadOnlySpan<Sge> sges)
    {
        sges.CopyTo(_sges.AsSpan(SlotOf(NextPosition) * SgeMax));
        _slots[SlotOf(NextPosition)] = slot;
        Added();
        PublishAdded();
    }

    private void Complete(QueuePair pair, WorkCompletion completion, bool isSolicited)
    {
        WorkCompletion whole = completion with { WrId = this[Head].WrId, QpNumber = pair.QpNumber };
        Advance();
        pair.Port.Completions.Complete(pair.ReceiveCompletionQueue, whole, this, Head, isSolicited, pair);
    }
}
