namespace Wayleave.Devices.Rdma;

/// <summary>
/// Decides what happens to packets in one direction, and keeps those that come later, in slots of a fixed number: what
/// finds none is not held back. Port token held by the caller.
/// </summary>
internal sealed class FaultInjector
{
    private const int Slots = 256;
    private const int PacketBytesMax = 4352; // the largest payload, with all its headers

    private readonly FaultOptions _options;
    private readonly Held[] _held = new Held[Slots];
    private readonly byte[] _bytes = new byte[Slots * PacketBytesMax];
    private readonly byte[] _damaged = new byte[PacketBytesMax];
    private readonly bool _disturbs;
    private readonly bool _dies;
    private ulong _state;
    private int _notReadyLeft;
    private long _packets;
    private long _bytesWritten;
    private bool _hasRevoked;

    /// <param name="options">What happens.</param>
    /// <param name="direction">To which packets; each direction has chances of its own.</param>
    public FaultInjector(FaultOptions options, FaultDirections direction)
    {
        _options = options;
        _dies = direction == FaultDirections.Arriving;
        _disturbs = (options.Directions & direction) != 0;
        _state = direction == FaultDirections.Arriving ? options.Seed : ~options.Seed;
    }

    /// <summary>Nothing arrives and nothing leaves any more.</summary>
    public bool IsDead { get; private set; }

    /// <summary>When a packet that was held back arrives.</summary>
    public TimeSpan Deadline { get; private set; } = TimeSpan.MaxValue;

    /// <summary>What becomes of a packet.</summary>
    /// <param name="arrival">From whom; of one that leaves, to whom.</param>
    /// <param name="sourcePort">And from which UDP port, or to which.</param>
    /// <param name="packet">BTH to ICRC.</param>
    /// <param name="now">The time.</param>
    /// <param name="admitted">What is delivered now; empty for nothing. Valid until the next call.</param>
    /// <returns>How often it is delivered now: 0, 1 or 2.</returns>
    public int Admit(
        in Arrival arrival,
        ushort sourcePort,
        ReadOnlySpan<byte> packet,
        TimeSpan now,
        out ReadOnlySpan<byte> admitted)
    {
        admitted = packet;
        if (IsDead || (_dies && _packets++ >= (_options.DeathAfterPackets ?? long.MaxValue)))
        {
            IsDead = true;
            return 0;
        }

        return _disturbs ? Disturb(arrival, sourcePort, packet, now, out admitted) : 1;
    }

    /// <summary>Bytes of a peer's WRITE are about to be placed: whether its key is dead from here on.</summary>
    public bool RevokesAt(int payloadBytes)
    {
        _bytesWritten += payloadBytes;
        if (_hasRevoked || _options.RevokeAtByte is not { } at || _bytesWritten <= at)
        {
            return false;
        }

        _hasRevoked = true;
        return true;
    }

    /// <summary>Keeps a packet until a time. False: there is no room.</summary>
    public bool TryHoldUntil(in Arrival arrival, ushort port, ReadOnlySpan<byte> packet, TimeSpan time) =>
        TryHold(arrival, port, packet, time);

    private int Disturb(
        in Arrival arrival,
        ushort sourcePort,
        ReadOnlySpan<byte> packet,
        TimeSpan now,
        out ReadOnlySpan<byte> admitted)
    {
        admitted = packet;
        if (Happens(_options.LossPerMille))
        {
            return 0;
        }

        if (packet.Length is > 0 and <= PacketBytesMax && Happens(_options.CorruptionPerMille))
        {
            packet.CopyTo(_damaged);
            int bit = (int)(Next() % (ulong)(8 * packet.Length));
            _damaged[bit / 8] ^= (byte)(1 << bit % 8);
            admitted = _damaged.AsSpan(0, packet.Length);
        }

        // Of two copies only one is overtaken; both take as long as the path does.
        TimeSpan delay = _options.Delay + (Happens(_options.ReorderingPerMille) ? _options.HoldTime : TimeSpan.Zero);
        bool isTwice = Happens(_options.DuplicationPerMille);
        int held = delay > TimeSpan.Zero && TryHold(arrival, sourcePort, admitted, now + delay) ? 1 : 0;
        held += isTwice
            && _options.Delay > TimeSpan.Zero
            && TryHold(arrival, sourcePort, admitted, now + _options.Delay) ? 1 : 0;
        return (isTwice ? 2 : 1) - held;
    }

    /// <summary>A packet whose time has come; call until false.</summary>
    public bool TryRelease(TimeSpan now, out Arrival arrival, out ushort sourcePort, out ReadOnlySpan<byte> packet)
    {
        int due = -1;
        Deadline = TimeSpan.MaxValue;
        for (int i = 0; i < Slots; i++)
        {
            if (_held[i].LengthBytes == 0)
            {
                continue;
            }

            if (_held[i].Time <= now && (due < 0 || _held[i].Time < _held[due].Time))
            {
                due = i;
            }

            Deadline = _held[i].Time < Deadline ? _held[i].Time : Deadline;
        }

        (arrival, sourcePort) = (default, 0);
        packet = default;
        if (due < 0)
        {
            return false;
        }

        (arrival, sourcePort) = (_held[due].Arrival, _held[due].SourcePort);
        packet = _bytes.AsSpan(due * PacketBytesMax, _held[due].LengthBytes);
        _held[due].LengthBytes = 0;
        return true;
    }

    /// <summary>A message that needs a receive finds none, although there may be one.</summary>
    public bool HidesReceive()
    {
        if (_notReadyLeft > 0)
        {
            // One more in the burst, or its end: then the message passes.
            return --_notReadyLeft > 0;
        }

        _notReadyLeft = Happens(_options.NotReadyPerMille) ? _options.NotReadyBurst : 0;
        return _notReadyLeft > 0;
    }

    private bool TryHold(in Arrival arrival, ushort sourcePort, ReadOnlySpan<byte> packet, TimeSpan time)
    {
        if (packet.Length is 0 or > PacketBytesMax)
        {
            return false;
        }

        for (int i = 0; i < Slots; i++)
        {
            if (_held[i].LengthBytes == 0)
            {
                packet.CopyTo(_bytes.AsSpan(i * PacketBytesMax));
                _held[i] = new Held
                {
                    Arrival = arrival,
                    SourcePort = sourcePort,
                    LengthBytes = packet.Length,
                    Time = time,
                };
                Deadline = time < Deadline ? time : Deadline;
                return true;
            }
        }

        return false;
    }

    private bool Happens(int perMille) => perMille > 0 && Next() % 1000 < (ulong)perMille;

    // SplitMix64 (Steele and others, 2014).
    private ulong Next()
    {
        _state += 0x9E37_79B9_7F4A_7C15;
        ulong z = (_state ^ (_state >> 30)) * 0xBF58_476D_1CE4_E5B9;
        z = (z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB;
        return z ^ (z >> 31);
    }

    private struct Held
    {
        public Arrival Arrival;
        public ushort SourcePort;
        public int LengthBytes; // 0: the slot is free
        public TimeSpan Time;
    }
}
