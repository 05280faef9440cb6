using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Regions;

/// <summary>What of a region changes (<c>enum ibv_rereg_mr_flags</c>, same numbers).</summary>
[Flags]
public enum RegionChange
{
    None = 0,

    /// <summary>The memory: it is the given process's from then on, whatever it was before.</summary>
    Translation = 1 << 0,

    Domain = 1 << 1,

    Access = 1 << 2,
}

/// <summary>What a region becomes. What does not change is not looked at.</summary>
/// <param name="Change">At least one.</param>
/// <param name="Domain">For <see cref="RegionChange.Domain"/>.</param>
/// <param name="Access">For <see cref="RegionChange.Access"/>.</param>
/// <param name="Memory">For <see cref="RegionChange.Translation"/>; its access and key are not looked at.</param>
public sealed record RegionChangeRequest(
    RegionChange Change,
    ProtectionDomain? Domain = null,
    AccessFlags Access = default,
    SpaceRegionRequest? Memory = null);

// ib_uverbs_rereg_mr, with the rules of linux.md 5.6. The key keeps its number: another object takes its place in the
// table in one store, so that a peer finds one or the other. What the peer has under way by the old object ends as an
// access error; whoever reregisters has nothing under way, or wants just that.

/// <summary>
/// Changes a region without changing its key (<c>ibv_rereg_mr</c>). Host lock held by the caller, unless a member says
/// otherwise.
/// </summary>
public sealed class RegionReregistration
{
    private readonly RdmaDevice _device;
    private readonly MemoryRegion _old;
    private readonly RegionChangeRequest _request;
    private readonly Action<RegionReregistration>? _completed;
    private PinOperation? _pin;
    private SpaceRegionRequest? _memory;
    private volatile bool _isCompleted;

    private RegionReregistration(
        RdmaDevice device,
        MemoryRegion old,
        RegionChangeRequest request,
        Action<RegionReregistration>? completed)
    {
        (_device, _old, _request, _completed) = (device, old, request, completed);
        Region = old;
    }

    /// <summary>Readable without the lock.</summary>
    public bool IsCompleted => _isCompleted;

    /// <summary>0, or why the region is as it was.</summary>
    public Errno Errno { get; private set; }

    /// <summary>The region of the key: another object than before if anything changed.</summary>
    public MemoryRegion Region { get; private set; }

    /// <summary>Starts; it may be done on return.</summary>
    /// <param name="device">The NIC.</param>
    /// <param name="region">Not being deregistered.</param>
    /// <param name="request">What changes.</param>
    /// <param name="completed">Runs once at the end, after the host lock was released.</param>
    /// <returns>
    /// Ends with <see cref="Errno.EINVAL"/> when nothing is to change, for rights that do not go together, for memory
    /// whose address and key's address differ within a page, and for a dead region that gets no memory;
    /// <see cref="Errno.EOPNOTSUPP"/> for changes that do not exist, and for one of domain or rights alone of a region
    /// that is not pinned; <see cref="Errno.EACCES"/> when a right to write is wanted and the pages were pinned to be
    /// read; <see cref="Errno.EBUSY"/> while a window is bound to it, which would be past the new domain and rights;
    /// else as a registration of that memory. After an error the region is as it was.
    /// </returns>
    public static RegionReregistration Start(
        RdmaDevice device,
        MemoryRegion region,
        RegionChangeRequest request,
        Action<RegionReregistration>? completed = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(region);
        ArgumentNullException.ThrowIfNull(request);
        device.Host.AssertHeld();
        RegionReregistration change = new(device, region, request, completed);
        change.Begin();
        return change;
    }

    private AccessFlags Access => Has(RegionChange.Access) ? _request.Access : _old.Access;

    private ProtectionDomain Domain => Has(RegionChange.Domain) ? _request.Domain! : _old.Domain;

    private void Begin()
    {
        Errno errno = Check();
        if (errno != Errno.Success)
        {
            Complete(errno);
            return;
        }

        if (Has(RegionChange.Translation))
        {
            _memory = _request.Memory! with { Access = Access, Key = null };
            PinMode write = _memory.IsWritable ? PinMode.Write : PinMode.None;
            _pin = _memory.Space.Pin(_memory.Addresses, PinMode.Pin | PinMode.LongTerm | write, isCharged: true);
            Proceed();
            return;
        }

        bool isSame = ReferenceEquals(Domain, _old.Domain) && Access == _old.Access;
        if (!isSame && !_old.TryRefuseWindows())
        {
            Complete(Errno.EBUSY);
            return;
        }

        if (!isSame)
        {
            Adopt();
        }

        Complete(Errno.Success);
    }

