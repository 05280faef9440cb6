using System.Globalization;
using System.Text.RegularExpressions;

namespace Wayleave.Simulation;

/// <summary>How one run ended.</summary>
internal enum RunEnd
{
    Finished,
    Cut,
    Failed,
    Canceled,
}

/// <summary>
/// Makes runs of one scenario, one after the other. Its lists are used again by the next run: a step allocates nothing
/// of its own.
/// </summary>
internal sealed partial class RunDriver(
    Func<Choices, Scenario> build, int stepsMax, CancellationToken cancellation = default)
{
    private const int StepsBetweenLooks = 256; // at the cancellation
    private const ulong HashStart = 0xCBF29CE484222325; // FNV-1a
    private const ulong HashPrime = 0x100000001B3;

    private readonly List<int> _ready = [];
    private readonly List<RunStep> _log = [];
    private readonly List<(int Actor, int Before, int After)> _taken = []; // decisions made until and with the choice
    private IReadOnlyList<Actor> _actors = [];
    private ulong _state; // of the last look
    private ulong _edge; // the state before and what was done there

    /// <summary>States that need not be left again, or null to make every run to its end.</summary>
    public HashSet<ulong>? Seen { get; init; }

    /// <summary>Where each step led, by where it started and what was decided; null for no audit.</summary>
    public Dictionary<ulong, ulong>? Audit { get; init; }

    /// <summary>Whether the scenario is asked what its steps did.</summary>
    public bool Tells { get; init; }

    /// <summary>The steps of the last run.</summary>
    public IReadOnlyList<RunStep> Steps => _log;

    /// <summary>The last run as steps that another run can be made of.</summary>
    /// <param name="choices">Of that run.</param>
    public ScriptStep[] ToScript(Choices choices)
    {
        ScriptStep[] script = new ScriptStep[_taken.Count];
        for (int i = 0; i < script.Length; i++)
        {
            (int actor, _, int first) = _taken[i];
            int end = i + 1 < _taken.Count ? _taken[i + 1].Before : choices.Count;
            int[] answers = [.. choices.Decisions.Take(end).Skip(first).Select(d => d.Value)];
            script[i] = new ScriptStep(actor, answers);
        }

        return script;
    }

    public FailureKind Kind { get; private set; }

    /// <summary>What was wrong with the last run; meaningful when it failed.</summary>
    public string Problem { get; private set; } = "";

    public Exception? Cause { get; private set; }

    /// <summary>
    /// The failure without its numbers: the same for runs that fail in the same way, whatever was counted.
    /// </summary>
    public string Signature => $"{Kind} {Numbers().Replace(Problem, "#")}";

    /// <summary>One run from the start.</summary>
    public RunEnd Run(Choices choices)
    {
        _log.Clear();
        _taken.Clear();
        (_state, _edge) = (0, 0);
        choices.IsTold = Tells;
        Scenario scenario;
        try
        {
            scenario = build(choices);
        }
        catch (Exception e)
        {
            return Fail(FailureKind.Builder, $"the scenario could not be made: {Describe(e)}", e);
        }

        _actors = scenario.Actors;
        RunEnd end = Run(choices, scenario);
        foreach (Actor actor in _actors)
        {
            try
            {
                actor.Dispose();
            }
            catch (Exception e)
            {
                // What went wrong first is the finding; this may follow from it.
                end = end == RunEnd.Failed
                    ? end
                    : Fail(FailureKind.Actor, $"{actor.Name} threw when the run was over: {Describe(e)}", e);
            }
        }

        return end;
    }

    [GeneratedRegex("[0-9]+")]
    private static partial Regex Numbers();

    private RunEnd Run(Choices choices, Scenario scenario)
    {
        int last = -1;
        for (int step = 0; ; step++)
        {
            if (!TryFindReady(last) || !TryLook(choices, scenario, out bool isKnown))
            {
                return RunEnd.Failed;
            }

            if (isKnown)
            {
                return RunEnd.Cut;
            }

            if (_ready.Count == 0)
            {
                return End(scenario);
            }

            if (step == stepsMax)
            {
                string problem = string.Create(
                    CultureInfo.InvariantCulture,
                    $"no end after {stepsMax} steps: a livelock, or a step limit that is too low");
                return Fail(FailureKind.Endless, problem, cause: null);
            }

            if (step % StepsBetweenLooks == 0 && cancellation.IsCancellationRequested)
            {
                return RunEnd.Canceled;
            }

            if (!TryStep(choices, scenario, ref last))
            {
                return RunEnd.Failed;
            }
        }
    }

    // Who made the last step stands first: the answer 0 lets it go on, so that a trail of zeros has the fewest
    // switches.
    private bool TryFindReady(int last)
    {
        _ready.Clear();
        int index = 0;
        try
        {
            if (last >= 0 && _actors[last].IsReady)
            {
                _ready.Add(last);
            }

            for (; index < _actors.Count; index++)
            {
                if (index != last && _actors[index].IsReady)
                {
                    _ready.Add(index);
                }
            }

            return true;
        }
        catch (Exception e)
        {
            Actor actor = _actors[index];
            Fail(FailureKind.Actor, $"{actor.Name}, asked whether '{actor.Next}' can run: {Describe(e)}", e);
            return false;
        }
    }

    // False when it cannot be looked at, or when the audit finds that the fingerprint says too little.
    private bool TryLook(Choices choices, Scenario scenario, out bool isKnown)
    {
        isKnown = false;

        // A state within the repeated prefix is known by definition: an earlier run passed it on its way elsewhere.
        bool mayBeNew = Seen is not null && _log.Count > 0 && !choices.IsReplayingPrefix;
        if (scenario.Fingerprint is not { } fingerprint || (!mayBeNew && Audit is null))
        {
            return true;
        }

        try
        {
            _state = Key(fingerprint());
        }
        catch (Exception e)
        {
            Fail(FailureKind.Invariant, $"the fingerprint threw: {Describe(e)}", e);
            return false;
        }

        isKnown = mayBeNew && !Seen!.Add(_state);
        if (Audit is null || _edge == 0 || Audit.TryAdd(_edge, _state) || Audit[_edge] == _state)
        {
            return true;
        }

        RunStep step = _log[^1];
        string edge = $"'{step.Name}' of {step.Actor} led from one state to two";
        Fail(FailureKind.Fingerprint, $"the fingerprint leaves something out: {edge}", cause: null);
        return false;
    }

    private bool TryStep(Choices choices, Scenario scenario, ref int last)
    {
        int firstDecision;
        try
        {
            int before = choices.Count;
            last = _ready[choices.NextActor(_ready)];
            firstDecision = choices.Count;
            _taken.Add((last, before, firstDecision));
        }
        catch (TrailException e)
        {
            Fail(FailureKind.Trail, e.Message, e);
            return false;
        }

        Actor actor = _actors[last];
        string name = actor.Next;
        try
        {
            actor.Advance();
        }
        catch (TrailException e)
        {
            _log.Add(new RunStep(actor.Name, name));
            Fail(FailureKind.Trail, e.Message, e);
            return false;
        }
        catch (Exception e)
        {
            _log.Add(new RunStep(actor.Name, name));
            string problem = e is ViolationException ? e.Message : $"{actor.Name} threw in '{name}': {Describe(e)}";
            Fail(FailureKind.Actor, problem, e);
            return false;
        }

        try
        {
            _log.Add(new RunStep(actor.Name, name, Tells ? scenario.Narrate?.Invoke() : null));
            scenario.Invariant();
        }
        catch (Exception e)
        {
            Fail(FailureKind.Invariant, Finding(e), e);
            return false;
        }

        if (Audit is not null)
        {
            _edge = (_state ^ ((ulong)last + 1)) * HashPrime;
            for (int i = firstDecision; i < choices.Count; i++)
            {
                _edge = (_edge ^ (ulong)choices.Decisions[i].Value) * HashPrime;
            }
        }

        return true;
    }

    private RunEnd End(Scenario scenario)
    {
        List<string>? waiting = null;
        foreach (Actor actor in _actors)
        {
            if (!actor.IsFinished)
            {
                (waiting ??= []).Add($"{actor.Name} waits at '{actor.Next}'");
            }
        }

        if (waiting is not null)
        {
            return Fail(FailureKind.Deadlock, "deadlock: " + string.Join(", ", waiting), cause: null);
        }

        try
        {
            scenario.AtEnd?.Invoke();
            return RunEnd.Finished;
        }
        catch (Exception e)
        {
            return Fail(FailureKind.End, Finding(e), e);
        }
    }

    // Where an actor stands is part of the state: how many steps it made, at which point it stopped (code with branches
    // makes as many steps on either side), and whether it could go on.
    private ulong Key(ulong fingerprint)
    {
        ulong key = (HashStart ^ fingerprint) * HashPrime;
        foreach (Actor actor in _actors)
        {
            key = (key ^ actor.Place) * HashPrime;
        }

        ulong ready = 0;
        foreach (int index in _ready)
        {
            ready |= 1UL << (index & 63);
        }

        key = (key ^ ready ^ (key >> 32)) * HashPrime;
        return key == 0 ? 1 : key;
    }

    private RunEnd Fail(FailureKind kind, string problem, Exception? cause)
    {
        (Kind, Problem, Cause) = (kind, problem, cause);
        return RunEnd.Failed;
    }

    // What a check throws is its finding, unless the check itself is broken.
    private static string Finding(Exception e) =>
        e is ViolationException or InvalidOperationException ? e.Message : Describe(e);

    private static string Describe(Exception e) => $"{e.GetType().Name}: {e.Message}";
}
