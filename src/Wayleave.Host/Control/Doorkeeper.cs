using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Connections.Features;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.Extensions.Primitives;
using Wayleave.Linux;

namespace Wayleave.Host.Control;

// Who gets in:
//
//   Unix socket   the peer's uid is ours or root's, as the kernel recorded it. Nobody else's bytes are even read.
//   TCP           the token, always, also from loopback: every user of this machine reaches loopback.
//   both          the Host header is an address of this machine or localhost: a name that an attacker's DNS points at
//                 us is neither. The Origin header is absent or ours: a page in a browser sends its own.
//
// A wrong token learns nothing: the answer is the same for every path and method, and is given before anything else is
// looked at.

/// <summary>Decides who gets in, before any request is looked at.</summary>
internal sealed class Doorkeeper(ControlToken token, ControlListenerOptions options)
{
    private const string Scheme = "Bearer ";
    private const string Refused = "a valid token is needed: Authorization: Bearer TOKEN";

    private static readonly object s_localProcess = new();

    private bool Checks(ControlDefences defence) => (options.Defences & defence) != 0;

    /// <summary>Admits a connection on the Unix socket, or drops it.</summary>
    public Task AdmitUnixAsync(ConnectionContext connection, ConnectionDelegate next)
    {
        Socket socket = connection.Features.GetRequiredFeature<IConnectionSocketFeature>().Socket;
        uint user = options.PeerUserId(socket);
        if (Checks(ControlDefences.PeerUser) && user != 0 && user != FileStatus.CurrentUserId)
        {
            connection.Abort(new ConnectionAbortedException($"user {user} may not use this socket"));
            return Task.CompletedTask;
        }

        connection.Items[s_localProcess] = UnixPeer.Of(socket).ProcessId;
        return next(connection);
    }

    /// <summary>Prepares a connection on TCP; its requests are checked one by one.</summary>
    public Task AdmitTcpAsync(ConnectionContext connection, ConnectionDelegate next)
    {
        Socket socket = connection.Features.GetRequiredFeature<IConnectionSocketFeature>().Socket;
        TcpLiveness.Limit(socket, options.PeerSilenceMax);
        return next(connection);
    }

    /// <summary>
    /// Whether a request came by the Unix socket, so from a user whose files the host may read anyhow.
    /// </summary>
    public static bool IsLocalUser(HttpContext context) =>
        context.Features.GetRequiredFeature<IConnectionItemsFeature>().Items.ContainsKey(s_localProcess);

    /// <summary>
    /// The process at the other end of the Unix socket, for the caller to dispose; null for a request that came by TCP,
    /// for a process that has ended, and where the kernel has no pidfd.
    /// </summary>
    public static PidFd? OpenLocalProcess(HttpContext context)
    {
        if (context.Features.GetRequiredFeature<IConnectionItemsFeature>().Items[s_localProcess] is not int process)
        {
            return null;
        }

        try
        {
            PidFd opened = PidFd.Open(process);
            if (!context.RequestAborted.IsCancellationRequested)
            {
                return opened; // the connection is up, so that the number still means who made it
            }

            opened.Dispose();
        }
        catch (LinuxException e) when (e.Errno is Core.Errno.ESRCH or Core.Errno.ENOSYS)
        {
            // See above.
        }

        return null;
    }

    /// <summary>
    /// Who asks, for people: <c>process 4711</c>, as the kernel recorded it when the socket was connected, or where a
    /// TCP connection comes from.
    /// </summary>
    public static string Describe(HttpContext context) =>
        context.Features.GetRequiredFeature<IConnectionItemsFeature>().Items.TryGetValue(
            s_localProcess, out object? process)
            ? string.Create(CultureInfo.InvariantCulture, $"process {process}")
            : $"client {context.Connection.RemoteIpAddress}:{context.Connection.RemotePort}";

    /// <summary>Admits a request, or answers it.</summary>
    public Task AdmitRequestAsync(HttpContext context, RequestDelegate next)
    {
        if (!IsLocalUser(context) && Checks(ControlDefences.Token) && !HasToken(context.Request.Headers.Authorization))
        {
            context.Response.Headers.WWWAuthenticate = "Bearer";
            return RefuseAsync(context, StatusCodes.Status401Unauthorized, Refused);
        }

        if (Checks(ControlDefences.HostHeader) && !IsThisMachine(context.Request.Host.Host, context))
        {
            return RefuseAsync(context, StatusCodes.Status403Forbidden, "the Host header is no address of this host");
        }

        if (Checks(ControlDefences.OriginHeader) && !IsOurOrigin(context))
        {
            return RefuseAsync(
                context, StatusCodes.Status403Forbidden, "the request comes from a page of another origin");
        }

        return next(context);
    }

    private static Task RefuseAsync(HttpContext context, int status, string detail)
    {
        // The body is not worth reading.
        context.Response.Headers.Connection = "close";
        return Problem.WriteAsync(context, status, detail);
    }

    private bool HasToken(StringValues authorization) =>
        authorization is [{ } value]
        && value.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase)
        && token.Matches(value[Scheme.Length..]);

    private static bool IsThisMachine(string name, HttpContext context) =>
        name.Equals("localhost", StringComparison.OrdinalIgnoreCase)
        || (IPAddress.TryParse(name.Trim('[', ']'), out IPAddress? address)
            && address.Equals(context.Connection.LocalIpAddress));

    private static bool IsOurOrigin(HttpContext context)
    {
        StringValues origin = context.Request.Headers.Origin;
        return origin.Count == 0
            || (origin is [{ } value]
                && Uri.TryCreate(value, UriKind.Absolute, out Uri? uri)
                && uri.Scheme == "http"
                && IsThisMachine(uri.Host, context)
                && uri.Port == context.Connection.LocalPort);
    }
}
