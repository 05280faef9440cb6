using Wayleave.Core.Retirement;

namespace Wayleave.Host.Objects;

/// <summary>
/// What came of taking objects back since the host started. An object counts once, however many ask for its revoke.
/// Under the host lock.
/// </summary>
internal sealed class RetirementCounts
{
    private readonly HashSet<DeviceObject> _open = [];
    private readonly long[] _grades = new long[(int)RetirementGrade.Retired + 1];

    /// <summary>Begun and not ended.</summary>
    public int InProgress => _open.Count;

    /// <summary>Ended, whatever the proof was.</summary>
    public long Ended => _grades.Sum();

    /// <summary>Left quarantine by evidence that came after the owner had stopped waiting.</summary>
    public long ReleasedLate { get; private set; }

    public long OfGrade(RetirementGrade grade) => _grades[(int)grade];

    public void Begin(DeviceObject o)
    {
        if (o.Proof is null)
        {
            _open.Add(o);
        }
    }

    public void End(DeviceObject o, RetirementGrade grade)
    {
        if (_open.Remove(o))
        {
            _grades[(int)grade]++;
        }
    }

    public void Release() => ReleasedLate++;
}
