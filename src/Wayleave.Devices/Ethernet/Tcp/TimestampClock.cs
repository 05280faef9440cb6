using Wayleave.Devices.Ethernet.Tcp.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>Timestamps of one connection, and protection against wrapped sequence numbers (RFC 7323 3 to 5).</summary>
internal struct TimestampClock(uint offset)
{
    // RFC 7323 5.5: longer ago than this, TS.Recent may itself have wrapped.
    private static readonly TimeSpan s_validFor = TimeSpan.FromDays(24);

    private TimeSpan _recentAt;

    /// <summary>Both sides sent the option with their SYN.</summary>
    public bool IsOn { get; set; }

    /// <summary>TS.Recent: what is echoed.</summary>
    public uint Recent { get; private set; }

    /// <summary>The clock of one connection: milliseconds from a start that only its ends know.</summary>
    public readonly uint Value(TimeSpan now) => offset + (uint)(now.Ticks / TimeSpan.TicksPerMillisecond);

    /// <summary>RFC 7323 5.3 R1: older than what was seen, and what was seen is not too old itself.</summary>
    public readonly bool IsOld(in SegmentOptions options, TimeSpan now) =>
        IsOn && options.HasTimestamps && (int)(options.TimestampValue - Recent) < 0 && now - _recentAt < s_validFor;

    /// <summary>RFC 7323 4.3 (2): only what covers the last acknowledgement sent is echoed.</summary>
    public void Update(in SegmentOptions options, TimeSpan now, bool coversLastAck)
    {
        if (IsOn && options.HasTimestamps && coversLastAck
            && ((int)(options.TimestampValue - Recent) >= 0 || now - _recentAt >= s_validFor))
        {
            Start(options.TimestampValue, now);
        }
    }

    /// <summary>The timestamp of the peer's SYN.</summary>
    public void Start(uint value, TimeSpan now) => (Recent, _recentAt) = (value, now);

    /// <summary>The round trip that an echo tells; zero when it tells none.</summary>
    public readonly TimeSpan RoundTrip(in SegmentOptions options, TimeSpan now)
    {
        int milliseconds = (int)(Value(now) - options.TimestampEcho);
        return IsOn && options.HasTimestamps && options.TimestampEcho != 0 && milliseconds is >= 0 and < 600_000
            ? TimeSpan.FromMilliseconds(Math.Max(milliseconds, 1))
            : TimeSpan.Zero;
    }
}
