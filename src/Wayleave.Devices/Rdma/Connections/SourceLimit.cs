using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>
/// How often a source that nobody knows is answered: a bucket of tokens for each, in a table of fixed size. Sources
/// that fall into one slot share it, so a flood in many names is answered no more than that many slots allow.
/// </summary>
internal sealed class SourceLimit(int perSecond)
{
    private const int Slots = 256;

    private readonly double[] _tokens = [.. Enumerable.Repeat((double)perSecond, Slots)];
    private readonly TimeSpan[] _filled = new TimeSpan[Slots];

    /// <summary>Whether it may be answered once more.</summary>
    public bool TryTake(Gid source, TimeSpan now)
    {
        int slot = (int)((source.High ^ source.Low) * 0x9E37_79B9_7F4A_7C15 >> 56);
        double seconds = Math.Max(0, (now - _filled[slot]).TotalSeconds);
        _tokens[slot] = Math.Min(perSecond, _tokens[slot] + seconds * perSecond);
        _filled[slot] = now;
        if (_tokens[slot] < 1)
        {
            return false;
        }

        _tokens[slot]--;
        return true;
    }
}
