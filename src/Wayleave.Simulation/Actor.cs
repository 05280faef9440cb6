namespace Wayleave.Simulation;

/// <summary>
/// A participant, written as an iterator: what stands between two yields is one atomic step. Code before the first
/// yield runs when the actor is made.
/// </summary>
public sealed class Actor : IDisposable
{
    private readonly IEnumerator<Step> _steps;
    private Step _next;
    private string? _hashedName;
    private ulong _nameHash;

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
    public bool IsReady => !IsFinished && (_next.Ready is not { } ready || ready());

    /// <summary>The name of the next step.</summary>
    public string Next => IsFinished ? "finished" : _next.Name;

    /// <summary>
    /// Where it stands, as a number: how many steps it made, and before which it is. FNV-1a, because
    /// <see cref="string.GetHashCode()"/> differs from process to process.
    /// </summary>
    internal ulong Place
    {
        get
        {
            string name = Next;
            if (!ReferenceEquals(name, _hashedName))
            {
                _hashedName = name;
                _nameHash = 0xCBF29CE484222325;
                foreach (char c in name)
                {
                    _nameHash = (_nameHash ^ c) * 0x100000001B3;
                }
            }

            return _nameHash ^ ((ulong)Position * 0x9E3779B97F4A7C15);
        }
    }

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
        _next = IsFinished ? default : _steps.Current;
    }

    /// <summary>
    /// Ends the iterator where it stands: its finally blocks run, and a thread behind it unwinds and ends.
    /// </summary>
    public void Dispose() => _steps.Dispose();
}
