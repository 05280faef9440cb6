using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// One posted send request, and how far it is. Written by the poster until published, then by the port.
/// </summary>
internal struct SendSlot
{
    public ulong WrId;
    public ulong RemoteAddress; // of a datagram, the queue pair
    public ulong CompareAdd; // of an atomic; of a bind, how many bytes
    public ulong Swap; // of an atomic; of a bind, the rights
    public object? Target; // the window of a bind, the address handle of a datagram
    public uint RKey; // the peer's; of a bind, the window's; of a datagram, the Q_Key
    public uint Data; // the immediate, the key to invalidate or, of a bind, the region's; of a FLUSH, its FETH
    public uint LengthBytes;
    public uint FirstPsn;
    public int PacketCount;
    public int SuperPackets; // opened by its packets, and not acknowledged
    public WorkRequestOpcode Opcode;
    public SendFlags Flags;
    public int SgeCount;

    public readonly bool IsRead => Opcode == WorkRequestOpcode.RdmaRead;

    public readonly bool IsAtomic =>
        Opcode is WorkRequestOpcode.AtomicCompareSwap or WorkRequestOpcode.AtomicFetchAdd;

    /// <summary>See <see cref="WorkRequestRules.IsAnswered"/>.</summary>
    public readonly bool IsAnswered => WorkRequestRules.IsAnswered(Opcode);

    /// <summary>See <see cref="WorkRequestRules.IsLocal"/>.</summary>
    public readonly bool IsLocal => WorkRequestRules.IsLocal(Opcode);

    /// <summary>Bytes of payload that its answer brings in packets of its own size.</summary>
    public readonly uint ResponseBytes => IsRead ? LengthBytes : 0;

    /// <summary>Packets of its request or, of a READ, of its answer.</summary>
    public readonly int PacketsAt(int mtuBytes) => Opcode == WorkRequestOpcode.Flush
        ? 1
        : Math.Max(1, (int)((LengthBytes + (uint)mtuBytes - 1) / (uint)mtuBytes));

    public readonly uint LastPsn => Psn.Add(FirstPsn, (uint)PacketCount - 1);
}

/// <summary>The ring of send requests of a queue pair. Posted to from any thread; read by the port.</summary>
internal sealed class SendQueue : WorkQueue
{
    private readonly QueuePairType _type;
    private readonly SendFlags _always;
    private readonly uint _messageMax;
    private readonly SendSlot[] _slots;
    private readonly Sge[] _sges;
    private readonly byte[] _inline;
    private readonly bool _ordersPosters;

    /// <param name="type">Decides which opcodes it takes.</param>
    /// <param name="capabilities">Sizes.</param>
    /// <param name="messageMax">Bytes of the longest message.</param>
    /// <param name="always">Flags that every request has.</param>
    /// <param name="ordersPosters">False: as if one thread posted.</param>
    public SendQueue(
        QueuePairType type,
        QueuePairCapabilities capabilities,
        uint messageMax,
        SendFlags always,
        bool ordersPosters = true)
        : base(capabilities.MaxSendWr, capabilities.MaxSendSge)
    {
        (_type, _messageMax, _always, _ordersPosters) = (type, messageMax, always, ordersPosters);
        InlineMax = capabilities.MaxInlineData;
        _slots = new SendSlot[Capacity];
        _sges = new Sge[Capacity * SgeMax];
        _inline = new byte[Capacity * InlineMax];
    }

    /// <summary>Bytes that an inline post may carry.</summary>
    public int InlineMax { get; }

    public ref SendSlot this[uint position] => ref _slots[SlotOf(position)];

    public ReadOnlySpan<Sge> Sges(uint position) =>
        _sges.AsSpan(SlotOf(position) * SgeMax, _slots[SlotOf(position)].SgeCount);

    public ReadOnlySpan<byte> Inline(uint position) =>
        _inline.AsSpan(SlotOf(position) * InlineMax, (int)_slots[SlotOf(position)].LengthBytes);

    /// <summary>Nobody else posts from here to <see cref="End"/>.</summary>
    public void Begin()
    {
        if (_ordersPosters)
        {
            Posting.Enter();
        }
    }

    /// <summary>Hands over what was added since <see cref="Begin"/>.</summary>
    public void End()
    {
        PublishAdded();
        Leave();
    }

    /// <summary>Forgets what was added since <see cref="Begin"/>.</summary>
    public void Abort()
    {
        DropAdded();
        Leave();
    }

    private void Leave()
    {
        if (_ordersPosters)
        {
            Posting.Exit();
        }
    }

