namespace Wayleave.Simulation;

/// <summary>One interleaving point: what follows it runs, as one atomic step, once <see cref="Ready"/> holds.</summary>
public readonly record struct Step(string Name, Func<bool>? Ready = null)
{
    public static implicit operator Step(string name) => new(name);

    public static Step FromString(string name) => new(name);
}

/// <summary>A participant, written as an iterator: what stands between two yields is one atomic step.</summary>
public sealed class Actor
{
    private readonly IEnumerator<Step> _steps;

    public Actor(string name, IEnumerable<Step> steps)
    {
        ArgumentNullException.ThrowIfNull(steps);
        Name = name;
        _steps = steps.GetEnumerator();
        Advance();
    }

    public string Name { get; }

    public int Position { get; private set; }

    public bool IsFinished { get; private set; }

    public bool IsReady => !IsFinished && (_steps.Current.Ready?.Invoke() ?? true);

    public string Next => IsFinished ? "finished" : _steps.Current.Name;

    public void Advance()
    {
        Position++;
        IsFinished = !_steps.MoveNext();
    }
}
