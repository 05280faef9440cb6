using System.Globalization;
using System.Net.Sockets;
using System.Text.Json;
using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>What goes wrong between a client and a host, in words. Total: nothing is lost on the way.</summary>
internal static class ControlFailure
{
    public static WayleaveException NotAHost(string operation) =>
        new(Errno.EPROTO, operation, "what answers there is no wayleave host", "check the port");

    /// <summary>What the runtime threw, as what a user can act on.</summary>
    /// <param name="e">What was thrown.</param>
    /// <param name="operation">What was asked of which host.</param>
    /// <param name="timeout">How long the wait was, if it is over.</param>
    /// <param name="remedy">What to do when nobody listens.</param>
    /// <param name="cancellation">Of the caller.</param>
    public static Exception Translate(
        Exception e, string operation, TimeSpan timeout, string remedy, CancellationToken cancellation)
    {
        switch (e)
        {
            case WayleaveException:
                return e;
            case OperationCanceledException when cancellation.IsCancellationRequested:
                return new OperationCanceledException(e.Message, e, cancellation);
            case OperationCanceledException:
                string reason = string.Create(
                    CultureInfo.InvariantCulture, $"no answer for {timeout.TotalSeconds:0.#} s");
                return new WayleaveException(
                    Errno.ETIMEDOUT, operation, reason, "check that the host is not stopped or overloaded", e);
            case JsonException:
                return NotAHost(operation);
        }

        SocketException? socket = FindSocketException(e);
        Errno errno = socket is null ? Errno.EIO : ErrnoMap.ToErrno(socket.SocketErrorCode);
        return errno switch
        {
            Errno.ECONNREFUSED =>
                new HostUnavailableException(errno, operation, "nobody listens there", remedy, e),

            // A Unix socket that is not there: .NET says AddressNotAvailable or has no name for ENOENT.
            _ when socket is { NativeErrorCode: (int)Errno.ENOENT }
                or { SocketErrorCode: SocketError.AddressNotAvailable } =>
                new HostUnavailableException(Errno.ENOENT, operation, "there is no such socket", remedy, e),
            Errno.ENXIO => new WayleaveException(
                errno, operation, "no machine has this name", "check the name, or give the address", e),
            Errno.EHOSTUNREACH or Errno.ENETUNREACH or Errno.ETIMEDOUT =>
                new WayleaveException(
                    errno, operation, ErrnoMap.Describe(errno), "check the address and the network", e),
            _ when socket is not null && errno is not (Errno.ECONNRESET or Errno.EPIPE) =>
                new WayleaveException(errno, operation, socket.Message, innerException: e),
            _ when e is HttpRequestException { HttpRequestError: HttpRequestError.InvalidResponse } =>
                NotAHost(operation),
            _ when e is HttpRequestException or HttpIOException or IOException => new WayleaveException(
                Errno.ECONNRESET,
                operation,
                "the host died or cut the connection",
                "look at its output, then try again",
                e),
            _ => e,
        };
    }

    private static SocketException? FindSocketException(Exception? e)
    {
        while (e is not null and not SocketException)
        {
            e = e.InnerException;
        }

        return e as SocketException;
    }
}
