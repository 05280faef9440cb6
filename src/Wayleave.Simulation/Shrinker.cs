namespace Wayleave.Simulation;

// The run is a list of steps. Three moves are tried until none helps: leave a piece out (half of the steps, then a
// quarter, down to one), bring a step forward to the last one of its actor, which saves a switch, and lower an answer
// that was given within a step. What a candidate does is taken from its run: steps that are not ready are skipped. It
// is kept when it fails with the same signature at less cost.

/// <summary>Makes a failing run shorter.</summary>
internal sealed class Shrinker(RunDriver driver, int runsMax, string signature)
{
    /// <summary>Steps of all candidates together, so that a long run is not shrunk for minutes.</summary>
    private const long StepsMax = 1_000_000;

    private ScriptStep[] _best = [];
    private Cost _cost;
    private long _steps;
    private int _runs;

    /// <summary>The cheapest run found that fails as the signature says.</summary>
    public ScriptStep[] Shrink(ScriptStep[] failing)
    {
        (_best, _cost) = (failing, Cost.Of(failing));
        bool improved = true;
        while (improved && HasBudget)
        {
            improved = LeaveOut() | BringTogether() | LowerAnswers();
        }

        return _best;
    }

    private bool HasBudget => _runs < runsMax && _steps < StepsMax;

    private bool LeaveOut()
    {
        bool improved = false;
        for (int length = Math.Max(_best.Length / 2, 1); length > 0; length /= 2)
        {
            for (int start = 0; start < _best.Length;)
            {
                int end = Math.Min(start + length, _best.Length);
                bool isShorter = Try([.. _best[..start], .. _best[end..]]);
                improved |= isShorter;
                start = isShorter ? start : end;
            }
        }

        return improved;
    }

    private bool BringTogether()
    {
        bool improved = false;
        for (int i = 2; i < _best.Length; i++)
        {
            int before = Array.FindLastIndex(_best, i - 1, s => s.Actor == _best[i].Actor);
            if (before >= 0 && before < i - 1)
            {
                improved |= Try([.. _best[..(before + 1)], _best[i], .. _best[(before + 1)..i], .. _best[(i + 1)..]]);
            }
        }

        return improved;
    }

    private bool LowerAnswers()
    {
        bool improved = false;
        for (int i = 0; i < _best.Length; i++)
        {
            for (int j = 0; i < _best.Length && j < _best[i].Answers.Length; j++)
            {
                if (_best[i].Answers[j] > 0)
                {
                    int[] answers = [.. _best[i].Answers];
                    answers[j] = 0;
                    improved |= Try([.. _best[..i], _best[i] with { Answers = answers }, .. _best[(i + 1)..]]);
                }
            }
        }

        return improved;
    }

    private bool Try(ScriptStep[] candidate)
    {
        if (!HasBudget)
        {
            return false;
        }

        _runs++;
        Choices choices = Choices.Follow(new Script(candidate));
        RunEnd end = driver.Run(choices);
        _steps += driver.Steps.Count;
        if (end != RunEnd.Failed || driver.Signature != signature)
        {
            return false;
        }

        ScriptStep[] made = driver.ToScript(choices);
        Cost cost = Cost.Of(made);
        if (cost.CompareTo(_cost) >= 0)
        {
            return false;
        }

        (_best, _cost) = (made, cost);
        return true;
    }

    private readonly record struct Cost(int Steps, int Switches, long Answers) : IComparable<Cost>
    {
        public static Cost Of(ScriptStep[] script)
        {
            int switches = 0;
            long answers = 0;
            for (int i = 0; i < script.Length; i++)
            {
                switches += i > 0 && script[i].Actor != script[i - 1].Actor ? 1 : 0;
                foreach (int answer in script[i].Answers)
                {
                    answers += answer;
                }
            }

            return new Cost(script.Length, switches, answers);
        }

        public int CompareTo(Cost other) =>
            (Steps, Switches, Answers).CompareTo((other.Steps, other.Switches, other.Answers));
    }
}
