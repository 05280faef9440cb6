using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Control;

/// <summary>Peer memory of a host, as documents.</summary>
internal static class ResourceReports
{
    /// <summary>Host lock not held.</summary>
    public static ResourcesDocument Describe(WayleaveHost host)
    {
        using (host.Context.Enter())
        {
            return new ResourcesDocument
            {
                Host = host.Config.Name,
                Providers =
                [
                    .. host.MemoryDevices.Where(d => d.Function.PeerDevice is not null)
                        .Select(d => DescribeLocked(d, d.Function.PeerDevice!)),
                ],
            };
        }
    }

    /// <summary>Host lock held by the caller.</summary>
    public static ResourceDocument DescribeLocked(string device, PeerResource resource) => new()
    {
        Id = resource.Buffer.Id,
        Device = device,
        Name = resource.Name,
        SizeBytes = resource.SizeBytes,
        AvailableBytes = resource.AvailableBytes,
        State = resource.State,
        Handles = [.. resource.Handles.Select(h => h.Holder)],
        Users = [.. resource.Buffer.Attachments.Select(a => DescribeLocked(resource, a))],
        Proof = resource.Removal?.Proof is { } proof ? ProofDocument.From(proof) : null,
    };

    private static ProviderDocument DescribeLocked(IObjectDevice device, PeerDevice peer) => new()
    {
        Device = device.Name,
        PciAddress = peer.Function.Address.ToString(),
        Bars =
        [
            .. Enumerable.Range(0, PciFunction.BarCountMax)
                .Select(peer.Provider).OfType<PeerProvider>()
                .Select(p => new ProviderBarDocument(p.Bar.Index, p.Bar.Range.LengthBytes, p.MappingCount)),
        ],
        Pool = peer.Pool is { } pool ? new PoolDocument(pool.SizeBytes, pool.AvailableBytes, pool.IsPublished) : null,
        Lends = peer.MemoryOwner is not null && !peer.IsUnbinding,
        Resources = [.. peer.Resources.Select(r => DescribeLocked(device.Name, r))],
    };

    private static ResourceUserDocument DescribeLocked(PeerResource resource, Attachment user)
    {
        PeerChunk[] chunks =
            [.. resource.Imports.Where(i => ReferenceEquals(i.Attachment, user)).SelectMany(i => i.Chunks)];
        return new ResourceUserDocument(
            user.Name,
            user.Device.Name,
            user.Holder,
            user.Kind,
            user.State,
            chunks.Length,
            chunks.Aggregate(0UL, (sum, c) => sum + c.LengthBytes));
    }
}
