using Wayleave.Devices.Ethernet.Tcp.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

// Bernstein's cookies as net/ipv4/syncookies.c has them:
//
//   ISN = hash1(flow) + SEQ + (minutes << 24) + ((hash2(flow, minutes) + index of the MSS) mod 2^24)
//
// What else the SYN offered rides in the low six bits of the timestamp that the peer echoes: four of window scale (15
// for none), one of SACK, one that stays zero. Without timestamps there is neither.

/// <summary>A handshake whose first half is remembered by the peer (RFC 4987 3.6).</summary>
internal sealed class SynCookies(ConnectionSecrets secrets)
{
    private const int PeriodsValid = 2;
    private const uint IndexMask = (1u << 24) - 1;
    private const uint NoWindowScale = 15;
    private const uint OptionMask = 63;
    private const uint SackBit = 16;

    private static readonly ushort[] s_segmentsIPv4 = [88, 256, 536, 1200, 1300, 1440, 1460, 8960];
    private static readonly ushort[] s_segmentsIPv6 = [88, 256, 1220, 1280, 1300, 1400, 1440, 8940];

    /// <summary>The sequence number that answers a SYN.</summary>
    public uint Make(in TcpFlow flow, uint sequence, int peerSegmentBytes, TimeSpan now)
    {
        ReadOnlySpan<ushort> table = Table(flow);
        int index = table.Length - 1;
        while (index > 0 && table[index] > peerSegmentBytes)
        {
            index--;
        }

        uint minutes = Minutes(now);
        return Hash1(flow) + sequence + (minutes << 24) + ((Hash2(flow, minutes) + (uint)index) & IndexMask);
    }

    /// <summary>Whether an acknowledgement is that of a cookie of ours that is not too old.</summary>
    /// <param name="flow">The two ends.</param>
    /// <param name="cookie">SEG.ACK - 1.</param>
    /// <param name="sequence">The sequence number of the SYN: SEG.SEQ - 1.</param>
    /// <param name="now">Within two minutes of the answer.</param>
    /// <param name="segmentBytes">The peer's MSS, rounded down to one that the cookie can tell.</param>
    public bool TryCheck(in TcpFlow flow, uint cookie, uint sequence, TimeSpan now, out ushort segmentBytes)
    {
        segmentBytes = 0;
        uint rest = cookie - Hash1(flow) - sequence, minutes = Minutes(now);
        uint age = (minutes - (rest >> 24)) & 0xFF;
        if (age >= PeriodsValid)
        {
            return false;
        }

        uint index = (rest - Hash2(flow, minutes - age)) & IndexMask;
        ReadOnlySpan<ushort> table = Table(flow);
        if (index >= table.Length)
        {
            return false;
        }

        segmentBytes = table[(int)index];
        return true;
    }

    /// <summary>The timestamp of the answer: the greatest one not after <paramref name="timestamp"/>.</summary>
    public static uint EncodeOptions(uint timestamp, in SegmentOptions offered)
    {
        uint options = (offered.HasWindowScale
                ? Math.Min(offered.WindowScale, (byte)SegmentOptions.WindowScaleMax)
                : NoWindowScale)
            | (offered.IsSackPermitted ? SackBit : 0);
        uint encoded = (timestamp & ~OptionMask) | options;
        return encoded > timestamp ? encoded - OptionMask - 1 : encoded;
    }

    /// <summary>What the SYN had offered.</summary>
    public static SegmentOptions DecodeOptions(uint echo) => new()
    {
        HasTimestamps = true,
        IsSackPermitted = (echo & SackBit) != 0,
        HasWindowScale = (echo & NoWindowScale) != NoWindowScale,
        WindowScale = (byte)(echo & NoWindowScale),
    };

    private static uint Minutes(TimeSpan now) => (uint)(now.Ticks / TimeSpan.TicksPerMinute);

    private static ushort[] Table(in TcpFlow flow) => flow.Remote.IsIPv4 ? s_segmentsIPv4 : s_segmentsIPv6;

    private uint Hash1(in TcpFlow flow) => (uint)secrets.CookieMinute.Of(flow, 0, 0);

    private uint Hash2(in TcpFlow flow, uint minutes) => (uint)secrets.CookieIndex.Of(flow, minutes, 1);
}
