using System.Globalization;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Wayleave.Core;
using Wayleave.Host.Topology;

namespace Wayleave.Host.Control;

/// <summary>
/// Asks a host for something. Every failure is a <see cref="WayleaveException"/> in one line that names the object and
/// the remedy: what the host refused keeps the host's words, and no wait is longer than
/// <see cref="ControlClientOptions.Timeout"/> unless the request says why. Threads may share one client.
/// </summary>
public sealed class ControlClient : IDisposable
{
    private const int AnswerBytesMax = 16 << 20;

    private readonly HostAddress _address;
    private readonly ControlClientOptions _options;
    private readonly HttpClient _http;

    private ControlClient(HostAddress address, ControlClientOptions options)
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

    private static ControlJson Json => ControlJson.Default;

    /// <summary>The host as the user named it.</summary>
    public string HostName => _address.Name;

    /// <summary>
    /// A client for the host of <paramref name="url"/>, for the Unix socket of the options, or, with neither, for the
    /// only host of this user on this machine. Connects with the first request.
    /// </summary>
    /// <exception cref="WayleaveException">Neither is given, and not exactly one host runs here.</exception>
    public static ControlClient Open(WlUrl? url, ControlClientOptions? options = null)
    {
        options ??= new ControlClientOptions();
        return new ControlClient(
            options.SocketPath is { } path ? HostAddress.OfSocket(path, options)
            : url is not null ? HostAddress.OfUrl(url, options)
            : HostAddress.OfOnlyHost(options),
            options);
    }

    public Task<HostDocument> GetHostAsync(CancellationToken cancellation = default) =>
        GetAsync("ask for its name", "/v1/host", Json.HostDocument, cancellation);

    public Task<DevicesDocument> GetDevicesAsync(CancellationToken cancellation = default) =>
        GetAsync("list devices", "/v1/devices", Json.DevicesDocument, cancellation);

    public Task<StatsDocument> GetStatsAsync(CancellationToken cancellation = default) =>
        GetAsync("read counters", "/v1/stats", Json.StatsDocument, cancellation);

    /// <summary>The host's PCI trees.</summary>
    public Task<TopologyDocument> GetTopologyAsync(CancellationToken cancellation = default) =>
        GetAsync("show its topology", "/v1/topology", TopologyJson.Default.TopologyDocument, cancellation);

    /// <summary>How every device reaches every other.</summary>
    public Task<RoutesDocument> GetRoutesAsync(CancellationToken cancellation = default) =>
        GetAsync("show its routes", "/v1/routes", TopologyJson.Default.RoutesDocument, cancellation);

    /// <summary>How one function reaches another's memory; each by name or PCI address.</summary>
    /// <exception cref="WayleaveException">ENODEV: the host has no such function.</exception>
    public Task<RouteDocument> GetRouteAsync(string owner, string client, CancellationToken cancellation = default)
    {
        string path = $"/v1/routes/{Uri.EscapeDataString(owner)}/{Uri.EscapeDataString(client)}";
        return GetAsync($"explain {owner} {client}", path, TopologyJson.Default.RouteDocument, cancellation);
    }

    /// <summary>What has crossed each link and route.</summary>
    public Task<LinksDocument> GetLinksAsync(CancellationToken cancellation = default) =>
        GetAsync("read its links", "/v1/links", TopologyJson.Default.LinksDocument, cancellation);

    /// <summary>
    /// Tries the routes between two devices with real bytes. A route that fails is an answer and no failure: see
    /// <see cref="ProbeDocument.Ok"/>.
    /// </summary>
    public Task<ProbeDocument> ProbeAsync(StartProbeDocument start, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(start);
        HttpContent body = ToContent(start, TopologyJson.Default.StartProbeDocument);
        return PostAsync(
            $"probe {start.One} {start.Other}", "/v1/probes", TopologyJson.Default.ProbeDocument, body, cancellation);
    }

    /// <summary>Everything that holds device memory, objects that are being written included.</summary>
    public Task<ObjectsDocument> GetObjectsAsync(CancellationToken cancellation = default) =>
        GetAsync("list objects", "/v1/objects", Json.ObjectsDocument, cancellation);

    /// <summary>A ready object.</summary>
    /// <exception cref="WayleaveException">ENOENT: there is none of that name.</exception>
    public Task<ObjectDocument> GetObjectAsync(string device, string name, CancellationToken cancellation = default) =>
        GetAsync($"find {device}/{name}", ObjectPath(device, name), Json.ObjectDocument, cancellation);

    /// <summary>
    /// Cleared memory under a name that appears with <see cref="CommitObjectAsync"/>. The host gives it up when no
    /// lease on it is asked for soon, and when the lease ends before the commit.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// ENODEV: no such device. ENOSPC: no room. EINVAL: a bad name or size.
    /// </exception>
    public Task<ObjectDocument> CreateObjectAsync(CreateObjectDocument create, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(create);
        HttpContent body = ToContent(create, Json.CreateObjectDocument);
        return PostAsync(
            $"create {create.Device}/{create.Name}", "/v1/objects", Json.ObjectDocument, body, cancellation);
    }

