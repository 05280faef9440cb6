using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

/// <summary>Adds a region (<c>mmap</c>). No page is made and no mirror is told: nothing was there.</summary>
/// <remarks>
/// Fails with <see cref="Errno.EINVAL"/> for no length, an address or offset that is no page boundary, or a kind
/// without what it is made of; with <see cref="Errno.EEXIST"/> where something is; with <see cref="Errno.ENOMEM"/>
/// where no gap is long enough or the process has ended.
/// </remarks>
public sealed class MapOperation : SpaceOperation
{
    private readonly AddressSpace _space;
    private readonly RegionRequest _request;

    internal MapOperation(AddressSpace space, RegionRequest request, Activity? activity)
        : base(space.Memory, activity, $"{space.Name} mmap") =>
        (_space, _request) = (space, request);

    /// <summary>Where the region is, once this has completed well.</summary>
    public AddressRange Addresses { get; private set; }

    private protected override IEnumerable<Pause> Run()
    {
        if (!IsValid())
        {
            Errno = Errno.EINVAL;
            yield break;
        }

        SpaceLockHold hold = _space.Lock.Ask(Activity, isWrite: true);
        try
        {
            foreach (Pause pause in _space.Lock.WaitUntilGranted(hold))
            {
                yield return pause;
            }

            if (TakeStepErrno(out Errno refused))
            {
                Errno = refused;
                yield break;
            }

            Errno = Add();
        }
        finally
        {
            _space.Lock.Release(hold);
            Memory.HandleProgress();
        }
    }

    private bool IsValid()
    {
        ulong mask = PageFrame.SizeBytes - 1;
        return _request.LengthBytes is > 0 and < (1UL << 47) && ((_request.Address ?? 0) & mask) == 0
            && (_request.FileOffset & mask) == 0 && (_request.Kind == RegionKind.File) == (_request.File is not null)
            && (_request.Kind == RegionKind.PeerMemory) == (_request.Peer is not null);
    }

    private Errno Add()
    {
        ulong mask = PageFrame.SizeBytes - 1;
        ulong length = (_request.LengthBytes + mask) & ~mask;
        ulong alignment = (ulong)PageFrame.SizeBytes << (_request.UsesHugePages ? Memory.HugeOrder : 0);
        ulong start = _request.Address ?? _space.FindGap(length, alignment);
        if (_space.IsDead || start == 0)
        {
            return Errno.ENOMEM;
        }

        AddressRange range = new(start, length);
        if (!_space.IsUnmapped(range))
        {
            return Errno.EEXIST;
        }

        RegionRequest request = _request;
        if (request is { Kind: RegionKind.Anonymous, IsShared: true })
        {
            request = request with { File = MemoryFile.OfSharedMemory(Memory, request.Name, length) };
        }

        _space.AddRegion(new SpaceRegion(range, request));
        Addresses = range;
        return Errno.Success;
    }
}
