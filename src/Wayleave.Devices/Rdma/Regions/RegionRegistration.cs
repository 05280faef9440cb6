using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Regions;

// ib_reg_user_mr: flags and arguments, then the account, then the pages, then the key. Pinning may have to bring pages
// home, or take memory from somebody, so it is an operation that goes on when what it waits for has come.

/// <summary>
/// Registers memory of a process (<c>ibv_reg_mr</c>). Host lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class RegionRegistration
{
    private readonly RdmaDevice _device;
    private readonly ProtectionDomain _domain;
    private readonly SpaceRegionRequest _request;
    private readonly Action<RegionRegistration>? _completed;
    private MemoryRegion? _known;
    private PinOperation? _pin;
    private volatile bool _isCompleted;

    private RegionRegistration(
        RdmaDevice device,
        ProtectionDomain domain,
        SpaceRegionRequest request,
        Action<RegionRegistration>? completed)
    {
        (_device, _domain, _request, _completed) = (device, domain, request, completed);
    }

    /// <summary>Readable without the lock.</summary>
    public bool IsCompleted => _isCompleted;

    /// <summary>0, or why there is no region.</summary>
    public Errno Errno { get; private set; }

    /// <summary>
    /// The region, once this has completed well. Owned by the caller until <see cref="TryDeregister"/> is done.
    /// </summary>
    public MemoryRegion? Region { get; private set; }

    /// <summary>Starts to register; it may be done on return.</summary>
    /// <param name="device">The NIC.</param>
    /// <param name="domain">Who may use the key.</param>
    /// <param name="request">What.</param>
    /// <param name="completed">Runs once at the end, after the host lock was released.</param>
    /// <returns>
    /// Ends with <see cref="Errno.EINVAL"/> for what the request gets wrong; <see cref="Errno.EOPNOTSUPP"/> for paging
    /// on a device that cannot, and for a device behind an IOMMU that translates; <see cref="Errno.EPERM"/> and
    /// <see cref="Errno.ENOMEM"/> from the account of the process; what <see cref="PinOperation"/> says; then
    /// <see cref="Errno.EEXIST"/> for a key in use. After an error nothing is left behind.
    /// </returns>
    public static RegionRegistration Start(
        RdmaDevice device,
        ProtectionDomain domain,
        SpaceRegionRequest request,
        Action<RegionRegistration>? completed = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(request);
        device.Host.AssertHeld();
        RegionRegistration registration = new(device, domain, request, completed);
        registration.Begin();
        return registration;
    }

    /// <summary>
    /// Ends a region over the memory of a process (<c>ibv_dereg_mr</c>): the key is dead at once, pins and
    /// subscriptions end with the last packet inside.
    /// </summary>
    /// <param name="device">Its NIC.</param>
    /// <param name="region">One of <see cref="RegionRegistration"/>.</param>
    /// <param name="drain">
    /// Not null when the port is inside at this moment: call again when it has ended. Null when the number is free.
    /// </param>
    /// <returns><see cref="Errno.EINVAL"/> while a window is bound to it; then nothing has changed.</returns>
    public static Errno TryDeregister(RdmaDevice device, MemoryRegion region, out Core.Fences.Fence? drain)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(region);
        if (region.Backing is null)
        {
            throw new ArgumentException($"{region} is over a shared buffer", nameof(region));
        }

        return device.TryDeregisterBacked(region, out drain);
    }

    /// <summary>
    /// As <see cref="Start"/>, with a pinned region over the same range that was good before something changed there.
    /// If it still has the pages that the range has now, it is the result: nothing about it is made again. If not, this
    /// ends with ENOENT, and nothing has changed.
    /// </summary>
    internal static RegionRegistration StartAgain(
        RdmaDevice device, ProtectionDomain domain, SpaceRegionRequest request, MemoryRegion known)
    {
        RegionRegistration registration = new(device, domain, request, completed: null) { _known = known };
        registration.Begin();
        return registration;
    }

    internal static MemoryRegionRequest ToRequest(SpaceRegionRequest request) => new(
        request.Addresses.Start % PageFrame.SizeBytes,
        request.Addresses.LengthBytes,
        request.Iova,
        request.Access & ~(AccessRules.OptionalFlags & ~AccessFlags.RelaxedOrdering),
        request.IsOnDemand ? ImporterKind.Dynamic : ImporterKind.Pinned,
        Registration: RegistrationKind.OwnMemory);

    private void Begin()
    {
        Errno errno = RegionRules.Check(_request, _device.Options);
        if (errno == Errno.Success && _device.Function.Root is { Iommu: IommuMode.Strict })
        {
            errno = Errno.EOPNOTSUPP;
        }

        if (errno != Errno.Success || _request.IsOnDemand)
        {
            Finish(errno, pages: null);
            return;
        }

        PinMode write = _request.IsWritable ? PinMode.Write : PinMode.None;
        _pin = _request.Space.Pin(
            _request.Addresses, PinMode.Pin | PinMode.LongTerm | write, isCharged: true);
        Proceed();
    }

    private void Proceed()
    {
        PinOperation pin = _pin!;
        if (pin.Proceed())
        {
            Finish(pin.Errno, pin.Result);
            return;
        }

        pin.TryAddReadyCallback(() =>
        {
            using (_device.Host.Enter())
            {
                Proceed();
            }
        });
    }

    private void Finish(Errno errno, PinnedPages? pages)
    {
        if (pages is not null && _known is { } known)
        {
            bool isSame = known.Backing is PinnedBacking had && had.IsAt(pages);
            pages.Release();
            Region = isSame ? known : null;
            Complete(isSame ? Errno.Success : Errno.ENOENT);
            return;
        }

        uint key = 0;
        errno = errno == Errno.Success ? _device.Keys.TryChoose(_request.Key, out key) : errno;
        if (errno != Errno.Success)
        {
            pages?.Release();
            Complete(errno);
            return;
        }

        MemoryRegion region = new(_device, _domain, key, ToRequest(_request));
        if (pages is not null)
        {
            region.Backing = new PinnedBacking(region, _device.Host, _request, pages);
            Show(region);
            return;
        }

        OnDemandBacking backing = new(region, _device, _request);
        region.Backing = backing;
        if (backing.ChildAt(_request.Addresses.Start, out _) is null)
        {
            backing.Release();
            Complete(Errno.EINVAL); // the process has ended
            return;
        }

        backing.Snapshot(_ => Show(region));
    }

    private void Show(MemoryRegion region)
    {
        _device.Keys.Add(region);
        Region = region;
        Complete(Errno.Success);
    }

    private void Complete(Errno errno)
    {
        Errno = errno;
        _isCompleted = true;
        if (_completed is { } completed)
        {
            _device.Host.Defer(() => completed(this));
        }
    }
}
