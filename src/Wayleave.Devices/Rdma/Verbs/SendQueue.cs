using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// One posted send request, and how far it is. Written by the poster until published, then by the port.
/// </summary>
internal struct SendSlot
{
    public ulong WrId;
    public ulong RemoteAddress;
    public uint RKey;
    public uint Immediate;
    public uint LengthBytes;
    public uint FirstPsn;
    public int PacketCount;
    public int SuperPackets; // opened by its packets, and not acknowledged
    public WorkRequestOpcode Opcode;
    public SendFlags Flags;
    public int SgeCount;

    public readonly bool IsRead => Opcode == WorkRequestOpcode.RdmaRead;

    public readonly uint LastPsn => Psn.Add(FirstPsn, (uint)PacketCount - 1);
}

/// <summary>The ring of send requests of a queue pair. Posted to from any thread; read by the port.</summary>
internal sealed class SendQueue : WorkQueue
{
    private readonly SendSlot[] _slots;
    private readonly Sge[] _sges;
    private readonly byte[] _inline;

    public SendQueue(QueuePairCapabilities capabilities)
        : base(capabilities.MaxSendWr, capabilities.MaxSendSge)
    {
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

    /// <summary>Adds a request whose data stays in registered memory until it completes.</summary>
    public Errno TryPost(in SendWorkRequest request, ReadOnlySpan<Sge> sges)
    {
        ulong length = 0;
        foreach (ref readonly Sge sge in sges)
        {
            length += sge.LengthBytes;
        }

        bool isInline = (request.Flags & SendFlags.Inline) != 0;
        if (sges.Length > SgeMax || length > Reth.LengthMax || !IsKnown(request.Opcode) || isInline)
        {
            return Errno.EINVAL;
        }

        Posting.Enter();
        bool fits = !IsFull;
        if (fits)
        {
            sges.CopyTo(_sges.AsSpan(SlotOf(NextPosition) * SgeMax));
            Fill(request, request.Flags, (uint)length, sges.Length);
            Publish();
        }

        Posting.Exit();
        return fits ? Errno.Success : Errno.ENOMEM;
    }

    /// <summary>Adds a request whose data is copied now.</summary>
    public Errno TryPostInline(in SendWorkRequest request, ReadOnlySpan<byte> data)
    {
        if (data.Length > InlineMax || !IsKnown(request.Opcode) || request.Opcode == WorkRequestOpcode.RdmaRead)
        {
            return Errno.EINVAL;
        }

        Posting.Enter();
        bool fits = !IsFull;
        if (fits)
        {
            data.CopyTo(_inline.AsSpan(SlotOf(NextPosition) * InlineMax));
            Fill(request, request.Flags | SendFlags.Inline, (uint)data.Length, sgeCount: 0);
            Publish();
        }

        Posting.Exit();
        return fits ? Errno.Success : Errno.ENOMEM;
    }

    public void Clear() => Rewind();

    private static bool IsKnown(WorkRequestOpcode opcode) =>
        opcode is >= WorkRequestOpcode.RdmaWrite and <= WorkRequestOpcode.RdmaRead;

    private void Fill(in SendWorkRequest request, SendFlags flags, uint lengthBytes, int sgeCount)
    {
        ref SendSlot slot = ref _slots[SlotOf(NextPosition)];
        slot.WrId = request.WrId;
        slot.RemoteAddress = request.RemoteAddress;
        slot.RKey = request.RKey;
        slot.Immediate = request.Immediate;
        slot.LengthBytes = lengthBytes;
        slot.Opcode = request.Opcode;
        slot.Flags = flags;
        slot.SgeCount = sgeCount;
    }
}
