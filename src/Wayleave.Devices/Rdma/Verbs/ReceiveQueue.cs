using Wayleave.Core;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>One posted receive.</summary>
internal struct ReceiveSlot
{
    public ulong WrId;
    public ulong LengthBytes;
    public int SgeCount;
}

/// <summary>The ring of receives of a queue pair. Posted to from any thread; read by the port.</summary>
internal sealed class ReceiveQueue : WorkQueue
{
    private readonly ReceiveSlot[] _slots;
    private readonly Sge[] _sges;

    public ReceiveQueue(QueuePairCapabilities capabilities)
        : base(capabilities.MaxReceiveWr, capabilities.MaxReceiveSge)
    {
        _slots = new ReceiveSlot[Capacity];
        _sges = new Sge[Capacity * SgeMax];
    }

    /// <summary>The oldest receive that has not completed. Port token held.</summary>
    public uint Head { get; private set; }

    public bool IsEmpty => Head == Tail;

    public ref ReceiveSlot this[uint position] => ref _slots[SlotOf(position)];

    public ReadOnlySpan<Sge> Sges(uint position) =>
        _sges.AsSpan(SlotOf(position) * SgeMax, _slots[SlotOf(position)].SgeCount);

    public Errno TryPost(in ReceiveWorkRequest request, ReadOnlySpan<Sge> sges)
    {
        if (sges.Length > SgeMax)
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
            sges.CopyTo(_sges.AsSpan(SlotOf(NextPosition) * SgeMax));
            ref ReceiveSlot slot = ref _slots[SlotOf(NextPosition)];
            slot.WrId = request.WrId;
            slot.LengthBytes = length;
            slot.SgeCount = sges.Length;
            Added();
            PublishAdded();
        }

        Posting.Exit();
        return fits ? Errno.Success : Errno.ENOMEM;
    }

    /// <summary>The receive at the head is done. Port token held.</summary>
    public void Advance() => Head++;

    public void Clear()
    {
        Head = 0;
        Rewind();
    }
}
