using Wayleave.Core;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Transfers;

/// <summary>The objects that a host sends to others just now. Members take the host lock themselves.</summary>
public sealed class TransferService
{
    private readonly WayleaveHost _host;
    private readonly Dictionary<ulong, OutgoingTransfer> _transfers = []; // host lock

    internal TransferService(WayleaveHost host) => _host = host;

    /// <summary>Registers the object and makes an end for it; nothing is sent yet. The caller ends it.</summary>
    /// <param name="source">What is sent.</param>
    /// <param name="port">The port of the NIC that it leaves by; null for the first whose cable is in.</param>
    /// <exception cref="WayleaveException">
    /// ENODEV: the object was taken back. EINVAL: the NIC has no such port.
    /// </exception>
    public async Task<OutgoingTransfer> OpenAsync(DeviceObject source, int? port = null)
    {
        ArgumentNullException.ThrowIfNull(source);
        ulong id;
        using (_host.Context.Enter())
        {
            id = _host.Context.AllocateId();
        }

        OutgoingTransfer transfer = await OutgoingTransfer.OpenAsync(_host, id, source, port).ConfigureAwait(false);
        using (_host.Context.Enter())
        {
            _transfers.Add(id, transfer);
        }

        return transfer;
    }

    /// <summary>A transfer by its number.</summary>
    /// <exception cref="WayleaveException">ENOENT: it has ended.</exception>
    public OutgoingTransfer Find(ulong id)
    {
        using (_host.Context.Enter())
        {
            return _transfers.GetValueOrDefault(id)
                ?? throw new WayleaveException(
                    Errno.ENOENT, $"find transfer {id}", "it has ended", "start another one");
        }
    }

    /// <summary>All that are under way.</summary>
    public IReadOnlyList<OutgoingTransfer> List()
    {
        using (_host.Context.Enter())
        {
            return [.. _transfers.Values.OrderBy(t => t.Id)];
        }
    }

    /// <summary>
    /// Ends a transfer, in whatever state. Idempotent; when it returns nothing of it is sent any more.
    /// </summary>
    public async Task EndAsync(OutgoingTransfer transfer)
    {
        ArgumentNullException.ThrowIfNull(transfer);
        await transfer.DisposeAsync().ConfigureAwait(false);
        using (_host.Context.Enter())
        {
            _transfers.Remove(transfer.Id);
        }
    }
}
