using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Wayleave.Core;
using Wayleave.Host.Configuration;
using Wayleave.Host.Service;
using Wayleave.Linux;

namespace Wayleave.Host.Control;

/// <summary>
/// An HTTP/1.1 server on a TCP address and a Unix socket, with its token, its registration and its door. What it serves
/// is given to it; <see cref="ControlServer"/> gives it the API of a host.
/// </summary>
public sealed class ControlListener : IAsyncDisposable
{
    private readonly WebApplication _application;
    private readonly ControlToken _token;
    private readonly HostRegistration _registration;
    private readonly Admission _admission;
    private bool _disposed;

    private ControlListener(
        WebApplication application,
        IPEndPoint endPoint,
        string? socketPath,
        ControlToken token,
        HostRegistration registration,
        Admission admission)
    {
        (_application, EndPoint, SocketPath) = (application, endPoint, socketPath);
        (_token, _registration, _admission) = (token, registration, admission);
    }

    /// <summary>Where TCP listens; with the port that the system chose if the configuration said 0.</summary>
    public IPEndPoint EndPoint { get; }

    /// <summary>The Unix socket, or null.</summary>
    public string? SocketPath { get; }

    /// <summary>Where the token is; null if the user gave one.</summary>
    public string? TokenFile => _token.File;

    /// <summary>Starts to listen. When this throws, nothing is left behind.</summary>
    /// <param name="config">A valid configuration.</param>
    /// <param name="options">Limits.</param>
    /// <param name="map">Adds what is served.</param>
    /// <param name="cancellation">Ends the start.</param>
    /// <exception cref="WayleaveException">
    /// EADDRINUSE, EADDRNOTAVAIL, EACCES, or EBUSY for the name; says what to do.
    /// </exception>
    public static async Task<ControlListener> StartAsync(
        HostConfig config,
        ControlListenerOptions options,
        Action<IEndpointRouteBuilder> map,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(config);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(map);
        string directory = RuntimeDirectory.Open(options.EnvironmentVariables);
        HostRegistration registration = HostRegistration.Claim(directory, config.Name);
        ControlToken? token = null;
        WebApplication? application = null;
        try
        {
            token = MakeToken(config, directory);
            ActivatedSocket? activated = ActivatedSockets.Find(options.EnvironmentVariables).Control;
            string? socketPath = activated?.Path ?? PrepareSocket(config, directory);
            Admission admission = new();
            ListenOptions? tcp = null;
            application = Build(
                config,
                options,
                new Door(new Doorkeeper(token, options), admission),
                new UnixListener(socketPath, activated?.Descriptor),
                listen => tcp = listen);
            map(application);
            application.MapFallback(context => Problem.WriteAsync(
                context,
                StatusCodes.Status404NotFound,
                $"no such resource: {context.Request.Method} {context.Request.Path}"));
            await StartAsync(application, config, cancellation).ConfigureAwait(false);
            if (socketPath is not null && activated is null)
            {
                File.SetUnixFileMode(socketPath, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            }

            ControlListener listener = new(application, tcp!.IPEndPoint!, socketPath, token, registration, admission);
            registration.Publish(listener.Describe(config.Name));
            return listener;
        }
        catch
        {
            if (application is not null)
            {
                await application.DisposeAsync().ConfigureAwait(false);
            }

            token?.Dispose();
            registration.Dispose();
            throw;
        }
    }

    /// <summary>Requests that change something and have not ended, streams among them.</summary>
    public int Running => _admission.Running;

    /// <summary>
    /// Refuses what would begin something new, with ESHUTDOWN; everything else is served as before.
    /// </summary>
    /// <returns>Completes when all that was begun has ended.</returns>
    public Task DrainAsync() => _admission.Drain();

    /// <summary>
    /// Stops listening, ends the requests that run, and removes token, socket and registration. Disposing twice is
    /// fine.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (_disposed)
        {
            return;
        }

        _disposed = true;

        // The secret goes first: what follows can take as long as the slowest request.
        _token.Dispose();
        await _application.StopAsync().ConfigureAwait(false);
        await _application.DisposeAsync().ConfigureAwait(false);
        _registration.Dispose();
    }

    private static ControlToken MakeToken(HostConfig config, string directory)
    {
        if (config.Control.Token is not null)
        {
            return ControlToken.Share(config.Control.Token);
        }

        // We hold the name, so a token of that name in our own folder is a killed host's.
        string ours = Path.Combine(directory, config.Name + ".token");
        if (config.Control.TokenFile is null)
        {
            File.Delete(ours);
        }

        return ControlToken.Create(config.Control.TokenFile ?? ours);
    }

    private static string? PrepareSocket(HostConfig config, string directory)
    {
        if (config.Control.SocketPath == ControlConfig.None)
        {
            return null;
        }

        string path = config.Control.SocketPath ?? Path.Combine(directory, config.Name + ".sock");
        if (FileStatus.TryRead(path, out FileStatus status))
        {
            // A killed host leaves its socket, which then refuses connections. Whatever else has this name is not ours
            // to remove.
            if (status.Kind != FileKind.Socket || status.UserId != FileStatus.CurrentUserId || IsListening(path))
            {
                throw new WayleaveException(
                    Errno.EADDRINUSE,
                    $"listen on {path}",
                    "the file exists and is in use or not ours",
                    "name another by --socket");
            }

            File.Delete(path);
        }

        return path;
    }

