using System.Diagnostics;
using Wayleave.Client.Wire;
using Wayleave.Linux;

namespace Wayleave.Client;

/// <summary>
/// A queue pair of the host's NIC (RC). A peer reaches by it what this connection has registered, and this program what
/// the peer has; neither reaches anything else. Requests are queued by the host, in order, 64 at most of sends and of
/// receives: a request has its slot until its completion was taken. Disposing destroys it with all that is queued;
/// disposing twice is fine.
/// </summary>
public sealed class ClientQueuePair : IDisposable
{
    /// <summary>Pieces of memory of a request, at most.</summary>
    public const int PiecesMax = 4;

    // The host does nothing else for this connection meanwhile, and neither do other threads.
    private static readonly TimeSpan s_question = TimeSpan.FromMilliseconds(50);

    private readonly BrokerClient _client;
    private readonly uint _number;
    private int _isClosed;

    internal ClientQueuePair(BrokerClient client, uint number, ClientRdmaEnd local) =>
        (_client, _number, Local) = (client, number, local);

    /// <summary>Our end, for the peer.</summary>
    public ClientRdmaEnd Local { get; }

    /// <summary>Connects it to a peer, once.</summary>
    /// <exception cref="BrokerException">EINVAL: the numbers make no sense, or it is connected.</exception>
    public void Connect(ClientRdmaEnd peer)
    {
        ArgumentNullException.ThrowIfNull(peer);
        ArgumentOutOfRangeException.ThrowIfNotEqual(peer.Gid.Length, 16);
        _client.Ask("connect a queue pair", BrokerOperation.ConnectQueuePair, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteBytes(peer.Gid.Span);
            body.WriteUInt32(peer.UdpPort);
            body.WriteUInt32(peer.QueuePair);
            body.WriteUInt32(peer.Psn);
            body.WriteUInt32((uint)peer.PathMtuBytes);
            body.WriteUInt32((uint)peer.ReceiveBufferBytes);
        });
    }

    /// <summary>
    /// Queues a request (<c>ibv_post_send</c>). What is wrong with its keys, rights or ranges is said by its
    /// completion, after which the queue pair is in error.
    /// </summary>
    /// <param name="request">What is to be done.</param>
    /// <param name="pieces">
    /// Local memory: read from, or with <see cref="ClientWorkOpcode.Read"/> and atomics written to. It belongs to the
    /// request until its completion.
    /// </param>
    /// <exception cref="BrokerException">
    /// EINVAL: it is not connected, or more than 2 GiB. ENOMEM: the queue is full: take completions. ESHUTDOWN: the
    /// host is stopping; it waits for what was posted before, and for its completions to be taken.
    /// </exception>
    public void Post(ClientWorkRequest request, params ReadOnlySpan<ClientPiece> pieces)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pieces.Length, PiecesMax);
        ClientPiece[] all = [.. pieces];
        _client.Ask("post a request", BrokerOperation.PostSend, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32((uint)request.Opcode);
            body.WriteUInt32((uint)request.Flags);
            body.WriteUInt32(request.Immediate);
            body.WriteUInt64(request.Id);
            body.WriteUInt64(request.RemoteAddress);
            body.WriteUInt32(request.RemoteKey);
            body.WriteUInt32(0);
            body.WriteUInt64(request.CompareOrAdd);
            body.WriteUInt64(request.Swap);
            Write(ref body, all);
        });
    }

    /// <summary>Queues a receive (<c>ibv_post_recv</c>) for a SEND of the peer, or a WRITE with a number.</summary>
    /// <param name="id">Comes back in the completion.</param>
    /// <param name="pieces">
    /// Where it goes, of regions with LocalWrite; belongs to the request until its completion.
    /// </param>
    /// <exception cref="BrokerException">As of <see cref="Post"/>, but a host that is stopping takes it.</exception>
    public void PostReceive(ulong id, params ReadOnlySpan<ClientPiece> pieces)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pieces.Length, PiecesMax);
        ClientPiece[] all = [.. pieces];
        _client.Ask("post a receive", BrokerOperation.PostReceive, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt64(id);
            Write(ref body, all);
        });
    }

    /// <summary>
    /// Takes completions (<c>ibv_poll_cq</c>), of sends and receives, in order; waits for the first. Other threads of
    /// the connection have their turn every 50 ms.
    /// </summary>
    /// <param name="timeout">Relative, or <see cref="Timeout.InfiniteTimeSpan"/>; zero only looks.</param>
    /// <returns>At least one, unless the time is up.</returns>
    /// <exception cref="BrokerException">ECONNRESET: the host has ended. ENODEV: the NIC has left.</exception>
    public IReadOnlyList<ClientCompletion> TakeCompletions(TimeSpan timeout)
    {
        long start = Stopwatch.GetTimestamp();
        List<ClientCompletion> taken = [];
        while (true)
        {
            TimeSpan left = timeout == Timeout.InfiniteTimeSpan
                ? s_question
                : timeout - Stopwatch.GetElapsedTime(start);
            bool isLast = timeout != Timeout.InfiniteTimeSpan && left <= s_question;
            TimeSpan wait = isLast ? left : s_question;
            _client.Ask("take completions", BrokerOperation.TakeCompletions, (ref BrokerWriter body) =>
            {
                body.WriteUInt32(_number);
                body.WriteUInt32((uint)Math.Ceiling(Math.Max(0, wait.TotalMilliseconds)));
            }, (ref BrokerReader body, FileDescriptor[] _) =>
            {
                bool isRead = true;
                while (isRead && !body.IsEnd)
                {
                    isRead = ClientCompletion.TryRead(ref body, out ClientCompletion completion);
                    taken.Add(completion);
                }

                return isRead;
            });
            if (taken.Count > 0 || isLast)
            {
                return taken;
            }
        }
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isClosed, 1) == 0)
        {
            _client.Close("destroy a queue pair", _number);
        }
    }

    private static void Write(ref BrokerWriter body, ClientPiece[] pieces)
    {
        foreach (ClientPiece piece in pieces)
        {
            body.WriteUInt64(piece.Address);
            body.WriteUInt32(piece.LengthBytes);
            body.WriteUInt32(piece.Key);
        }
    }
}
