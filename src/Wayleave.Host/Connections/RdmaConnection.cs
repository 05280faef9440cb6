using Wayleave.Core;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Host.Connections;

/// <summary>
/// A connection that rdma_cm could have made. Its queue pair belongs to who gave it, before, during and after.
/// Disposing disconnects.
/// </summary>
public sealed class RdmaConnection : IAsyncDisposable
{
    // The manager repeats itself after 4.3 s, and fifteen times: that is for a kernel, which lives longer than a
    // program.
    private static readonly TimeSpan s_linger = TimeSpan.FromSeconds(4.5);

    // One that has failed may have lost its peer, and a peer that lives answers at once; if the word to it is lost, it
    // finds out by what it sends.
    private static readonly TimeSpan s_lingerFailed = TimeSpan.FromSeconds(1);

    private readonly ConnectionService _service;
    private readonly TaskCompletionSource _made = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private bool _isAbandoned;

    internal RdmaConnection(ConnectionService service, CmConnection id, QueuePair pair) =>
        (_service, Id, Pair) = (service, id, pair);

    public QueuePair Pair { get; }

    public Gid RemoteGid => Id.RemoteGid;

    /// <summary>What the other side said when it accepted, 196 bytes; empty on the side that accepted.</summary>
    public ReadOnlyMemory<byte> PrivateData { get; private set; }

    /// <summary>
    /// Completes when the connection has ended, whoever ended it: the queue pair is in ERR, and what was queued
    /// completes flushed.
    /// </summary>
    public Task Ended => _ended.Task;

    internal CmConnection Id { get; }

    /// <summary>Completes when data may flow.</summary>
    internal Task Made => _made.Task;

    /// <summary>Ends the connection, and waits until the peer knows, or does not answer. Idempotent.</summary>
    public Task DisconnectAsync()
    {
        _service.Disconnect(this);
        return Ended;
    }

    /// <summary>
    /// Ends the connection. A peer that does not answer is waited for until it was told twice, or for a second when the
    /// queue pair was in ERR before; it is told on afterwards while the NIC is there.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        TimeSpan linger = _isAbandoned ? TimeSpan.Zero
            : Pair.State == QueuePairState.Error ? s_lingerFailed
            : s_linger;
        await Task.WhenAny(DisconnectAsync(), Task.Delay(linger)).ConfigureAwait(false);
    }

    /// <summary>The peer is known to be gone: disposing tells it all the same, and waits for no answer.</summary>
    internal void Abandon() => _isAbandoned = true;

    /// <summary>Port token held: only completes tasks.</summary>
    internal void Handle(in CmEvent cmEvent)
    {
        switch (cmEvent.Kind)
        {
            case CmEventKind.Established:
                PrivateData = cmEvent.PrivateData;
                _made.TrySetResult();
                break;
            case CmEventKind.Rejected:
                Fail(new ConnectionRefusedException(Operation, cmEvent.Reason, cmEvent.PrivateData));
                break;
            case CmEventKind.Unreachable:
                Fail(Errno.ETIMEDOUT, "the peer does not answer");
                break;
            case CmEventKind.Disconnected:
                Fail(Errno.ECONNRESET, "the connection has ended");
                break;
            default:
                break;
        }
    }

    /// <summary>The NIC stops. Port token held: only completes tasks.</summary>
    internal void Stop() => Fail(Errno.ECONNRESET, "the NIC stops");

    private string Operation => $"connect to {RemoteGid} port {Id.Port}";

    private void Fail(Errno errno, string why) => Fail(new WayleaveException(errno, Operation, why));

    private void Fail(WayleaveException reason)
    {
        _made.TrySetException(reason);
        _ended.TrySetResult();
    }
}