    /// <summary>Adds a request whose data stays in registered memory until it completes. Begun.</summary>
    public Errno TryAdd(in SendWorkRequest request, ReadOnlySpan<Sge> sges)
    {
        ulong length = 0;
        foreach (ref readonly Sge sge in sges)
        {
            length += sge.LengthBytes;
        }

        bool isInline = (request.Flags & SendFlags.Inline) != 0;
        bool isBind = request.Opcode == WorkRequestOpcode.BindWindow; // has a post of its own
        if (sges.Length > SgeMax || isInline || isBind || !IsValid(request, length))
        {
            return Errno.EINVAL;
        }

        if (IsFull)
        {
            return Errno.ENOMEM;
        }

        sges.CopyTo(_sges.AsSpan(SlotOf(NextPosition) * SgeMax));
        Fill(request, request.Flags, (uint)length, sges.Length);
        return Errno.Success;
    }

    /// <summary>Adds a request whose data is copied now. Begun.</summary>
    public Errno TryAddInline(in SendWorkRequest request, ReadOnlySpan<byte> data)
    {
        bool mayBe = data.Length <= InlineMax && WorkRequestRules.MayBeInline(request.Opcode);
        if (!mayBe || !IsValid(request, (ulong)data.Length))
        {
            return Errno.EINVAL;
        }

        if (IsFull)
        {
            return Errno.ENOMEM;
        }

        data.CopyTo(_inline.AsSpan(SlotOf(NextPosition) * InlineMax));
        Fill(request, request.Flags | SendFlags.Inline, (uint)data.Length, sgeCount: 0);
        return Errno.Success;
    }

    /// <summary>Adds a bind of a window under a key. Begun.</summary>
    public Errno TryAddBind(in SendWorkRequest request, MemoryWindow window, in WindowBind bind, uint key)
    {
        if (!WorkRequestRules.IsAllowed(_type, WorkRequestOpcode.BindWindow))
        {
            return Errno.EINVAL;
        }

        if (IsFull)
        {
            return Errno.ENOMEM;
        }

        ref SendSlot slot = ref _slots[SlotOf(NextPosition)];
        slot.Target = window;
        slot.RemoteAddress = bind.Address;
        slot.CompareAdd = bind.LengthBytes;
        slot.Swap = (ulong)bind.Access;
        slot.RKey = key;
        slot.Data = bind.LKey;
        FillRest(ref slot, request.WrId, WorkRequestOpcode.BindWindow, request.Flags & ~SendFlags.Inline);
        return Errno.Success;
    }

    public void Clear() => Rewind();

    private bool IsValid(in SendWorkRequest request, ulong lengthBytes) =>
        WorkRequestRules.IsAllowed(_type, request.Opcode)
        && WorkRequestRules.IsLengthAllowed(request.Opcode, lengthBytes)
        && lengthBytes <= _messageMax
        && (_type != QueuePairType.UnreliableDatagram
            || (request.AddressHandle is not null && request.RemoteQpNumber is > 0 and <= Psn.Mask));

    private void Fill(in SendWorkRequest request, SendFlags flags, uint lengthBytes, int sgeCount)
    {
        ref SendSlot slot = ref _slots[SlotOf(NextPosition)];
        bool isDatagram = _type == QueuePairType.UnreliableDatagram;
        slot.RemoteAddress = isDatagram ? request.RemoteQpNumber : request.RemoteAddress;
        slot.CompareAdd = request.CompareAdd;
        slot.Swap = request.Swap;
        slot.RKey = isDatagram ? request.RemoteQKey : request.RKey;
        slot.Target = request.AddressHandle;
        slot.Data = request.Opcode switch
        {
            WorkRequestOpcode.LocalInvalidate or WorkRequestOpcode.SendWithInvalidate => request.InvalidateKey,
            WorkRequestOpcode.Flush => Feth.Of((int)request.FlushPlacement, (int)request.FlushSelectivity).Bits,
            _ => request.Immediate,
        };
        bool isFlush = request.Opcode == WorkRequestOpcode.Flush;
        FillRest(
            ref slot, request.WrId, request.Opcode, flags, isFlush ? request.FlushBytes : lengthBytes, sgeCount);
    }

    private void FillRest(
        ref SendSlot slot,
        ulong wrId,
        WorkRequestOpcode opcode,
        SendFlags flags,
        uint lengthBytes = 0,
        int sgeCount = 0)
    {
        slot.WrId = wrId;
        slot.Opcode = opcode;
        slot.Flags = flags | _always;
        slot.LengthBytes = lengthBytes;
        slot.SgeCount = sgeCount;
        Added();
    }
}
