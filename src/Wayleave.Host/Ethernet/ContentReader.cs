using System.Diagnostics;
using Wayleave.Core;

namespace Wayleave.Host.Ethernet;

/// <summary>Moves the content of one connection into a sink.</summary>
/// <param name="pieces">Of the connection; a batch may have begun.</param>
/// <param name="stallMax">How long nothing may come.</param>
/// <param name="count">Told of the bytes of each batch.</param>
internal sealed class ContentReader(ReceivedPieces pieces, TimeSpan stallMax, Action<long> count)
{
    /// <summary>The next batch, or a failure when it does not come in time.</summary>
    /// <exception cref="WayleaveException">ETIMEDOUT: nothing came.</exception>
    public async ValueTask<bool> ReadAsync(CancellationToken cancellation)
    {
        if (stallMax == Timeout.InfiniteTimeSpan)
        {
            return await pieces.ReadAsync(cancellation).ConfigureAwait(false);
        }

        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(stallMax);
        try
        {
            return await pieces.ReadAsync(limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new WayleaveException(
                Errno.ETIMEDOUT, "receive", $"nothing came for {stallMax.TotalSeconds:0.###} s");
        }
    }

    /// <summary>Reads to the end of the stream, or of the content if its length is known.</summary>
    /// <param name="connection">For the report.</param>
    /// <param name="sink">Owned by the caller; completed when all has come.</param>
    /// <param name="expectedBytes">Null for whatever comes before the end.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <exception cref="WayleaveException">
    /// ENODATA: it ended before. EFBIG: more came than the end allows, where the stream is the content.
    /// </exception>
    public async Task<ReceivedContent> ReadAllAsync(
        IDevmemConnection connection, ContentSink sink, ulong? expectedBytes, CancellationToken cancellation)
    {
        long? start = null;
        while (await ReadAsync(cancellation).ConfigureAwait(false))
        {
            start ??= Stopwatch.GetTimestamp();
            ulong length = Length();
            if (expectedBytes is { } limit && length > limit - sink.Bytes)
            {
                throw new WayleaveException(
                    Errno.EFBIG,
                    $"receive from {connection.Peer}",
                    $"it sends more than the {limit} bytes that were announced",
                    "say how many it will be: --size");
            }

            await TakeAsync(sink, cancellation).ConfigureAwait(false);
        }

        return await EndAsync(connection, sink, expectedBytes, start, cancellation).ConfigureAwait(false);
    }

    /// <summary>Reads content of a known length; the present batch begins with it.</summary>
    /// <param name="connection">For the report.</param>
    /// <param name="sink">Owned by the caller; completed when all has come.</param>
    /// <param name="lengthBytes">Of the content.</param>
    /// <param name="check">Throws when the content is not wanted any more; before it is completed.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <exception cref="WayleaveException">ENODATA: the stream ended before.</exception>
    public async Task<ReceivedContent> ReadExactlyAsync(
        IDevmemConnection connection,
        ContentSink sink,
        ulong lengthBytes,
        Action check,
        CancellationToken cancellation)
    {
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            pieces.Truncate(lengthBytes - sink.Bytes);
            await TakeAsync(sink, cancellation).ConfigureAwait(false);
            if (sink.Bytes == lengthBytes || !await ReadAsync(cancellation).ConfigureAwait(false))
            {
                break;
            }
        }

        check();
        return await EndAsync(connection, sink, lengthBytes, start, cancellation).ConfigureAwait(false);
    }

    private ulong Length()
    {
        ulong length = 0;
        foreach (ReceivedPiece piece in pieces.Pieces)
        {
            length += piece.LengthBytes;
        }

        return length;
    }

    private async ValueTask TakeAsync(ContentSink sink, CancellationToken cancellation)
    {
        long length = (long)Length();
        await sink.TakeAsync(pieces, cancellation).ConfigureAwait(false);
        pieces.Return();
        count(length);
    }

    private async Task<ReceivedContent> EndAsync(
        IDevmemConnection connection,
        ContentSink sink,
        ulong? expectedBytes,
        long? start,
        CancellationToken cancellation)
    {
        TimeSpan elapsed = start is { } began ? Stopwatch.GetElapsedTime(began) : TimeSpan.Zero;
        if (expectedBytes is { } expected && sink.Bytes != expected)
        {
            throw new WayleaveException(
                Errno.ENODATA,
                $"receive from {connection.Peer}",
                $"it ended after {sink.Bytes} of {expected} bytes");
        }

        string sha256 = await sink.CompleteAsync(cancellation).ConfigureAwait(false);
        return new ReceivedContent
        {
            Peer = connection.Peer,
            Bytes = sink.Bytes,
            Tokens = pieces.TokensReturned,
            LinearBytes = sink.LinearBytes,
            StagedBytes = sink.StagedBytes,
            HeadBytes = 0,
            Sha256 = sha256,
            Elapsed = elapsed,
        };
    }
}
