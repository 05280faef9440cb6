namespace Wayleave.Simulation;

/// <summary>One step of a script.</summary>
/// <param name="Actor">Its number in the scenario.</param>
/// <param name="Answers">To the questions asked within the step.</param>
internal readonly record struct ScriptStep(int Actor, int[] Answers);

/// <summary>
/// A run made from the steps of another, some left out: a step whose actor is not ready is skipped, an answer that does
/// not fit is made to, and after the last step everybody goes on as far as possible without a switch.
/// </summary>
internal sealed class Script(IReadOnlyList<ScriptStep> steps)
{
    private int _next;
    private int _answer;

    /// <summary>A place in <paramref name="ready"/>.</summary>
    public int Choose(List<int> ready)
    {
        _answer = 0;
        while (_next < steps.Count)
        {
            int place = ready.IndexOf(steps[_next++].Actor);
            if (place >= 0)
            {
                return place;
            }
        }

        return 0;
    }

    /// <summary>To a question within the step that was chosen last.</summary>
    public int Answer(int count)
    {
        int[] answers = _next > 0 && _next <= steps.Count ? steps[_next - 1].Answers : [];
        int answer = _answer < answers.Length ? answers[_answer] : 0;
        _answer++;
        return Math.Min(answer, count - 1);
    }
}
