using System.Buffers;
using System.IO.Pipelines;
using System.Text.Json;
using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// A lease that a host granted, and the stream that keeps it. As long as this object lives the host keeps the lease;
/// disposing ends it, and so does the death of this process.
/// </summary>
public sealed class HeldLease : IAsyncDisposable
{
    private const int LineBytesMax = 64 * 1024;

    private readonly HttpResponseMessage _response;
    private readonly PipeReader _reader;
    private readonly CancellationTokenSource _disposing = new();
    private readonly string _operation;
    private readonly TimeSpan _silenceMax;

    private HeldLease(HttpResponseMessage response, PipeReader reader, string operation, TimeSpan silenceMax)
    {
        (_response, _reader, _operation, _silenceMax) = (response, reader, operation, silenceMax);
    }

    public LeaseDocument Lease { get; private set; } = null!;

    /// <summary>
    /// Ends when the lease is of no more use: normally after a commit or <see cref="DisposeAsync"/>, with a
    /// <see cref="WayleaveException"/> when the owner took the memory back or ended the lease (ENODEV), when the host
    /// died (ECONNRESET) or when it fell silent (ETIMEDOUT).
    /// </summary>
    public Task Completion { get; private set; } = Task.CompletedTask;

    internal static async Task<HeldLease> OpenAsync(
        HttpResponseMessage response, string operation, TimeSpan silenceMax, CancellationToken cancellation)
    {
        Stream stream = await response.Content.ReadAsStreamAsync(cancellation).ConfigureAwait(false);
        HeldLease lease = new(response, PipeReader.Create(stream), operation, silenceMax);
        LeaseEventDocument first = await lease.ReadLineAsync(cancellation).ConfigureAwait(false);
        lease.Lease = first.Lease
            ?? throw new WayleaveException(Errno.EPROTO, operation, "the answer does not begin with a lease");
        lease.Completion = lease.WatchAsync();
        return lease;
    }

    /// <summary>Ends the lease. Its end at the host is not waited for. Disposing twice is fine.</summary>
    public async ValueTask DisposeAsync()
    {
        if (_disposing.IsCancellationRequested)
        {
            return;
        }

        await _disposing.CancelAsync().ConfigureAwait(false);
        // whoever awaits Completion has seen it
        await ((Task)Completion).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await _reader.CompleteAsync().ConfigureAwait(false);
        _response.Dispose();
    }

    private async Task WatchAsync()
    {
        try
        {
            while (true)
            {
                using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(_disposing.Token);
                limit.CancelAfter(_silenceMax);
                LeaseEventDocument line = await ReadLineAsync(limit.Token).ConfigureAwait(false);
                switch (line.Event)
                {
                    case LeaseEventKind.Committed:
                        return;
                    case LeaseEventKind.Revoked or LeaseEventKind.Ended:
                        throw new WayleaveException(
                            Errno.ENODEV, _operation, line.Reason ?? "the owner ended the lease");
                }
            }
        }
        catch (OperationCanceledException) when (_disposing.IsCancellationRequested)
        {
            // We end the lease ourselves: that is no failure.
        }
        catch (OperationCanceledException e)
        {
            throw new WayleaveException(
                Errno.ETIMEDOUT,
                _operation,
                "the host has fallen silent",
                "check that it is not stopped or overloaded",
                e);
        }
        catch (Exception e) when (e is IOException and not WayleaveException)
        {
            throw new WayleaveException(
                Errno.ECONNRESET,
                _operation,
                "the host died or cut the connection",
                "look at its output, then try again",
                e);
        }
    }

    private async Task<LeaseEventDocument> ReadLineAsync(CancellationToken cancellation)
    {
        while (true)
        {
            ReadResult read = await _reader.ReadAsync(cancellation).ConfigureAwait(false);
            if (read.Buffer.PositionOf((byte)'\n') is { } end)
            {
                byte[] line = read.Buffer.Slice(0, end).ToArray();
                _reader.AdvanceTo(read.Buffer.GetPosition(1, end));
                return Parse(line);
            }

            if (read.IsCompleted)
            {
                throw new EndOfStreamException("the stream of the lease was cut");
            }

            if (read.Buffer.Length > LineBytesMax)
            {
                throw new WayleaveException(Errno.EPROTO, _operation, "the host sent a line without end");
            }

            _reader.AdvanceTo(read.Buffer.Start, read.Buffer.End);
        }
    }

    private LeaseEventDocument Parse(byte[] line)
    {
        try
        {
            return JsonSerializer.Deserialize(line, ControlJson.Default.LeaseEventDocument)
                ?? throw new WayleaveException(Errno.EPROTO, _operation, "the host sent an empty event");
        }
        catch (JsonException e)
        {
            throw new WayleaveException(
                Errno.EPROTO, _operation, "the host sent what is no event of a lease", innerException: e);
        }
    }
}