    /// <summary>Gives the object its name; an older object of that name is taken back first.</summary>
    /// <param name="id">From <see cref="CreateObjectAsync"/>.</param>
    /// <param name="sha256">What was sent, in hexadecimal; the host compares. Null to commit unchecked.</param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="WayleaveException">EIO: the content differs. ENODEV: it was taken back meanwhile.</exception>
    public Task<ObjectDocument> CommitObjectAsync(ulong id, string? sha256, CancellationToken cancellation = default)
    {
        HttpContent body = ToContent(new CommitObjectDocument { Sha256 = sha256 }, Json.CommitObjectDocument);
        return PostAsync($"commit object {id}", ObjectPath(id) + "/commit", Json.ObjectDocument, body, cancellation);
    }

    /// <summary>Gives an object up, whatever its state; answered by the proof.</summary>
    public Task<ProofDocument> DeleteObjectAsync(ulong id, CancellationToken cancellation = default) => SendAsync(
        $"delete object {id}",
        HttpMethod.Delete,
        ObjectPath(id),
        Json.ProofDocument,
        null,
        _options.WorkTimeout,
        cancellation);

    /// <summary>Has a drive of the host read a file of this machine into an object; returns when it is there.</summary>
    /// <exception cref="WayleaveException">
    /// EPERM: not by the Unix socket. EREMOTEIO: it would have to be staged. Or what the file or the device says.
    /// </exception>
    public Task<LoadedDocument> LoadAsync(
        string device, string name, LoadObjectDocument load, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(load);
        return SendAsync(
            $"load {load.Path} into {device}/{name}",
            HttpMethod.Post,
            ObjectPath(device, name) + "/load",
            Json.LoadedDocument,
            ToContent(load, Json.LoadObjectDocument),
            Timeout.InfiniteTimeSpan,
            cancellation);
    }

    /// <summary>Moves an object to system memory; returns when the copy is done.</summary>
    public Task<ObjectDocument> EvictAsync(string device, string name, CancellationToken cancellation = default) =>
        PostAsync(
            $"evict {device}/{name}", ObjectPath(device, name) + "/evict", Json.ObjectDocument, null, cancellation);

    /// <summary>Moves an object to VRAM; returns when the copy is done.</summary>
    public Task<ObjectDocument> RestoreAsync(string device, string name, CancellationToken cancellation = default) =>
        PostAsync(
            $"restore {device}/{name}", ObjectPath(device, name) + "/restore", Json.ObjectDocument, null, cancellation);

    /// <summary>
    /// Takes an object back. A proof that is not sufficient is an answer and no failure: see its grade.
    /// </summary>
    public Task<ProofDocument> RevokeAsync(
        string device, string name, RevokeObjectDocument revoke, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(revoke);
        HttpContent body = ToContent(revoke, Json.RevokeObjectDocument);
        TimeSpan timeout = TimeSpan.FromMilliseconds(revoke.TimeoutMs) + _options.Timeout;
        string path = ObjectPath(device, name) + "/revoke";
        return SendAsync(
            $"revoke {device}/{name}", HttpMethod.Post, path, Json.ProofDocument, body, timeout, cancellation);
    }

    /// <summary>The checksum of an object's bytes as they are now.</summary>
    public Task<DigestDocument> GetSha256Async(string device, string name, CancellationToken cancellation = default)
    {
        string path = ObjectPath(device, name) + "/sha256";
        return SendAsync(
            $"checksum {device}/{name}",
            HttpMethod.Get,
            path,
            Json.DigestDocument,
            null,
            _options.WorkTimeout,
            cancellation);
    }

    /// <summary>One more queue pair for a lease whose first went to ERR.</summary>
    public Task<ConnectionEndDocument> ReconnectAsync(
        ulong leaseId, ConnectionEndDocument peer, CancellationToken cancellation = default)
    {
        HttpContent body = ToContent(new ReconnectDocument { Peer = peer }, Json.ReconnectDocument);
        string path = string.Create(CultureInfo.InvariantCulture, $"/v1/leases/{leaseId}/connections");
        return PostAsync($"reconnect lease {leaseId}", path, Json.ConnectionEndDocument, body, cancellation);
    }

    /// <summary>
    /// Takes an object back, gives its memory to a new owner and marks it, to see whether anything still lands there.
    /// The audit lasts until the stream is disposed, somebody ends it, or one of the two ends dies.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// EBUSY: the proof was not sufficient; the memory is in quarantine.
    /// </exception>
    public Task<HeldAudit> StartAuditAsync(
        string device, string name, StartAuditDocument start, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(start);
        HttpContent body = ToContent(start, Json.StartAuditDocument);
        string path = ObjectPath(device, name) + "/audits";
        string what = $"audit {device}/{name}";
        return HoldAsync(what, path, body, _options.WorkTimeout, HeldAudit.OpenAsync, cancellation);
    }

