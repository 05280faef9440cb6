using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// How requests reach a host: the connection, the limits, the watch over a host that works for long, and the
/// translation of every failure into one <see cref="WayleaveException"/>. Threads may share it.
/// </summary>
internal sealed class ControlChannel : IDisposable
{
    private const int AnswerBytesMax = 16 << 20;

    private readonly HostAddress _address;
    private readonly ControlClientOptions _options;
    private readonly HttpClient _http;

    public ControlChannel(HostAddress address, ControlClientOptions options)
    {
        (_address, _options) = (address, options);
        SocketsHttpHandler handler = new()
        {
            // The token goes to the host and nowhere else.
            UseProxy = false,
            AllowAutoRedirect = false,
            UseCookies = false,
            MaxResponseHeadersLength = 16,
            PooledConnectionIdleTimeout = TimeSpan.FromSeconds(30),
            ConnectCallback = (_, cancellation) => _address.ConnectAsync(cancellation),
        };
        _http = new HttpClient(handler)
        {
            Timeout = Timeout.InfiniteTimeSpan, // each request has its own
            MaxResponseContentBufferSize = AnswerBytesMax,
        };
    }

    /// <summary>The host as the user named it.</summary>
    public string HostName => _address.Name;

    public ControlClientOptions Options => _options;

    public void Dispose()
    {
        _http.Dispose();
        _address.Dispose();
    }

    /// <summary>What the host knows at once.</summary>
    public Task<T> GetAsync<T>(string what, string path, JsonTypeInfo<T> type, CancellationToken cancellation)
        where T : class => SendAsync(what, HttpMethod.Get, path, type, null, _options.Timeout, cancellation);

    /// <summary>What the host has to work for.</summary>
    public Task<T> PostAsync<T>(
        string what, string path, JsonTypeInfo<T> type, HttpContent? body, CancellationToken cancellation)
        where T : class => SendAsync(what, HttpMethod.Post, path, type, body, _options.WorkTimeout, cancellation);

    /// <summary>One request and its answer.</summary>
    public Task<T> SendAsync<T>(
        string what,
        HttpMethod method,
        string path,
        JsonTypeInfo<T> type,
        HttpContent? body,
        TimeSpan timeout,
        CancellationToken cancellation)
        where T : class
    {
        string operation = Describe(what);
        return WatchedAsync(
            operation,
            timeout,
            async limit =>
            {
                using HttpResponseMessage response = await SendRawAsync(
                    method, path, body, limit).ConfigureAwait(false);
                await ThrowIfRefusedAsync(response, operation, limit).ConfigureAwait(false);
                byte[] answer = await response.Content.ReadAsByteArrayAsync(limit).ConfigureAwait(false);
                return JsonSerializer.Deserialize(answer, type) ?? throw ControlFailure.NotAHost(operation);
            },
            cancellation);
    }

    /// <summary>
    /// Asks for something that the host keeps for us for as long as the stream lives on which it answers.
    /// </summary>
    /// <param name="what">For failures.</param>
    /// <param name="path">Where to post.</param>
    /// <param name="body">What to post.</param>
    /// <param name="open">Reads the first line, and owns the lines if that succeeds.</param>
    /// <param name="cancellation">Ends the wait for the first line.</param>
    /// <param name="timeout">
    /// Until the first line; null for <see cref="ControlClientOptions.WorkTimeout"/>, since memory may have to be made
    /// ready first.
    /// </param>
    public Task<T> HoldAsync<T>(
        string what,
        string path,
        HttpContent body,
        Func<LineReader, CancellationToken, Task<T>> open,
        CancellationToken cancellation,
        TimeSpan? timeout = null)
    {
        string operation = Describe(what);
        return WatchedAsync(
            operation,
            timeout ?? _options.WorkTimeout,
            async limit =>
            {
                HttpResponseMessage response =
                    await SendRawAsync(HttpMethod.Post, path, body, limit).ConfigureAwait(false);
                try
                {
                    await ThrowIfRefusedAsync(response, operation, limit).ConfigureAwait(false);
                    LineReader lines = await LineReader
                        .OpenAsync(response, operation, _options.Timeout, limit).ConfigureAwait(false);
                    return await open(lines, limit).ConfigureAwait(false);
                }
                catch
                {
                    response.Dispose();
                    throw;
                }
            },
            cancellation);
    }

