namespace Wayleave.Compare;

/// <summary>
/// What commands printed in this round: several ratios share one run of a command, or its failure.
/// </summary>
/// <param name="run">Runs a command.</param>
public sealed class RoundMemory<T>(Func<string[], T> run)
{
    private readonly Dictionary<string, Lazy<T>> _results = [];

    /// <summary>Runs a command, or says again what came of it in this round: its result or its exception.</summary>
    public T Get(params string[] command)
    {
        string key = string.Join(' ', command);
        if (!_results.TryGetValue(key, out Lazy<T>? result))
        {
            _results[key] = result = new Lazy<T>(() => run(command));
        }

        return result.Value;
    }

    /// <summary>A new round begins.</summary>
    public void Forget() => _results.Clear();
}
