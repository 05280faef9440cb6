using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;

namespace Wayleave.Host.Objects;

/// <summary>
/// A resource with a handle: memory that its owner, the pool of a controller memory buffer, lends. Host lock held by
/// the caller.
/// </summary>
/// <param name="resource">Lent, by a handle that somebody has.</param>
/// <param name="sizeBytes">Of the object; the resource is whole pages.</param>
/// <param name="lender">Who lends it.</param>
internal sealed class ResourceObjectMemory(PeerResource resource, ulong sizeBytes, PeerPoolLender lender)
    : ObjectMemory
{
    private QuarantineEntry? _held;

    public PeerResource Resource { get; } = resource;

    public override SharedBuffer Shared => Resource.Buffer;

    public override ulong SizeBytes { get; } = sizeBytes;

    public override ObjectPlace Place => ObjectPlace.ControllerMemory;

    public override DmaAddressList Addresses => PeerPoolLender.AddressesOf(Resource.Buffer);

    public override RevokeOperation? Freeing => Resource.Removal;

    public override QuarantineEntry? Held => _held;

    // The last handle may have been closed before, or the driver let go: then the removal is that one's.
    public override RevokeOperation Free(RevokePolicy policy)
    {
        if (Resource.TryRemove(policy, out RevokeOperation? removal) == Core.Errno.Success)
        {
            _held = lender.Quarantine.Entries.FirstOrDefault(e => ReferenceEquals(e.Operation, removal));
        }

        return Resource.Removal!;
    }
}