    private Errno Check()
    {
        Errno errno = RegionRules.CheckChange(_request.Change);
        if (errno != Errno.Success)
        {
            return errno;
        }

        bool isSane = AccessRules.IsConsistent(Access)
            && (Access & AccessRules.Refused(RegistrationKind.OwnMemory)) == 0
            && (!Has(RegionChange.Domain) || _request.Domain is not null)
            && (!Has(RegionChange.Translation) || _request.Memory is not null);
        if (!isSane)
        {
            return Errno.EINVAL;
        }

        if (_request.Memory is { } memory && Has(RegionChange.Translation))
        {
            SpaceRegionRequest asked = memory with { Access = Access };
            return asked.IsOnDemand || _device.Function.Root is { Iommu: IommuMode.Strict }
                ? Errno.EOPNOTSUPP
                : RegionRules.Check(asked, _device.Options);
        }

        if (_old.State == MemoryRegionState.Dead)
        {
            return Errno.EINVAL;
        }

        // The same domain again is no change, whatever is behind the region.
        bool isNoChange = ReferenceEquals(Domain, _old.Domain) && Access == _old.Access;
        if (isNoChange)
        {
            return Errno.Success;
        }

        if (_old.Backing is not PinnedBacking pinned)
        {
            return Errno.EOPNOTSUPP;
        }

        return RegionRules.IsWritable(Access) && !pinned.IsWritable ? Errno.EACCES : Errno.Success;
    }

    private bool Has(RegionChange change) => (_request.Change & change) != 0;

    private void Proceed()
    {
        PinOperation pin = _pin!;
        if (!pin.Proceed())
        {
            pin.TryAddReadyCallback(() =>
            {
                using (_device.Host.Enter())
                {
                    Proceed();
                }
            });
            return;
        }

        if (pin.Errno != Errno.Success)
        {
            Complete(pin.Errno);
            return;
        }

        if (!ReferenceEquals(_device.FindRegion(_old.Key), _old))
        {
            pin.Result!.Release(); // deregistered meanwhile
            Complete(Errno.EINVAL);
            return;
        }

        if (!_old.TryRefuseWindows())
        {
            pin.Result!.Release();
            Complete(Errno.EBUSY);
            return;
        }

        MemoryRegion next = new(_device, Domain, _old.Key, RegionRegistration.ToRequest(_memory!));
        next.Backing = new PinnedBacking(next, _device.Host, _memory!, pin.Result!);
        Show(next);
        if (_old.Buffer is { } buffer)
        {
            ReleaseOfBuffer(buffer, new AcquireTicket(_device.Host, $"rereg of {_old.Name}"));
        }
        else
        {
            ReleaseOfSpace();
        }

        Complete(Errno.Success);
    }

    // The pages stay as they are pinned; only who may use them, and for what, is another.
    private void Adopt()
    {
        PinnedBacking backing = (PinnedBacking)_old.Backing!;
        MemoryRegionRequest request = new(
            _old.Offset, _old.LengthBytes, _old.Iova, Access, _old.Kind, Registration: _old.Registration);
        MemoryRegion next = new(_device, Domain, _old.Key, request) { Backing = backing };
        backing.MoveTo(next);
        Show(next);
    }

    private void Show(MemoryRegion next)
    {
        _device.Keys.Swap(_old, next);
        _old.HandleReplaced();
        Region = next;
    }

    // The old memory goes with the last packet inside; nobody waits for that.
    private void ReleaseOfSpace()
    {
        Again(_old.Backing!.Release(), ReleaseOfSpace);
    }

    private void ReleaseOfBuffer(SharedBuffer buffer, AcquireTicket ticket)
    {
        LockOperation operation = LockOperation.Start(_device.Host, ticket, [buffer.Reservation]);
        void Release()
        {
            Fence? drain = _old.ReleaseLocked(ticket);
            operation.UnlockAll();
            Again(drain, () => ReleaseOfBuffer(buffer, new AcquireTicket(_device.Host, $"rereg of {_old.Name}")));
        }

        if (!operation.TryAddCompletion(() =>
        {
            using (_device.Host.Enter())
            {
                Release();
            }
        }))
        {
            Release();
        }
    }

    private void Again(Fence? drain, Action release)
    {
        bool waits = drain is not null && drain.TryAddEndCallback(_ =>
        {
            using (_device.Host.Enter())
            {
                release();
            }
        }) == Errno.Success;
        if (drain is not null && !waits)
        {
            release();
        }
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
