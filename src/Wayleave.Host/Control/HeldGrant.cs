using System.Text.Json.Serialization.Metadata;

namespace Wayleave.Host.Control;

/// <summary>
/// Something that a host keeps for as long as a stream lives, and that stream: disposing ends it, and so does the death
/// of this process.
/// </summary>
/// <typeparam name="TEvent">A line of the stream.</typeparam>
public abstract class HeldGrant<TEvent> : IAsyncDisposable
    where TEvent : class
{
    private readonly JsonTypeInfo<TEvent> _type;
    private Task<TEvent?>? _reading;

    private protected HeldGrant(LineReader lines, JsonTypeInfo<TEvent> type) => (Lines, _type) = (lines, type);

    private protected LineReader Lines { get; }

    /// <summary>The last line, or null when this was disposed before it came.</summary>
    private protected Task<TEvent?> Reading => _reading ??= ReadAsync();

    /// <summary>Ends what is held. Its end at the host is not waited for. Disposing twice is fine.</summary>
    public ValueTask DisposeAsync()
    {
        GC.SuppressFinalize(this);
        return Lines.CloseAsync(Reading);
    }

    /// <summary>Sees a line after the first one.</summary>
    /// <returns>Whether it is the last.</returns>
    /// <exception cref="WayleaveException">What was held is of no more use; says why.</exception>
    private protected abstract bool IsLast(TEvent line);

    private async Task<TEvent?> ReadAsync()
    {
        while (await Lines.ReadNextAsync(_type).ConfigureAwait(false) is { } line)
        {
            if (IsLast(line))
            {
                return line;
            }
        }

        return null;
    }
}
