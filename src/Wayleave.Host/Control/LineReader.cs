using System.Buffers;
using System.IO.Pipelines;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// The client's end of a stream on which a host keeps something for it: one JSON document per line, and never silence
/// for long. Owned by one reader at a time.
/// </summary>
internal sealed class LineReader : IAsyncDisposable
{
    private const int LineBytesMax = 64 * 1024;

    private readonly HttpResponseMessage _response;
    private readonly PipeReader _reader;
    private readonly CancellationTokenSource _stopping = new();
    private readonly string _operation;
    private readonly TimeSpan _silenceMax;
    private int _closed;

    private LineReader(HttpResponseMessage response, Stream stream, string operation, TimeSpan silenceMax)
    {
        (_response, _reader, _operation, _silenceMax) = (response, PipeReader.Create(stream), operation, silenceMax);
    }

    /// <summary>Reads the body of an answer; owns the answer from then on.</summary>
    /// <param name="response">Whose headers have come.</param>
    /// <param name="operation">What was asked for, for failures.</param>
    /// <param name="silenceMax">The longest wait of <see cref="ReadNextAsync"/>.</param>
    /// <param name="cancellation">Ends the wait for the stream; the answer then belongs to the caller.</param>
    public static async Task<LineReader> OpenAsync(
        HttpResponseMessage response, string operation, TimeSpan silenceMax, CancellationToken cancellation)
    {
        Stream stream = await response.Content.ReadAsStreamAsync(cancellation).ConfigureAwait(false);
        return new LineReader(response, stream, operation, silenceMax);
    }

    /// <summary>A failure that names what was asked for.</summary>
    public WayleaveException Fail(Errno errno, string reason, string? remedy = null, Exception? inner = null) =>
        new(errno, _operation, reason, remedy, inner);

    /// <summary>The next line. Throws what the connection throws.</summary>
    /// <exception cref="WayleaveException">EPROTO: what came is no line of this stream.</exception>
    public async Task<T> ReadAsync<T>(JsonTypeInfo<T> type, CancellationToken cancellation)
        where T : class
    {
        while (true)
        {
            ReadResult read = await _reader.ReadAsync(cancellation).ConfigureAwait(false);
            if (read.Buffer.PositionOf((byte)'\n') is { } end)
            {
                byte[] line = read.Buffer.Slice(0, end).ToArray();
                _reader.AdvanceTo(read.Buffer.GetPosition(1, end));
                return Parse(line, type);
            }

            if (read.IsCompleted)
            {
                throw new EndOfStreamException("the stream was cut");
            }

            if (read.Buffer.Length > LineBytesMax)
            {
                throw Fail(Errno.EPROTO, "the host sent a line without end");
            }

            _reader.AdvanceTo(read.Buffer.Start, read.Buffer.End);
        }
    }

    /// <summary>The next line, or null once <see cref="CloseAsync"/> was called.</summary>
    /// <exception cref="WayleaveException">
    /// ETIMEDOUT: the host has fallen silent. ECONNRESET: it died. EPROTO: it sent something else.
    /// </exception>
    public async Task<T?> ReadNextAsync<T>(JsonTypeInfo<T> type)
        where T : class
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(_stopping.Token);
        limit.CancelAfter(_silenceMax);
        try
        {
            return await ReadAsync(type, limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (_stopping.IsCancellationRequested)
        {
            return null;
        }
        catch (OperationCanceledException e)
        {
            const string Remedy = "check that it is not stopped or overloaded";
            throw Fail(Errno.ETIMEDOUT, "the host has fallen silent", Remedy, e);
        }
        catch (Exception e) when (e is IOException and not WayleaveException)
        {
            const string Remedy = "look at its output, then try again";
            throw Fail(Errno.ECONNRESET, "the host died or cut the connection", Remedy, e);
        }
    }

    /// <summary>
    /// Ends <see cref="ReadNextAsync"/>, waits for who reads, and closes the connection, by which the host learns that
    /// we left. Closing twice is fine.
    /// </summary>
    /// <param name="reading">Who reads; how it ends is known to whoever awaits it.</param>
    public async ValueTask CloseAsync(Task reading)
    {
        if (Interlocked.Exchange(ref _closed, 1) != 0)
        {
            return;
        }

        await _stopping.CancelAsync().ConfigureAwait(false);
        await reading.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await DisposeAsync().ConfigureAwait(false);
    }

    /// <summary>Closes the connection of a stream that nobody reads.</summary>
    public async ValueTask DisposeAsync()
    {
        await _reader.CompleteAsync().ConfigureAwait(false);
        _response.Dispose();
        _stopping.Dispose();
    }

    private T Parse<T>(byte[] line, JsonTypeInfo<T> type)
        where T : class
    {
        try
        {
            return JsonSerializer.Deserialize(line, type) ?? throw Fail(Errno.EPROTO, "the host sent an empty event");
        }
        catch (JsonException e)
        {
            throw Fail(Errno.EPROTO, "the host sent what is no event of this stream", inner: e);
        }
    }
}
