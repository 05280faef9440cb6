using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Ip;

//   Incomplete --answer--> Reachable --time--> Stale --used--> Probing --answer--> Reachable
//       |                                                        |
//       +--three questions--> forgotten <--three questions-------+
//
// While it is probed its address is still used (RFC 4861 7.3.2: DELAY and PROBE in one).

/// <summary>What is known of a neighbour's link-layer address.</summary>
internal enum NeighbourState
{
    Incomplete,
    Reachable,
    Probing,
}

/// <summary>One neighbour, with the last few packets that wait for its address.</summary>
internal sealed class Neighbour(IpAddress address)
{
    /// <summary>RFC 1122 2.3.2.2 wants one; Linux keeps a few.</summary>
    public const int PendingMax = 3;

    /// <summary>The longest packet kept: headers of a segment without payload.</summary>
    public const int PendingBytesMax = 128;

    private readonly byte[][] _pending = new byte[PendingMax][];
    private readonly int[] _lengths = new int[PendingMax];
    private int _first;

    public IpAddress Address { get; } = address;

    public NeighbourState State { get; set; }

    public MacAddress Mac { get; set; }

    /// <summary>Until when the address counts, or when the next question is asked.</summary>
    public TimeSpan Until { get; set; }

    /// <summary>Questions asked since the last answer.</summary>
    public int Questions { get; set; }

    public TimeSpan LastUsed { get; set; }

    public int PendingCount { get; private set; }

    /// <summary>Keeps a packet, its Ethernet header included; the oldest gives way.</summary>
    public void Keep(ReadOnlySpan<byte> frame)
    {
        if (frame.Length > PendingBytesMax)
        {
            return;
        }

        if (PendingCount == PendingMax)
        {
            TryTakePending(out _);
        }

        int place = (_first + PendingCount++) % PendingMax;
        _pending[place] ??= new byte[PendingBytesMax];
        frame.CopyTo(_pending[place]);
        _lengths[place] = frame.Length;
    }

    /// <summary>The oldest packet that waits; its bytes are good until the next one is kept.</summary>
    public bool TryTakePending(out Span<byte> frame)
    {
        frame = default;
        if (PendingCount == 0)
        {
            return false;
        }

        frame = _pending[_first].AsSpan(0, _lengths[_first]);
        _first = (_first + 1) % PendingMax;
        PendingCount--;
        return true;
    }
}
