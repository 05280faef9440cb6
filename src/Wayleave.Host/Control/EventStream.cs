using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.AspNetCore.Http;

namespace Wayleave.Host.Control;

// What a client holds is tied to a stream of this kind: when either end dies, both learn of it. A line is due at every
// heartbeat: it is data that the client's machine must acknowledge, so that one that died without a word is noticed
// too.

/// <summary>The host's end of a stream on which it keeps something for a client: one JSON document per line.</summary>
internal sealed class EventStream
{
    private static readonly byte[] s_lineFeed = "\n"u8.ToArray();

    private readonly HttpResponse _response;

    /// <summary>Nothing of the answer has been written yet.</summary>
    public EventStream(HttpResponse response)
    {
        _response = response;
        response.ContentType = "application/jsonl";
        response.Headers.CacheControl = "no-store";
    }

    /// <summary>Whether the client has left: nobody can be told anything any more.</summary>
    public bool HasClientLeft => _response.HttpContext.RequestAborted.IsCancellationRequested;

    /// <summary>Writes one line and sends it.</summary>
    public async Task WriteAsync<T>(T line, JsonTypeInfo<T> type)
    {
        CancellationToken aborted = _response.HttpContext.RequestAborted;
        byte[] bytes = [.. JsonSerializer.SerializeToUtf8Bytes(line, type), .. s_lineFeed];
        await _response.Body.WriteAsync(bytes, aborted).ConfigureAwait(false);
        await _response.Body.FlushAsync(aborted).ConfigureAwait(false);
    }
}
