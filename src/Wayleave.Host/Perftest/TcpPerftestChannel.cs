using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Host.Perftest;

/// <summary>perftest's exchange over TCP: no frames, every item has a length that both know.</summary>
internal sealed class TcpPerftestChannel : IPerftestChannel
{
    // A host that has lost its power closes nothing.
    private static readonly TimeSpan s_silenceMin = TimeSpan.FromSeconds(8);
    private static readonly TimeSpan s_silenceMax = TimeSpan.FromHours(1);

    private readonly Socket _socket;

    private TcpPerftestChannel(Socket socket, TimeSpan patience)
    {
        _socket = socket;
        _socket.NoDelay = true;
        TcpLiveness.Limit(
            _socket, patience < s_silenceMin ? s_silenceMin : patience > s_silenceMax ? s_silenceMax : patience);
    }

    public bool IsText => true;

    /// <summary>Waits for one client.</summary>
    /// <param name="own">Where.</param>
    /// <param name="listening">Called when a client may come.</param>
    /// <param name="patience">How long its host may be silent then.</param>
    /// <param name="cancellation">Ends the wait.</param>
    public static async Task<TcpPerftestChannel> AcceptAsync(
        IPEndPoint own, Action listening, TimeSpan patience, CancellationToken cancellation)
    {
        using Socket listener = new(own.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        listener.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.ReuseAddress, true);
        try
        {
            listener.Bind(own);
            listener.Listen(1);
        }
        catch (SocketException e)
        {
            throw new WayleaveException(
                ErrnoOf(e), $"listen at {own}", e.Message, "choose another port by --port", e);
        }

        listening();
        return new TcpPerftestChannel(await listener.AcceptAsync(cancellation).ConfigureAwait(false), patience);
    }

    /// <summary>
    /// Connects to a server, and gives up one that does not answer within the patience; its host may not be silent for
    /// longer afterwards either.
    /// </summary>
    public static async Task<TcpPerftestChannel> ConnectAsync(
        IPAddress own, IPEndPoint server, TimeSpan patience, CancellationToken cancellation)
    {
        Socket socket = new(server.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(patience);
        try
        {
            socket.Bind(new IPEndPoint(own, 0));
            await socket.ConnectAsync(server, limit.Token).ConfigureAwait(false);
            return new TcpPerftestChannel(socket, patience);
        }
        catch (OperationCanceledException e) when (!cancellation.IsCancellationRequested)
        {
            socket.Dispose();
            throw new WayleaveException(
                Errno.ETIMEDOUT,
                $"connect to {server} from {own}",
                $"nobody answers for {patience.TotalSeconds:0.#} s",
                "is the server there, and its port the same?",
                e);
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw new WayleaveException(
                ErrnoOf(e),
                $"connect to {server} from {own}",
                e.Message,
                "is the server there, and its port the same?",
                e);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    public async Task SendAsync(ReadOnlyMemory<byte> item, CancellationToken cancellation)
    {
        try
        {
            while (!item.IsEmpty)
            {
                int sent = await _socket.SendAsync(item, SocketFlags.None, cancellation).ConfigureAwait(false);
                item = item[sent..];
            }
        }
        catch (SocketException e)
        {
            throw Failed(e);
        }
    }

    public async Task<int> ReceiveAsync(Memory<byte> item, CancellationToken cancellation)
    {
        int length = 0;
        while (length < item.Length)
        {
            int received;
            try
            {
                received = await _socket.ReceiveAsync(item[length..], SocketFlags.None, cancellation)
                    .ConfigureAwait(false);
            }
            catch (SocketException e)
            {
                throw Failed(e);
            }

            if (received == 0)
            {
                return length == 0 ? 0 : throw new WayleaveException(
                    Errno.EPROTO, "perftest", $"the peer has ended after {length} of {item.Length} bytes");
            }

            length += received;
        }

        return length;
    }

    public async Task WatchAsync(CancellationToken cancellation)
    {
        try
        {
            if (await _socket.ReceiveAsync(new byte[1], SocketFlags.Peek, cancellation).ConfigureAwait(false) != 0)
            {
                // Its next item: it has sent all that this side waits for, and will look for an answer.
                await Task.Delay(Timeout.InfiniteTimeSpan, cancellation).ConfigureAwait(false);
            }
        }
        catch (SocketException)
        {
            // A reset, or a host that is silent, is an end as well.
        }
    }

    public void Abandon()
    {
        // Closing a socket waits for nobody.
    }

    public ValueTask DisposeAsync()
    {
        _socket.Dispose();
        return ValueTask.CompletedTask;
    }

    private static WayleaveException Failed(SocketException e) =>
        new(ErrnoOf(e), "perftest", $"the exchange with the peer has ended: {e.Message}", null, e);

    private static Errno ErrnoOf(SocketException e) => e.SocketErrorCode switch
    {
        SocketError.ConnectionRefused => Errno.ECONNREFUSED,
        SocketError.AddressAlreadyInUse => Errno.EADDRINUSE,
        SocketError.AddressNotAvailable => Errno.EADDRNOTAVAIL,
        SocketError.TimedOut => Errno.ETIMEDOUT,
        _ => Errno.ECONNRESET,
    };
}