    /// <summary>What an audit finds at this moment.</summary>
    public Task<AuditFindingsDocument> InspectAuditAsync(ulong id, CancellationToken cancellation = default) =>
        SendAsync(
        $"inspect audit {id}",
        HttpMethod.Get,
        AuditPath(id),
        Json.AuditFindingsDocument,
        null,
        _options.WorkTimeout,
        cancellation);

    /// <summary>Looks a last time and ends an audit; its memory is given up.</summary>
    public Task<AuditFindingsDocument> EndAuditAsync(ulong id, CancellationToken cancellation = default) => SendAsync(
        $"end audit {id}",
        HttpMethod.Delete,
        AuditPath(id),
        Json.AuditFindingsDocument,
        null,
        _options.WorkTimeout,
        cancellation);

    /// <summary>
    /// Borrows an object. The lease lasts until the stream is disposed, the host ends it, or one of the two ends dies;
    /// the host then destroys its queue pair, kills the key, and gives up an object that was not committed.
    /// </summary>
    public Task<HeldLease> LeaseAsync(
        ulong objectId, LeaseRequestDocument request, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(request);
        HttpContent body = ToContent(request, Json.LeaseRequestDocument);
        string path = ObjectPath(objectId) + "/leases";
        string what = $"lease object {objectId}";
        return HoldAsync(what, path, body, _options.Timeout, HeldLease.OpenAsync, cancellation);
    }

    /// <summary>
    /// Makes an object ready to be sent to another host. The transfer lasts until the stream is disposed, it is over,
    /// or one of the two ends dies.
    /// </summary>
    /// <param name="device">Of the object.</param>
    /// <param name="name">Of the object.</param>
    /// <param name="open">Which object is meant.</param>
    /// <param name="progress">
    /// Called with the bytes that have arrived, once <see cref="StartTransferAsync"/> was.
    /// </param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="WayleaveException">
    /// ENOENT: there is none of that name. ENODEV: it is another one now.
    /// </exception>
    public Task<HeldTransfer> OpenTransferAsync(
        string device,
        string name,
        OpenTransferDocument open,
        Action<ulong>? progress = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(open);
        HttpContent body = ToContent(open, Json.OpenTransferDocument);
        string path = ObjectPath(device, name) + "/transfers";
        return HoldAsync(
            $"send {device}/{name}",
            path,
            body,
            _options.Timeout,
            (lines, limit) => HeldTransfer.OpenAsync(lines, progress, limit),
            cancellation);
    }

    /// <summary>Sends, into memory that the other host has lent to the transfer's end.</summary>
    public Task<TransferDocument> StartTransferAsync(
        ulong id, StartTransferDocument start, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(start);
        HttpContent body = ToContent(start, Json.StartTransferDocument);
        string path = string.Create(CultureInfo.InvariantCulture, $"/v1/transfers/{id}/start");
        return PostAsync($"start transfer {id}", path, Json.TransferDocument, body, cancellation);
    }

    public void Dispose()
    {
        _http.Dispose();
        _address.Dispose();
    }

    /// <summary>What the host knows at once.</summary>
    private Task<T> GetAsync<T>(string what, string path, JsonTypeInfo<T> type, CancellationToken cancellation)
        where T : class => SendAsync(what, HttpMethod.Get, path, type, null, _options.Timeout, cancellation);

    /// <summary>What the host has to work for.</summary>
    private Task<T> PostAsync<T>(
        string what, string path, JsonTypeInfo<T> type, HttpContent? body, CancellationToken cancellation)
        where T : class => SendAsync(what, HttpMethod.Post, path, type, body, _options.WorkTimeout, cancellation);

    private Task<T> SendAsync<T>(
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
    /// <param name="timeout">Until the first line.</param>
    /// <param name="open">Reads the first line, and owns the lines if that succeeds.</param>
    /// <param name="cancellation">Ends the wait for the first line.</param>
    private Task<T> HoldAsync<T>(
        string what,
        string path,
        HttpContent body,
        TimeSpan timeout,
        Func<LineReader, CancellationToken, Task<T>> open,
        CancellationToken cancellation)
    {
        string operation = Describe(what);
        return WatchedAsync(
            operation,
            timeout,
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
        Task<bool> silence = timeout > _options.Timeout
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
            problem = JsonSerializer.Deserialize(answer, Json.ProblemDocument);
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

    private static ByteArrayContent ToContent<T>(T body, JsonTypeInfo<T> type)
    {
        ByteArrayContent content = new(JsonSerializer.SerializeToUtf8Bytes(body, type));
        content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
        return content;
    }

    private static string ObjectPath(string device, string name) =>
        $"/v1/objects/{Uri.EscapeDataString(device)}/{Uri.EscapeDataString(name)}";

    private static string ObjectPath(ulong id) => string.Create(CultureInfo.InvariantCulture, $"/v1/objects/{id}");

    private static string AuditPath(ulong id) => string.Create(CultureInfo.InvariantCulture, $"/v1/audits/{id}");
}
