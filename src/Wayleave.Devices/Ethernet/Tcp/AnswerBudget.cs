using Wayleave.Core;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// A bound on answers per second that nobody can measure from outside (RFC 5961 section 7; CVE-2016-5696): the number
/// of each second is drawn anew, from half to one and a half of the rate.
/// </summary>
internal struct AnswerBudget(int perSecond, IRandomChoice random)
{
    private static readonly TimeSpan s_period = TimeSpan.FromSeconds(1);

    private TimeSpan _until = TimeSpan.MinValue;
    private int _left;

    /// <summary>Takes one; false when this second's are used up.</summary>
    public bool TryTake(TimeSpan now)
    {
        if (now >= _until)
        {
            _until = now + s_period;
            _left = perSecond == 0 ? 0 : ((perSecond + 1) / 2) + random.Next(perSecond);
        }

        return _left > 0 && _left-- > 0;
    }
}
