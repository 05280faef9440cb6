using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Checking;
using Wayleave.Core.Topology;
using Wayleave.Linux;
using Wayleave.Linux.UserFaults;

namespace Wayleave.Host.Compute;

// Who runs what. One thread takes the events of the process, one after the other; it takes the host lock for a moment
// and holds none while it waits for a round. A change of the process goes on as soon as its event was taken, before
// the round is over: devices use the device's view of the memory, which no change of the process takes away, so that
// what is still under way lands in the old page and nowhere else.
//
//   page fault   UFFDIO_ZEROPAGE
//   remove       Discard: the entries go, and come again with the next fault of a device
//   unmap        Unmap: a device that comes meets a hole
//   remap        Move: as an unmap, and the same pages at the new addresses
//   fork         a round over all of it: the child's view is not ours to serve

/// <summary>
/// Memory of a real process as a part of a client's address space: faults and changes are told by userfaultfd(2), and
/// become changes of the address space, which its mirrors hear of.
/// </summary>
internal sealed class WatchedMemory : IDisposable
{
    // A client can make its descriptor block: then its thread is left behind, and nothing else.
    private static readonly TimeSpan s_joinMax = TimeSpan.FromSeconds(2);

    private readonly WayleaveHost _host;
    private readonly AddressSpace _space;
    private readonly UserFaultRegion _region;
    private readonly MemoryWindow _window;
    private readonly EventFd _wake = new();
    private readonly Activity _activity;
    private Thread? _thread;
    private Action<string>? _failed;
    private volatile bool _stopping;
    private int _isDisposed;

    /// <param name="host">Its devices reach the memory.</param>
    /// <param name="space">Of the client.</param>
    /// <param name="region">Owned by this, and its events are taken by this alone.</param>
    public WatchedMemory(WayleaveHost host, AddressSpace space, UserFaultRegion region)
    {
        (_host, _space, _region) = (host, space, region);
        using (host.Context.Enter())
        {
            _activity = new Activity(host.Context, ActivityKind.Thread, $"userfaultfd of {space.Name}");
            _window = host.Fabric.AddWindow(region.DeviceView, owner: null);
            Request = new RegionRequest
            {
                LengthBytes = region.Addresses.LengthBytes,
                Address = region.Addresses.Start,
                Kind = RegionKind.File,
                IsShared = true,
                File = MemoryFile.InPersistentMemory(
                    space.Memory, "userfaultfd", region.DeviceView, _window.Range.Start),
                Name = "userfaultfd",
            };
        }
    }

    /// <summary>How it is mapped.</summary>
    public RegionRequest Request { get; }

    /// <summary>Off, changes are taken and nobody is told: for the test that must notice.</summary>
    internal bool TellsMirrors { get; set; } = true;

    /// <summary>Begins to take events.</summary>
    /// <param name="failed">Told, on the thread of this, when events can no longer be taken.</param>
    public void Start(Action<string> failed)
    {
        _failed = failed;
        _thread = new Thread(Run) { IsBackground = true, Name = "wayleave userfaultfd" };
        _thread.Start();
    }

    /// <summary>
    /// Ends the watch: who sleeps in a fault goes on with a page of the memfd. No device reaches the memory any more:
    /// the address space has ended, or does not map it.
    /// </summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isDisposed, 1) != 0)
        {
            return;
        }

        _stopping = true;
        _wake.Signal();
        if (_thread?.Join(s_joinMax) == false)
        {
            _host.Context.Trace("compute.watch_left_behind", _space.Name);
            return;
        }

        using (_host.Context.Enter())
        {
            _host.Fabric.RemoveWindow(_window);
        }

        _region.Dispose();
        _wake.Dispose();
    }

    private void Run()
    {
        try
        {
            while (!_stopping)
            {
                _region.WaitOr(_wake.Descriptor);
                while (!_stopping && _region.TryTake(out UserFaultEvent taken))
                {
                    Serve(taken);
                }
            }
        }
        catch (LinuxException e)
        {
            _failed!($"its memory cannot be watched any more: {e.Message}");
        }
    }

    private void Serve(UserFaultEvent taken)
    {
        if (taken.Kind == UserFaultKind.PageFault)
        {
            Fill(taken.Addresses.Start);
            return;
        }

        taken.Child?.Dispose();
        if (!TellsMirrors)
        {
            return;
        }

        _host.Context.Trace("compute.watched", taken.Kind.ToString(), (long)taken.Addresses.Start);
        switch (taken.Kind)
        {
            case UserFaultKind.Remove:
                Do(() => _space.Discard(taken.Addresses));
                break;
            case UserFaultKind.Remap:
                Move(taken.Addresses, taken.To);
                break;
            case UserFaultKind.Unmap:
                Do(() => _space.Unmap(taken.Addresses));
                break;
            default:
                Tell(_region.Addresses);
                break;
        }
    }

    private void Fill(ulong address)
    {
        // EEXIST: it is there. ENOENT: it was unmapped. EAGAIN: a change comes first, and who faulted faults again.
        // ESRCH: the process has ended.
        Errno errno = _region.TryFillZero(address);
        if (errno is not (Errno.Success or Errno.EEXIST or Errno.ENOENT or Errno.EAGAIN or Errno.ESRCH))
        {
            throw new LinuxException("UFFDIO_ZEROPAGE", $"0x{address:x}", errno);
        }
    }

    // Where the process has something of ours already, that is what it moved it over.
    private void Move(AddressRange range, ulong to)
    {
        Do(() => _space.Unmap(new AddressRange(to, range.LengthBytes)));
        Do(() => _space.Move(range, to));
    }

    private void Tell(AddressRange range)
    {
        InvalidationRound round;
        using (_host.Context.Enter())
        {
            round = _space.StartInvalidation(
                _activity, new InvalidateRange(range, InvalidateEvent.ProtectionPage));
        }

        SpinWait spin = default;
        while (true)
        {
            using (_host.Context.Enter())
            {
                while (round.CanAdvance)
                {
                    round.Advance();
                }

                if (round.State is InvalidationState.Started)
                {
                    round.End();
                }

                if (round.State is InvalidationState.Ended or InvalidationState.Refused)
                {
                    return;
                }
            }

            spin.SpinOnce(); // an access of a device is bounded by one block, and the job of a fence by its driver
        }
    }

    // Ends with an error where the client names what is not in its address space: that changes nothing.
    private void Do(Func<SpaceOperation> make)
    {
        using ManualResetEventSlim ready = new();
        SpaceOperation operation;
        using (_host.Context.Enter())
        {
            operation = make();
        }

        while (true)
        {
            ready.Reset();
            using (_host.Context.Enter())
            {
                if (operation.Proceed())
                {
                    return;
                }

                if (!operation.TryAddReadyCallback(ready.Set))
                {
                    continue;
                }
            }

            ready.Wait();
        }
    }
}