    /// <summary>Runs a request with its limit, and with a watch over the host while it works for long.</summary>
    private async Task<T> WatchedAsync<T>(
        string operation,
        TimeSpan timeout,
        Func<CancellationToken, Task<T>> request,
        CancellationToken cancellation)
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(timeout);
        using CancellationTokenSource done = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        Task<bool> silence = timeout > _options.Timeout || timeout == Timeout.InfiniteTimeSpan
            ? WatchForSilenceAsync(limit, done.Token)
            : Task.FromResult(false);
        try
        {
            return await request(limit.Token).ConfigureAwait(false);
        }
        catch (Exception e)
        {
            await done.CancelAsync().ConfigureAwait(false);
            TimeSpan waited = await silence.ConfigureAwait(false) ? _options.Timeout : timeout;
            throw ControlFailure.Translate(e, operation, waited, _address.Remedy, cancellation);
        }
        finally
        {
            await done.CancelAsync().ConfigureAwait(false);
            await silence.ConfigureAwait(false);
        }
    }

    /// <summary>Asks a host that works on a request, again and again, whether it is still there.</summary>
    /// <param name="request">Cancelled when the host does not answer.</param>
    /// <param name="done">The request has ended.</param>
    /// <returns>Whether the host fell silent.</returns>
    private async Task<bool> WatchForSilenceAsync(CancellationTokenSource request, CancellationToken done)
    {
        while (true)
        {
            using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(done);
            try
            {
                await Task.Delay(_options.ProbeInterval, done).ConfigureAwait(false);
                limit.CancelAfter(_options.Timeout);
                (await SendRawAsync(HttpMethod.Get, "/v1/host", null, limit.Token).ConfigureAwait(false)).Dispose();
            }
            catch (OperationCanceledException)
            {
                if (done.IsCancellationRequested)
                {
                    return false;
                }

                await request.CancelAsync().ConfigureAwait(false);
                return true;
            }
            catch (Exception e) when (e is HttpRequestException or IOException or SocketException)
            {
                return false; // the request itself meets the same failure and tells it
            }
        }
    }

    private async Task<HttpResponseMessage> SendRawAsync(
        HttpMethod method, string path, HttpContent? body, CancellationToken cancellation)
    {
        await _address.ResolveAsync(cancellation).ConfigureAwait(false);
        using HttpRequestMessage request = new(method, new Uri(_address.Base, path)) { Content = body };
        if (_address.Token is { } token)
        {
            request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
        }

        return await _http
            .SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancellation).ConfigureAwait(false);
    }

    private string Describe(string what) => $"{what} on {_address.Name}";

    /// <summary>Turns an answer that is no success into the exception that the host meant.</summary>
    private async Task ThrowIfRefusedAsync(
        HttpResponseMessage response, string operation, CancellationToken cancellation)
    {
        if (response.IsSuccessStatusCode)
        {
            return;
        }

        if (response.StatusCode == HttpStatusCode.Unauthorized)
        {
            throw new WayleaveException(
                Errno.EACCES,
                operation,
                _address.Token is null ? "it needs a token and none is known" : "its token is another",
                "give the file that the host named when it started: --token-file FILE");
        }

        ProblemDocument? problem = null;
        if (response.Content.Headers.ContentType?.MediaType == Problem.ContentType)
        {
            byte[] answer = await response.Content.ReadAsByteArrayAsync(cancellation).ConfigureAwait(false);
            problem = JsonSerializer.Deserialize(answer, ControlJson.Default.ProblemDocument);
        }

        if (problem is null)
        {
            throw ControlFailure.NotAHost(operation);
        }

        // The host's operation is more exact than ours; where it is reached is what it cannot know.
        throw Enum.TryParse(problem.Errno, out Errno errno) && problem.Reason is { } reason
            ? new WayleaveException(errno, $"{_address.Name}: {problem.Operation}", reason, problem.Remedy)
            : new WayleaveException(Errno.EREMOTEIO, operation, problem.Detail);
    }

    /// <summary>A document as a body.</summary>
    public static ByteArrayContent ToContent<T>(T body, JsonTypeInfo<T> type)
    {
        ByteArrayContent content = new(JsonSerializer.SerializeToUtf8Bytes(body, type));
        content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
        return content;
    }
}
