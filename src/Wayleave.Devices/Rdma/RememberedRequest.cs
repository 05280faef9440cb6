using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// A request that was granted, as small as it can be kept until it cannot be asked for again: there are as many of them
/// as READs were granted, for every queue pair.
/// </summary>
internal readonly struct RememberedRequest
{
    private const int OpcodeShift = 24;

    private readonly ulong _address;
    private readonly ulong _lengthOrOriginal; // a READ has a length, an atomic what was there, the others neither
    private readonly uint _opcodeAndPsn;
    private readonly uint _key;

    public RememberedRequest(in StoredRequest request)
    {
        _address = request.Address;
        _lengthOrOriginal = request.IsRead ? request.LengthBytes : request.Original;
        _opcodeAndPsn = (uint)request.Opcode << OpcodeShift | request.FirstPsn;
        _key = request.Key;
    }

    /// <summary>Packets of the answer.</summary>
    /// <param name="mtuBytes">Of the queue pair.</param>
    public int PacketCount(int mtuBytes) =>
        Opcode == Opcode.RcReadRequest ? StoredRequest.PacketsOf((uint)_lengthOrOriginal, mtuBytes) : 1;

    /// <summary>All of it, but for its MSN.</summary>
    /// <param name="mtuBytes">Of the queue pair.</param>
    public StoredRequest Restore(int mtuBytes)
    {
        bool isRead = Opcode == Opcode.RcReadRequest;
        return new StoredRequest
        {
            Opcode = Opcode,
            FirstPsn = _opcodeAndPsn & Psn.Mask,
            PacketCount = PacketCount(mtuBytes),
            Address = _address,
            LengthBytes = isRead ? (uint)_lengthOrOriginal : 0,
            Key = _key,
            Original = isRead ? 0 : _lengthOrOriginal,
        };
    }

    private Opcode Opcode => (Opcode)(_opcodeAndPsn >> OpcodeShift);
}
