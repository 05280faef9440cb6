using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Whoever knows a READ and can spoof its sender asks for it again with 60 bytes, and the answer may be 2 GiB (roce.md
// A15). A peer that lost something asks too, and cannot be told from him. But it asks for what it lost:
//
//   every answer earns that it is sent again, several times over, for as long as it is remembered
//   besides, one window a round trip may be sent again, which is all that a peer can have lost in it
//
// What is beyond that is not sent. A peer that is really there asks again, from where it has got to: for that there is
// half a window more, so that one forged packet a round trip, for the beginning, does not take all that is his.

/// <summary>
/// How many packets of its answers a queue pair may send again. Time is the caller's; port token held by it.
/// </summary>
internal struct ReplayBudget
{
    /// <summary>So often an answer may be sent again before it is counted by the round trip.</summary>
    public const int TimesEach = 4;

    private long _packets;
    private int _reserve;
    private uint _lastPsn; // of what was sent again last
    private TimeSpan _filledAt;

    /// <summary>Nothing was answered yet.</summary>
    public void Reset(TimeSpan now, int windowPackets) =>
        (_packets, _reserve, _filledAt) = (windowPackets, windowPackets / 2, now);

    /// <summary>An answer of so many packets is new.</summary>
    /// <param name="packets">Of this one.</param>
    /// <param name="remembered">Of all that could be asked for again, this one among them.</param>
    /// <param name="windowPackets">What may be on its way at a time.</param>
    public void Earn(int packets, long remembered, int windowPackets) =>
        _packets = Math.Min(_packets + ((long)TimesEach * packets), (TimesEach * remembered) + windowPackets);

    /// <summary>
    /// Takes as many of <paramref name="wanted"/> packets as there are, all of them or, unless a part is of use, none.
    /// </summary>
    /// <param name="psn">The first of them.</param>
    /// <param name="wanted">Packets that went out before.</param>
    /// <param name="isPartOfUse">Fewer are better than none.</param>
    /// <param name="now">The time.</param>
    /// <param name="roundTrip">How often a window is added.</param>
    /// <param name="windowPackets">What may be on its way at a time.</param>
    public int Take(uint psn, int wanted, bool isPartOfUse, TimeSpan now, TimeSpan roundTrip, int windowPackets)
    {
        if (now - _filledAt >= roundTrip)
        {
            _filledAt = now;
            _packets = Math.Max(_packets, windowPackets);
            _reserve = windowPackets / 2;
        }

        int taken = wanted <= _packets ? wanted : isPartOfUse ? (int)_packets : 0;
        _packets -= taken;
        if (taken == 0 && isPartOfUse && Psn.Compare(psn, _lastPsn) > 0)
        {
            taken = Math.Min(wanted, _reserve);
            _reserve -= taken;
        }

        _lastPsn = taken > 0 ? psn : _lastPsn;
        return taken;
    }
}
