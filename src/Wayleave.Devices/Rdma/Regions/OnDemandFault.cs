using Wayleave.Core;
using Wayleave.Core.AddressSpaces;

namespace Wayleave.Devices.Rdma.Regions;

/// <summary>What to bring into a device's reach.</summary>
/// <param name="Needed">Whole pages that must be there afterwards, if <paramref name="Faults"/>.</param>
/// <param name="Ahead">How many pages behind them come along if they are in memory.</param>
/// <param name="IsWrite">For writing.</param>
/// <param name="Faults">Off takes only what is in memory.</param>
internal readonly record struct PagingRequest(AddressRange Needed, int Ahead, bool IsWrite, bool Faults);

/// <summary>
/// Serves a request for pages, part by part where several subscriptions cover it: the driver's loop for each
/// (<c>pagefault_mr</c>). Goes on by itself when what it waits for has come. Host lock held by the caller.
/// </summary>
internal sealed class OnDemandFault(OnDemandBacking backing, PagingRequest request)
{
    private const int PartPagesMax = 512;

    private readonly HostContext _host = backing.Space.Host;
    private Action<Errno>? _completed;
    private ulong _at = request.Needed.Start;
    private MirrorUpdateOperation? _operation;
    private MirrorRange? _look;

    private ulong End => backing.Clip(
        request.Needed with { LengthBytes = request.Needed.LengthBytes + ((ulong)request.Ahead * PageFrame.SizeBytes) })
        .End;

    /// <summary><paramref name="completed"/> runs once, with the host lock held.</summary>
    public void Start(Action<Errno> completed)
    {
        _completed = completed;
        Proceed();
    }

    private void Proceed()
    {
        while (_completed is not null)
        {
            if (_operation is null && !TryBeginPart())
            {
                return;
            }

            if (!_operation!.Proceed())
            {
                _operation.TryAddReadyCallback(ProceedOutside);
                return;
            }

            Errno errno = FinishPart(_operation.Errno);
            if (errno != Errno.Success)
            {
                Complete(errno);
            }
        }
    }

    private void ProceedOutside()
    {
        using (_host.Enter())
        {
            Proceed();
        }
    }

    // False: it has completed.
    private bool TryBeginPart()
    {
        if (_at >= End)
        {
            Complete(Errno.Success);
            return false;
        }

        if (!backing.IsInside(request.Needed))
        {
            Complete(Errno.EFAULT);
            return false;
        }

        if (backing.ChildAt(_at, out AddressRange covered) is not { } notifier)
        {
            Complete(Errno.EINVAL); // the process has ended
            return false;
        }

        ulong end = Math.Min(Math.Min(End, covered.End), _at + ((ulong)PartPagesMax * PageFrame.SizeBytes));
        AddressRange part = new(_at, end - _at);
        MirrorBits wanted = !request.Faults ? MirrorBits.None
            : request.IsWrite ? MirrorBits.Fault | MirrorBits.FaultWrite
            : MirrorBits.Fault;
        _look = new MirrorRange(backing.Space, notifier, part)
        {
            RequestMask = MirrorBits.Fault | MirrorBits.FaultWrite,
            NeedsAddresses = true,
            AllowsPeerToPeer = backing.Device.Options.ReachesPrivatePages,
            Client = backing.Device.Function,
        };
        for (int i = 0; i < _look.Requests.Count; i++)
        {
            bool isNeeded = request.Needed.Contains(_at + ((ulong)i * PageFrame.SizeBytes));
            _look.Requests[i] = isNeeded ? wanted : MirrorBits.None;
        }

        _operation = _look.Update(backing.Take);
        return true;
    }

    // A page that is here and that the device cannot reach, because it is in no memory of the machine's, is a failure.
    private Errno FinishPart(Errno errno)
    {
        (MirrorRange look, _look, _operation) = (_look!, null, null);
        if (errno != Errno.Success)
        {
            return errno;
        }

        for (int i = 0; i < look.Pages.Count && request.Faults; i++)
        {
            ulong address = look.Addresses.Start + ((ulong)i * PageFrame.SizeBytes);
            bool isLost = request.Needed.Contains(address) && look.Pages[i].IsValid
                && look.Pages[i].Frame is { Address.Value: 0 } or { Kind: PageFrameKind.PeerToPeer };
            if (isLost)
            {
                return Errno.EFAULT;
            }
        }

        _at = look.Addresses.End;
        return Errno.Success;
    }

    private void Complete(Errno errno)
    {
        (Action<Errno>? completed, _completed) = (_completed, null);
        completed?.Invoke(errno);
    }
}
