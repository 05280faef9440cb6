using Wayleave.Core;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// What is answered without a connection: resets, SYN cookies and challenges of half-open connections, in a ring of
/// fixed size; and the budgets that bound them. Beyond either an answer is withheld and counted.
/// </summary>
internal sealed class StatelessAnswers(TcpEndpointOptions options, TcpStats stats, IRandomChoice random)
{
    // A cookie is believed for two periods; while none was sent for as long, an acknowledgement out of nowhere costs no
    // hash (Linux: tcp_synq_no_recent_overflow).
    private static readonly TimeSpan s_cookieLife = TimeSpan.FromMinutes(2);

    private readonly Replies _replies = new(options.RepliesMax);
    private AnswerBudget _challenges = new(options.ChallengesPerSecond, random);
    private AnswerBudget _resets = new(options.ResetsPerSecond, random);
    private TimeSpan? _cookieSentAt;

    /// <summary>The oldest answer that waits.</summary>
    public bool TryTake(out TcpTransmit transmit) => _replies.TryTake(out transmit);

    /// <summary>The answer to a SYN that nobody remembers.</summary>
    public void Cookie(TimeSpan now, in TcpTransmit answer)
    {
        stats.CookiesSent++;
        _cookieSentAt = now;
        Add(answer);
    }

    /// <summary>Whether an acknowledgement out of nowhere may be one of a cookie.</summary>
    public bool HaveCookiesBeenSent(TimeSpan now) => _cookieSentAt is { } sentAt && now - sentAt <= s_cookieLife;

    /// <summary>
    /// A reset for the other end of a flow; of a connection that ends, so there is one and no budget.
    /// </summary>
    public void Reset(in TcpFlow flow, uint sequence, uint acknowledgement, bool hasAck)
    {
        stats.ResetsSent++;
        Add(new TcpTransmit
        {
            Flow = flow,
            Sequence = sequence,
            Acknowledgement = acknowledgement,
            Flags = hasAck ? TcpFlags.Rst | TcpFlags.Ack : TcpFlags.Rst,
        });
    }

    /// <summary>
    /// RFC 9293 3.10.7.1, 3.10.7.3 and 3.10.7.4: an acknowledgement of what was never sent, or a segment for nobody. By
    /// a budget: whoever sends them chooses whose address they come from.
    /// </summary>
    public void ToStranger(TimeSpan now, in TcpFlow flow, scoped in TcpSegment segment)
    {
        if (segment.HasRst)
        {
            return; // RFC 9293 3.10.7.1: anything else causes a reset, whatever its flags are
        }

        if (options.Defences.LimitsChallenges && !_resets.TryTake(now))
        {
            stats.AnswersWithheld++;
        }
        else if (segment.HasAck)
        {
            Reset(flow, segment.Acknowledgement, 0, hasAck: false);
        }
        else
        {
            Reset(flow, 0, segment.Sequence + (uint)segment.LengthInSequence, hasAck: true);
        }
    }

    /// <summary>RFC 5961, for a connection that is half open.</summary>
    public void Challenge(TimeSpan now, in TcpFlow flow, uint sequence, uint acknowledgement)
    {
        if (TryTakeChallenge(now))
        {
            Add(new TcpTransmit
            {
                Flow = flow,
                Sequence = sequence,
                Acknowledgement = acknowledgement,
                Flags = TcpFlags.Ack,
            });
        }
    }

    /// <summary>Whether one more challenge may be sent; it counts as sent.</summary>
    public bool TryTakeChallenge(TimeSpan now)
    {
        if (options.Defences.LimitsChallenges && !_challenges.TryTake(now))
        {
            stats.AnswersWithheld++;
            return false;
        }

        stats.Challenges++;
        return true;
    }

    private void Add(in TcpTransmit answer) => stats.AnswersWithheld += _replies.TryAdd(answer) ? 0 : 1;
}
