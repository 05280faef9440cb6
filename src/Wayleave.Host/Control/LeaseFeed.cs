using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Control;

//   lease, heartbeat, heartbeat, ..., committed                      the object got its name; the lease is over
//                                   , revoked, heartbeat, ...        the key is dead, and taken until the client leaves
//                                   , ended                          the host ended the lease, as when it stops

/// <summary>
/// Tells the holder of a lease what happens to it, one JSON line per event, until the holder leaves or it is over.
/// </summary>
internal sealed class LeaseFeed(WayleaveHost host, Lease lease, ControlListenerOptions options, EventStream stream)
{
    private bool _isRevoked;

    /// <summary>Runs until the lease is over. The caller ends the lease.</summary>
    /// <param name="over">The client left, or the host stops.</param>
    public async Task RunAsync(CancellationToken over)
    {
        await WriteAsync(LeaseEventKind.Lease, null, LeaseDocument.From(lease)).ConfigureAwait(false);
        using PeriodicTimer timer = new(options.HeartbeatInterval, options.Clock);
        try
        {
            while (await timer.WaitForNextTickAsync(over).ConfigureAwait(false))
            {
                if (await TryReportEndAsync().ConfigureAwait(false))
                {
                    return;
                }

                await WriteAsync(LeaseEventKind.Heartbeat).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException) when (!stream.HasClientLeft)
        {
            await WriteAsync(LeaseEventKind.Ended, "the host stops").ConfigureAwait(false);
        }
    }

    private async Task<bool> TryReportEndAsync()
    {
        // The lease is looked at first: a state that is read after its end says which end it was.
        bool isOver = host.Leases.Find(lease.Id) is null;
        ObjectState state;
        bool isDead;
        using (host.Context.Enter())
        {
            state = lease.Target.State;
            isDead = lease.Ending is null && lease.Region.State == MemoryRegionState.Dead; // at its end it dies, too
        }

        // While what was written is being checked, it is not known yet which of the two ends this is.
        if (isOver && state != ObjectState.Committing)
        {
            Task written = state == ObjectState.Ready && Departed() is null
                ? WriteAsync(LeaseEventKind.Committed)
                : WriteAsync(LeaseEventKind.Ended, Departed() ?? "the host ended it");
            await written.ConfigureAwait(false);
            return true;
        }

        // A reset of the device takes the memory back and leaves the object.
        if (!_isRevoked && (isDead || state is ObjectState.Revoked or ObjectState.Quarantined))
        {
            _isRevoked = true;
            await WriteAsync(LeaseEventKind.Revoked, Departed() ?? "the owner took the memory back")
                .ConfigureAwait(false);
        }

        return false;
    }

    // A device that left is the reason for everything that ended with it.
    private string? Departed() =>
        !lease.Target.Owner.Presence.IsPresent ? $"{lease.Target.Device} was pulled out"
        : !lease.Nic.Presence.IsPresent ? $"{lease.Nic.Name} was pulled out"
        : null;

    private Task WriteAsync(LeaseEventKind kind, string? reason = null, LeaseDocument? document = null)
    {
        LeaseEventDocument line = new()
        {
            Event = kind,
            AtUs = ProofDocument.ToMicroseconds(host.Context.Now),
            Reason = reason,
            Lease = document,
        };
        return stream.WriteAsync(line, ControlJson.Default.LeaseEventDocument);
    }
}
