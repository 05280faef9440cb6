namespace Wayleave.Devices.Rdma;

// Whoever knows a READ and can spoof its sender asks for it again with 60 bytes, and the answer may be 2 GiB (roce.md
// A15). A peer that lost something asks too, and cannot be told from him. But it asks for what it lost:
//
//   every answer earns that it is sent again, several times over, for as long as it is remembered
//   besides, one window a round trip may be sent again, which is all that a peer can have lost in it
//
// What is beyond that is not sent. A peer that is really there asks again, from where it has got to: for that there is
// half a window more, for any other packet than the one that took the window, so that one forged packet a round trip
// does not take all that is his, whatever it asks for. If it asks for the same as he does, he gets it.

/// <summary>What may be sent again besides what was earned.</summary>
/// <param name="RoundTrip">How often a window is added.</param>
/// <param name="WindowPackets">What may be on its way at a time.</param>
/// <param name="ReservePackets">What is kept of each round trip for others than who took the window.</param>
internal readonly record struct ReplayAllowance(TimeSpan RoundTrip, int WindowPackets, int ReservePackets);

/// <summary>
/// How many packets of its answers a queue pair may send again. Time is the caller's; port token held by it.
/// </summary>
internal struct ReplayBudget
{
    /// <summary>So often an answer may be sent again before it is counted by the round trip.</summary>
    public const int TimesEach = 4;

    private long _packets;
    private int _reserve;
    private uint? _takenFrom; // the PSN of who took of the packets last
    private TimeSpan _filledAt;

    /// <summary>Nothing was answered yet.</summary>
    public void Reset(TimeSpan now, in ReplayAllowance allowance) => this = new ReplayBudget
    {
        _packets = allowance.WindowPackets,
        _reserve = allowance.ReservePackets,
        _filledAt = now,
    };

    /// <summary>An answer of so many packets is new.</summary>
    /// <param name="packets">Of this one.</param>
    /// <param name="remembered">Of all that could be asked for again, this one among them.</param>
    /// <param name="windowPackets">What may be on its way at a time.</param>
    public void Earn(int packets, long remembered, int windowPackets) =>
        _packets = Math.Min(_packets + ((long)TimesEach * packets), (TimesEach * remembered) + windowPackets);

    /// <summary>
    /// Takes as many of <paramref name="wanted"/> packets as there are, or none when there are fewer than
    /// <paramref name="least"/>: what is of no use is not spent.
    /// </summary>
    /// <param name="psn">The first of them.</param>
    /// <param name="wanted">Packets that went out before.</param>
    /// <param name="least">Fewer are as good as none.</param>
    /// <param name="now">The time.</param>
    /// <param name="allowance">What is added.</param>
    public int Take(uint psn, int wanted, int least, TimeSpan now, in ReplayAllowance allowance)
    {
        if (now - _filledAt >= allowance.RoundTrip)
        {
            _filledAt = now;
            _packets = Math.Max(_packets, allowance.WindowPackets);
            _reserve = allowance.ReservePackets;
        }

        int taken = (int)Math.Min(wanted, _packets);
        if (taken > 0 && taken >= least)
        {
            _packets -= taken;
            _takenFrom = psn;
            return taken;
        }

        taken = psn == _takenFrom ? 0 : Math.Min(wanted, _reserve);
        taken = taken >= least ? taken : 0;
        _reserve -= taken;
        return taken;
    }
}
