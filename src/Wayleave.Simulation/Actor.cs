namespace Wayleave.Simulation;

/// <summary>
/// A participant, written as an iterator: what stands between two yields is one atomic step. Code before the first
/// yield runs when the actor is made.
/// </summary>
public sealed class Actor : IDisposable
{
    private readonly IEnumerator<Step> _steps;

    /// <param name="name">Unique within its scenario; stands in the log of a failing run.</param>
    /// <param name="steps">Enumerated once, by whoever drives this actor.</param>
    public Actor(string name, IEnumerable<Step> steps)
    {
        ArgumentNullException.ThrowIfNull(steps);
        Name = name;
        _steps = steps.GetEnumerator();
        Advance();
    }

    public string Name { get; }

    /// <summary>How many steps have begun, the one before the first yield included.</summary>
    public int Position { get; private set; }

    /// <summary>The iterator has ended.</summary>
    public bool IsFinished { get; private set; }

    /// <summary>The next step can run now.</summary>
    public bool IsReady => !IsFinished && (_steps.Current.Ready?.Invoke() ?? true);

    /// <summary>The name of the next step.</summary>
    public string Next => IsFinished ? "finished" : _steps.Current.Name;

    /// <summary>
    /// An actor whose steps are the pieces of <paramref name="body"/> between its interleaving points.
    /// </summary>
    public static Actor OnThread(string name, Action body) => new(name, new ThreadedActor(body).Steps());

    /// <summary>
    /// Runs the next step. Called only when <see cref="IsReady"/>; an exception of the step comes out of here.
    /// </summary>
    public void Advance()
    {
        Position++;
        IsFinished = !_steps.MoveNext();
    }

    /// <summary>
    /// Ends the iterator where it stands: its finally blocks run, and a thread behind it unwinds and ends.
    /// </summary>
    public void Dispose() => _steps.Dispose();
}
