using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Host.Connections;

/// <summary>A peer that wants to connect. Answer it once.</summary>
public sealed class RdmaConnectionRequest
{
    private readonly ConnectionService _service;
    private readonly CmConnection _id;

    internal RdmaConnectionRequest(ConnectionService service, CmConnection id, ReadOnlyMemory<byte> privateData)
    {
        (_service, _id, PrivateData) = (service, id, privateData);
    }

    public Gid RemoteGid => _id.RemoteGid;

    /// <summary>The port that it connects from.</summary>
    public ushort RemotePort => _id.SourcePort;

    /// <summary>What it wants of the connection: the type of the queue pair, depths, MTU.</summary>
    public CmRequest Wanted => _id.Request!;

    /// <summary>56 bytes; how many of them mean something is between the applications.</summary>
    public ReadOnlyMemory<byte> PrivateData { get; }

    /// <summary>
    /// Says yes, and waits until the peer has heard it, or has sent something. Post the receives before.
    /// </summary>
    /// <param name="pair">Of the wanted type, in RESET or INIT. Stays the caller's.</param>
    /// <param name="parameters">What this side offers.</param>
    /// <param name="cancellation">Ends the wait and the connection.</param>
    /// <exception cref="WayleaveException">
    /// ETIMEDOUT: the peer does not answer any more; ECONNREFUSED: it changed its mind; EINVAL: the queue pair does not
    /// fit, and the request still waits.
    /// </exception>
    public async Task<RdmaConnection> AcceptAsync(
        QueuePair pair, CmParameters? parameters = null, CancellationToken cancellation = default)
    {
        RdmaConnection connection = _service.Accept(_id, pair, parameters ?? new CmParameters());
        using CancellationTokenRegistration end = cancellation.Register(() => _service.Disconnect(connection));
        await connection.Made.WaitAsync(cancellation).ConfigureAwait(false);
        return connection;
    }

    /// <summary>Says no.</summary>
    /// <param name="privateData">At most <see cref="CmNotice.RejectPrivateDataMax"/> bytes for the peer.</param>
    public void Reject(ReadOnlyMemory<byte> privateData = default) => _service.Reject(_id, privateData);
}
