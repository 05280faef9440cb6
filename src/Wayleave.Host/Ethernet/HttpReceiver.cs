using System.Collections.Concurrent;
using System.Text;
using Wayleave.Core;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Ethernet;

/// <summary>An HTTP request that did not become an object.</summary>
/// <param name="Peer">Who sent it.</param>
/// <param name="Status">What was answered; 0 when the connection was over before.</param>
/// <param name="Reason">Why, in words.</param>
public sealed record RefusedRequest(string Peer, int Status, string Reason);

/// <summary>
/// The server's side of an upload: one request a connection, <c>PUT /NAME</c> with a length, answered by 201 once the
/// object has its name. The head is looked at where it lies and its bytes are counted; the content is not.
/// </summary>
/// <param name="host">Of the device.</param>
/// <param name="reception">What the queue is bound to; objects are made on the same device.</param>
/// <param name="stallMax">How long a request may bring nothing.</param>
/// <param name="count">Told of the bytes of content.</param>
/// <param name="defences">What is switched off in a test.</param>
internal sealed class HttpReceiver(
    WayleaveHost host, NetReceive reception, TimeSpan stallMax, Action<long> count, HttpDefences defences)
{
    public static readonly TimeSpan StallMaxDefault = TimeSpan.FromSeconds(30);

    // Objects that came by this reception: a stranger replaces those, and no others.
    private readonly ConcurrentDictionary<ulong, bool> _made = new();

    // How much at a time is copied to look for the end of the head: content behind it that is looked at too.
    private const int LookBytes = 128;

    // After an answer the rest of a request is taken and dropped: closing before would reset who has not read it.
    private const long LingerBytesMax = 64 << 20;
    private static readonly TimeSpan s_lingerMax = TimeSpan.FromSeconds(2);

    /// <summary>Serves one connection, which the caller closes. One of the two results is null.</summary>
    public async Task<(ReceivedContent? Received, RefusedRequest? Refused)> ServeAsync(
        IDevmemConnection connection, CancellationToken cancellation)
    {
        string peer = connection.Peer;
        ReceivedPieces pieces = new(connection);
        ContentReader reader = new(pieces, stallMax, count);
        try
        {
            return (await ServeAsync(connection, pieces, reader, cancellation).ConfigureAwait(false), null);
        }
        catch (HttpRefusal refusal)
        {
            await AnswerAsync(connection, refusal.Status, refusal.Reason, refusal.Headers, cancellation)
                .ConfigureAwait(false);
            await LingerAsync(connection, pieces, cancellation).ConfigureAwait(false);
            return (null, new RefusedRequest(peer, refusal.Status, refusal.Reason));
        }
        catch (WayleaveException e)
        {
            // The connection is over, or the memory was taken back and it with it.
            connection.Abort();
            return (null, new RefusedRequest(peer, 0, e.Message));
        }
    }

    private async Task<ReceivedContent> ServeAsync(
        IDevmemConnection connection, ReceivedPieces pieces, ContentReader reader, CancellationToken cancellation)
    {
        (HttpHead head, int headBytes) = await ReadHeadAsync(pieces, reader, cancellation).ConfigureAwait(false);
        if (head.Method != "PUT")
        {
            throw new HttpRefusal(405, $"{head.Method} is not for uploads", "Allow: PUT\r\n");
        }

        if (WlUrl.DescribeProblemOfName(head.Target, "object") is { } problem)
        {
            throw new HttpRefusal(404, problem);
        }

        if (head.ContentLength is not { } length)
        {
            throw new HttpRefusal(411, "send a Content-Length");
        }

        if (length == 0)
        {
            throw new HttpRefusal(422, "an object has at least one byte");
        }

        bool isNew = IsFree(head.Target);
        await using ObjectSink sink = await OpenAsync(head.Target, length, cancellation).ConfigureAwait(false);
        if (head.ExpectsContinue)
        {
            await connection
                .WriteAsync("HTTP/1.1 100 Continue\r\n\r\n"u8.ToArray(), cancellation).ConfigureAwait(false);
        }

        ReceivedContent received = await reader
            .ReadExactlyAsync(connection, sink, length, () => _ = IsFree(head.Target), cancellation)
            .ConfigureAwait(false);
        _made[sink.Target.Id] = true;
        received = received with { Target = $"{reception.Buffer.Device}/{head.Target}", HeadBytes = (ulong)headBytes };
        string text = $"{received.Target} {received.Bytes} bytes sha256 {received.Sha256}";
        string location = $"Location: /{Uri.EscapeDataString(head.Target)}\r\n";
        await AnswerAsync(connection, isNew ? 201 : 200, text, location, cancellation).ConfigureAwait(false);
        await LingerAsync(connection, pieces, cancellation).ConfigureAwait(false);
        return received;
    }

    // Who uploads has shown no token: what others keep on the device is not his to take back.
    private bool IsFree(string name)
    {
        DeviceObject? older = host.Objects.Find(reception.Buffer.Device, name);
        return older is null
            || (_made.ContainsKey(older.Id) || !defences.KeepsOthersObjects
                ? false
                : throw new HttpRefusal(409, $"{older} exists, and did not come this way"));
    }

    private async Task<ObjectSink> OpenAsync(string name, ulong length, CancellationToken cancellation)
    {
        try
        {
            return await ObjectSink.OpenAsync(host, reception, name, length, cancellation).ConfigureAwait(false);
        }
        catch (WayleaveException e)
        {
            throw new HttpRefusal(e.Errno is Errno.ENOSPC or Errno.ENOMEM ? 507 : 500, e.Message);
        }
    }

    // What is left of the batch when this returns is the beginning of the content.
    private async Task<(HttpHead Head, int Bytes)> ReadHeadAsync(
        ReceivedPieces pieces, ContentReader reader, CancellationToken cancellation)
    {
        byte[] bytes = new byte[HttpHead.BytesMax];
        int length = 0;
        while (true)
        {
            if (pieces.Pieces.Count == 0)
            {
                pieces.Return();
                if (!await reader.ReadAsync(cancellation).ConfigureAwait(false))
                {
                    throw new HttpRefusal(400, "the connection ended within the head");
                }
            }

            int before = length;
            length += await LookAsync(pieces, bytes.AsMemory(length), cancellation).ConfigureAwait(false);
            int end = HttpHead.FindEnd(bytes.AsSpan(0, length));
            if (end >= 0)
            {
                pieces.Skip((ulong)(end - before));
                return (HttpHead.TryParse(bytes.AsSpan(0, end), defences, out int status, out string problem)
                    ?? throw new HttpRefusal(status, problem), length);
            }

            if (length == bytes.Length)
            {
                throw new HttpRefusal(431, $"the head is longer than {HttpHead.BytesMax} bytes");
            }

            pieces.Skip((ulong)(length - before));
        }
    }

    private async ValueTask<int> LookAsync(ReceivedPieces pieces, Memory<byte> target, CancellationToken cancellation)
    {
        ReceivedPiece piece = pieces.Pieces[0];
        int length = (int)Math.Min(piece.LengthBytes, (ulong)Math.Min(LookBytes, target.Length));
        if (!piece.IsDevice)
        {
            pieces.Linear.Slice((int)piece.Offset, length).CopyTo(target);
            return length;
        }

        await host.Objects.ForEachPieceAsync(
            reception.Buffer,
            piece.Offset,
            (ulong)length,
            (offset, bytes) => bytes.CopyTo(target.Span[(int)(offset - piece.Offset)..]),
            cancellation).ConfigureAwait(false);
        return length;
    }

    private static async Task AnswerAsync(
        IDevmemConnection connection, int status, string text, string headers, CancellationToken cancellation)
    {
        string answer = $"HTTP/1.1 {status} {Phrase(status)}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            + $"Content-Length: {Encoding.UTF8.GetByteCount(text) + 1}\r\nConnection: close\r\n{headers}\r\n{text}\n";
        await connection.WriteAsync(Encoding.UTF8.GetBytes(answer), cancellation).ConfigureAwait(false);
        connection.Shutdown();
    }

    private static async Task LingerAsync(
        IDevmemConnection connection, ReceivedPieces pieces, CancellationToken cancellation)
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(s_lingerMax);
        try
        {
            pieces.Return();
            for (long left = LingerBytesMax; left > 0 && await pieces.ReadAsync(limit.Token).ConfigureAwait(false);)
            {
                left -= pieces.Pieces.Sum(p => (long)p.LengthBytes);
                pieces.Return();
            }
        }
        catch (Exception e) when (e is WayleaveException or OperationCanceledException or ObjectDisposedException)
        {
            // The answer is on its way; how the peer leaves does not change what became of its request.
            connection.Abort();
        }
    }

    private static string Phrase(int status) => status switch
    {
        200 => "OK",
        201 => "Created",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Bad Request",
    };

    /// <summary>A request that is answered by a failure.</summary>
    private sealed class HttpRefusal(int status, string reason, string headers = "") : Exception(reason)
    {
        public int Status => status;

        public string Reason => Message;

        public string Headers => headers;
    }
}