    private static bool IsListening(string path)
    {
        using Socket probe = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
            return true;
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionRefused)
        {
            return false;
        }
    }

    private static WebApplication Build(
        HostConfig config,
        ControlListenerOptions options,
        Door door,
        UnixListener unix,
        Action<ListenOptions> onTcp)
    {
        // The empty builder: the slim one reads appsettings.json from the current folder and ASPNETCORE_ variables, and
        // either could make this server listen elsewhere.
        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
        builder.Services.AddRoutingCore();
        builder.Services.AddSingleton<IHostLifetime, NoLifetime>();
        builder.Services.Configure<HostOptions>(o => o.ShutdownTimeout = TimeSpan.FromSeconds(5));
        builder.WebHost.UseKestrelCore();
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Limits.MaxRequestBodySize = options.RequestBodyBytesMax;
            kestrel.Limits.MaxRequestHeadersTotalSize = options.RequestHeaderBytesMax;
            kestrel.Limits.MaxRequestHeaderCount = 64;
            kestrel.Limits.MaxRequestLineSize = 4096;
            kestrel.Limits.MaxConcurrentConnections = options.ConnectionsMax;
            kestrel.Limits.RequestHeadersTimeout = options.HeadersTimeout;
            kestrel.Limits.KeepAliveTimeout = options.IdleTimeout;
            kestrel.Listen(config.ControlAddress, config.Control.Port, listen =>
            {
                listen.Protocols = HttpProtocols.Http1;
                listen.Use(next => connection => door.Keeper.AdmitTcpAsync(connection, next));
                onTcp(listen);
            });
            if (unix.Descriptor is { } descriptor)
            {
                kestrel.ListenHandle((ulong)descriptor, AdmitUnix);
            }
            else if (unix.Path is not null)
            {
                kestrel.ListenUnixSocket(unix.Path, AdmitUnix);
            }
        });
        WebApplication application = builder.Build();
        application.Use((context, next) => ReportFailuresAsync(context, next, options.Log));
        application.Use(door.Keeper.AdmitRequestAsync);
        application.UseRouting();
        application.Use(door.Admission.AdmitAsync);
        return application;

        void AdmitUnix(ListenOptions listen)
        {
            listen.Protocols = HttpProtocols.Http1;
            listen.Use(next => connection => door.Keeper.AdmitUnixAsync(connection, next));
        }
    }

    private static async Task StartAsync(WebApplication application, HostConfig config, CancellationToken cancellation)
    {
        try
        {
            await application.StartAsync(cancellation).ConfigureAwait(false);
        }
        catch (Exception e) when (e is IOException or SocketException)
        {
            IPEndPoint wanted = new(config.ControlAddress, config.Control.Port);
            throw ErrnoMap.ToException(e, $"listen on {wanted}", ErrnoMap.ToErrno(e) switch
            {
                Errno.EADDRINUSE => "stop the other program, or choose another by --port or --address",
                Errno.EADDRNOTAVAIL => "hosts on one machine use 127.0.0.2, 127.0.0.3, ...: choose one by --address",
                Errno.EACCES => "ports below 1024 need root: choose another by --port",
                _ => null,
            });
        }
    }

    /// <summary>The one place where an exception of a request becomes its answer.</summary>
    private static async Task ReportFailuresAsync(HttpContext context, RequestDelegate next, TextWriter? log)
    {
        try
        {
            await next(context).ConfigureAwait(false);
        }
        catch (WayleaveException e) when (!context.Response.HasStarted)
        {
            await Problem.WriteAsync(context, e).ConfigureAwait(false);
        }
        catch (JsonException e) when (!context.Response.HasStarted)
        {
            string reason = e.Message.Split(" LineNumber", 2)[0];
            string operation = $"{context.Request.Method} {context.Request.Path}";
            reason = $"the body is not what it should be: {ErrnoMap.FirstLine(reason)}";
            WayleaveException refused = new(Errno.EINVAL, operation, reason);
            await Problem.WriteAsync(context, refused).ConfigureAwait(false);
        }
        catch (Microsoft.AspNetCore.Http.BadHttpRequestException e) when (!context.Response.HasStarted)
        {
            await Problem.WriteAsync(context, e.StatusCode, ErrnoMap.FirstLine(e.Message)).ConfigureAwait(false);
        }
        catch (Exception) when (context.RequestAborted.IsCancellationRequested)
        {
            // The client has gone and there is nobody to tell; what its request held was given back on the way here.
        }
        catch (Exception e)
        {
            log?.WriteLine($"wayleave: {context.Request.Method} {context.Request.Path}: {e}");
            if (context.Response.HasStarted)
            {
                context.Abort();
                return;
            }

            const int Status = StatusCodes.Status500InternalServerError;
            await Problem.WriteAsync(context, Status, "the host failed; its log says how").ConfigureAwait(false);
        }
    }

    private RegistrationDocument Describe(string name) => new()
    {
        Name = name,
        ProcessId = Environment.ProcessId,
        Address = EndPoint.Address.ToString(),
        Port = EndPoint.Port,
        Socket = SocketPath,
        TokenFile = TokenFile,
    };

    private sealed record Door(Doorkeeper Keeper, Admission Admission);

    /// <summary>A path to listen on, or a descriptor that listens there already; neither: no Unix socket.</summary>
    private sealed record UnixListener(string? Path, int? Descriptor);

    /// <summary>Signals belong to the program, which stops the host and with it this server.</summary>
    private sealed class NoLifetime : IHostLifetime
    {
        public Task WaitForStartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
    }
}
