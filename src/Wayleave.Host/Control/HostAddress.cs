using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Host.Control;

/// <summary>
/// Where a host is and how to get in: resolved once, at the first connection. A name with several addresses means the
/// first that answers; the Host header then names that address, because a host accepts no names for itself but
/// localhost.
/// </summary>
internal sealed class HostAddress : IDisposable
{
    private static readonly TimeSpan s_silenceMax = TimeSpan.FromSeconds(8);

    private readonly WlUrl? _url;
    private readonly string? _socketPath;
    private readonly ControlClientOptions _options;
    private readonly SemaphoreSlim _resolving = new(1, 1);
    private EndPoint? _endPoint;
    private Socket? _spare; // the connection by which the address was found

    private HostAddress(string name, WlUrl? url, string? socketPath, ControlClientOptions options)
    {
        (Name, _url, _socketPath, _options) = (name, url, socketPath, options);
        Remedy = url is null ? "start it again: wayleave host"
            : IPAddress.TryParse(url.Host, out _) ? $"start it: wayleave host --address {url.Host}{DescribePort(url)}"
            : $"start it there: wayleave host{DescribePort(url)}";
    }

    /// <summary>The host as the user named it.</summary>
    public string Name { get; }

    /// <summary>What to do when nobody listens.</summary>
    public string Remedy { get; }

    /// <summary>The Authorization header's token, or null. Known after <see cref="ResolveAsync"/>.</summary>
    public string? Token { get; private set; }

    /// <summary>The authority for the request line. Known after <see cref="ResolveAsync"/>.</summary>
    public Uri Base { get; private set; } = new("http://localhost");

    public static HostAddress OfUrl(WlUrl url, ControlClientOptions options) => new(url.Authority, url, null, options);

    public static HostAddress OfSocket(string path, ControlClientOptions options) => new(path, null, path, options);

    /// <summary>The only host of this user that runs on this machine.</summary>
    /// <exception cref="HostUnavailableException">None runs.</exception>
    /// <exception cref="WayleaveException">EINVAL: several run; their URLs are named.</exception>
    public static HostAddress OfOnlyHost(ControlClientOptions options)
    {
        const string Operation = "find the host";
        IReadOnlyList<RegistrationDocument> hosts = HostRegistration.List(
            RuntimeDirectory.Locate(options.EnvironmentVariables));
        if (hosts.Count == 0)
        {
            throw new HostUnavailableException(
                Errno.ENOENT, Operation, "no host of yours runs here", "start one: wayleave host");
        }

        if (hosts.Count > 1)
        {
            string urls = string.Join(", ", hosts.Select(h => WlUrl.Create(h.Address, h.Port)));
            throw new WayleaveException(
                Errno.EINVAL, Operation, $"{hosts.Count} hosts run here", $"name one of {urls}");
        }

        return hosts[0].Socket is { } socket
            ? new HostAddress(hosts[0].Name, null, socket, options)
            : OfUrl(WlUrl.Create(hosts[0].Address, hosts[0].Port), options);
    }

    /// <summary>Finds the address and the token. Later calls return at once.</summary>
    public async Task ResolveAsync(CancellationToken cancellation)
    {
        await _resolving.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            if (_endPoint is not null)
            {
                return;
            }

            if (_url is null)
            {
                _endPoint = new UnixDomainSocketEndPoint(_socketPath!);
                return;
            }

            IPEndPoint found = await FindAsync(_url, cancellation).ConfigureAwait(false);
            Token = FindToken(found);
            Base = new UriBuilder("http", FormatHost(found.Address), found.Port).Uri;
            _endPoint = found;
        }
        finally
        {
            _resolving.Release();
        }
    }

    /// <summary>One connection, for the HTTP client, which owns it from then on.</summary>
    public async ValueTask<Stream> ConnectAsync(CancellationToken cancellation)
    {
        Socket socket = Interlocked.Exchange(ref _spare, null)
            ?? await OpenAsync(_endPoint!, cancellation).ConfigureAwait(false);
        return new NetworkStream(socket, ownsSocket: true);
    }

    public void Dispose()
    {
        _spare?.Dispose();
        _resolving.Dispose();
    }

    private async Task<IPEndPoint> FindAsync(WlUrl url, CancellationToken cancellation)
    {
        if (IPAddress.TryParse(url.Host, out IPAddress? literal))
        {
            return new IPEndPoint(literal, url.Port);
        }

        IPAddress[] addresses = await Dns.GetHostAddressesAsync(url.Host, cancellation).ConfigureAwait(false);
        for (int i = 0; ; i++)
        {
            IPEndPoint candidate = new(addresses[i], url.Port);
            try
            {
                _spare = await OpenAsync(candidate, cancellation).ConfigureAwait(false);
                return candidate;
            }
            catch (SocketException) when (i + 1 < addresses.Length)
            {
                // The next address may answer; the last one's failure is reported.
            }
        }
    }

    private static async Task<Socket> OpenAsync(EndPoint endPoint, CancellationToken cancellation)
    {
        bool isUnix = endPoint is UnixDomainSocketEndPoint;
        ProtocolType protocol = isUnix ? ProtocolType.Unspecified : ProtocolType.Tcp;
        Socket socket = new(endPoint.AddressFamily, SocketType.Stream, protocol);
        try
        {
            if (!isUnix)
            {
                socket.NoDelay = true;
            }

            await socket.ConnectAsync(endPoint, cancellation).ConfigureAwait(false);
            TcpLiveness.Limit(socket, s_silenceMax);
            return socket;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    private string? FindToken(IPEndPoint endPoint)
    {
        if (_options.TokenFile is not null)
        {
            return ControlToken.Read(_options.TokenFile);
        }

        if (_options.EnvironmentVariables("WAYLEAVE_TOKEN") is { Length: > 0 } token)
        {
            return token;
        }

        if (_options.EnvironmentVariables("WAYLEAVE_TOKEN_FILE") is { Length: > 0 } file)
        {
            return ControlToken.Read(file);
        }

        string address = endPoint.Address.ToString();
        return HostRegistration.List(RuntimeDirectory.Locate(_options.EnvironmentVariables))
            .FirstOrDefault(h => h.Address == address && h.Port == endPoint.Port) is { TokenFile: { } registered }
            ? ControlToken.Read(registered)
            : null;
    }

    private static string FormatHost(IPAddress address) =>
        address.AddressFamily == AddressFamily.InterNetworkV6 ? $"[{address}]" : address.ToString();

    private static string DescribePort(WlUrl url) =>
        url.Port == WlUrl.DefaultPort ? "" : FormattableString.Invariant($" --port {url.Port}");
}
