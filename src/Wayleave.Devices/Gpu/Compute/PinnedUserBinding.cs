using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// Memory of a process that its GPU has pinned for long (<see cref="GpuUserMemory.Pinned"/>): it stays where it is
/// until the handle is closed, whatever the process does. Host lock held by the caller.
/// </summary>
internal sealed class PinnedUserBinding : GpuBinding
{
    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private readonly PciFabric _fabric;
    private readonly PciFunction _function;
    private PinnedPages? _pages;
    private DmaAddressList? _mapped;
    private Action<Errno>? _prepared;
    private bool _isReleased;

    public PinnedUserBinding(
        GpuProcess process, uint handle, AddressSpace space, AddressRange range, GpuAccess access)
        : base(process, handle, $"{space.Name} {range}", access)
    {
        (_space, _range) = (space, range);
        (_fabric, _function) = (process.Device.Fabric, process.Device.Function);
        Reservation = new Reservation(Host, Name);
    }

    public override SharedBuffer? Buffer => null;

    public override ulong SizeBytes => _range.LengthBytes;

    public override bool IsGone => _isReleased;

    internal override Reservation? Reservation { get; }

    internal override DmaAddressList? Addresses => _mapped;

    internal override bool TryPrepare(Action<Errno> prepared)
    {
        if (_mapped is not null || _isReleased)
        {
            return true;
        }

        bool isUnderWay = _prepared is not null;
        _prepared += prepared;
        if (!isUnderWay)
        {
            PinMode write = (Access & GpuAccess.Write) != 0 ? PinMode.Write : PinMode.None;
            Proceed(_space.Pin(_range, PinMode.Pin | PinMode.LongTerm | write, isCharged: true));
        }

        return false;
    }

    internal override MapOutcome MapLocked(AcquireTicket ticket) =>
        _isReleased ? MapOutcome.Refused(Errno.EFAULT)
        : _mapped is { } mapped ? MapOutcome.Mapped(mapped)
        : MapOutcome.Refused(Errno.EAGAIN);

    private protected override void HandleIdle()
    {
    }

    private protected override void ReleaseNow()
    {
        _isReleased = true;
        if (_mapped is { } mapped)
        {
            _mapped = null;
            _fabric.Unmap(_function, mapped);
        }

        _pages?.Release(areDirty: (Access & GpuAccess.Write) != 0);
        _pages = null;
    }

    private void Proceed(PinOperation pin)
    {
        while (!pin.Proceed())
        {
            bool waits = pin.TryAddReadyCallback(() =>
            {
                using (Host.Enter())
                {
                    Proceed(pin);
                }
            });
            if (waits)
            {
                return;
            }
        }

        Errno errno = pin.Errno == Errno.Success ? Take(pin.Result!) : pin.Errno;
        (Action<Errno> prepared, _prepared) = (_prepared!, null);
        Host.Defer(() =>
        {
            using (Host.Enter())
            {
                prepared(errno);
            }
        });
    }

    private Errno Take(PinnedPages pages)
    {
        Errno errno = _isReleased || !pages.TryListAddresses(out DmaAddressList? addresses)
            ? Errno.EFAULT
            : _fabric.TryMap(_function, addresses!, out _mapped);
        if (errno == Errno.Success)
        {
            _pages = pages;
        }
        else
        {
            pages.Release();
        }

        return errno;
    }
}
