using Wayleave.Core.PeerMemory;
using Wayleave.Host.Resources;

namespace Wayleave.Host.Control;

//   added, heartbeat, ..., removed, heartbeat, ..., ended      taken away by somebody, or with its device; ended when
//                                                              its memory is the owner's again
//                     ..., ended                               the host stops

/// <summary>Keeps a handle for the client that asked for it, until the client leaves or the resource is gone.</summary>
internal sealed class ResourceFeed(
    WayleaveHost host, ResourceGrant grant, ControlListenerOptions options, EventStream stream)
{
    private bool _isRemoved;

    /// <summary>Runs until it is over. The caller ends the grant.</summary>
    /// <param name="over">The client left, or the host stops.</param>
    public async Task RunAsync(CancellationToken over)
    {
        await WriteAsync(ResourceEventKind.Added).ConfigureAwait(false);
        using PeriodicTimer timer = new(options.HeartbeatInterval, options.Clock);
        try
        {
            while (await timer.WaitForNextTickAsync(over).ConfigureAwait(false))
            {
                ResourceEventKind next = Look();
                await WriteAsync(next).ConfigureAwait(false);
                if (next == ResourceEventKind.Ended)
                {
                    return;
                }
            }
        }
        catch (OperationCanceledException) when (!stream.HasClientLeft)
        {
            await WriteAsync(ResourceEventKind.Ended, "the host stops").ConfigureAwait(false);
        }
    }

    private ResourceEventKind Look()
    {
        using (host.Context.Enter())
        {
            if (grant.Resource.State == PeerResourceState.Lent || grant.Resource.Removal?.Proof is null)
            {
                return ResourceEventKind.Heartbeat;
            }

            if (!_isRemoved)
            {
                _isRemoved = true;
                return ResourceEventKind.Removed;
            }

            return grant.Resource.State == PeerResourceState.Returned
                ? ResourceEventKind.Ended
                : ResourceEventKind.Heartbeat;
        }
    }

    private Task WriteAsync(ResourceEventKind kind, string? reason = null)
    {
        ResourceDocument? document = null;
        if (kind != ResourceEventKind.Heartbeat)
        {
            using (host.Context.Enter())
            {
                document = ResourceReports.DescribeLocked(grant.Owner.Name, grant.Resource);
            }
        }

        ResourceEventDocument line = new()
        {
            Event = kind,
            AtUs = ProofDocument.ToMicroseconds(host.Context.Now),
            Reason = reason,
            Resource = document,
        };
        return stream.WriteAsync(line, ControlJson.Default.ResourceEventDocument);
    }
}
