using System.Buffers;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Linux;

namespace Wayleave.Ibverbs.Imports;

// The host is the exporter, this process the importer (docs/broker.md, programs with a device of their own); and to the
// NIC in this process, this object is the exporter in turn. A window of addresses stands for the buffer for good; the
// host's pages come and go in it.
//
//   host says: stop  -> the thread locks the reservation and invalidates: the region's gate closes, peers get RNR NAKs
//                       -> when the port is out, zeroed pages take the place of the host's -> the host is told
//   a packet comes   -> the port's fault maps the region again: Map finds no pages, leaves a KERNEL fence, wakes the
//                       thread -> it asks the host, which answers when the move has ended -> pages in, fence signalled
//   host says: gone  -> as a revoke of ours: the key dies (NAK 0x62), the port leaves, the pages go, the host is told
//   host is dead     -> the same
//
// The thread holds no lock while it waits for the host or for the port.

/// <summary>
/// A buffer of a Wayleave host's device, as the NIC of this process uses it: it moves when the host moves it, and is
/// taken back when the host takes it back.
/// </summary>
internal sealed class HostBuffer : IPinningExporter, IDisposable
{
    private const ulong PageBytes = 4096;

    private readonly VerbsDevice _device;
    private readonly HostContext _host;
    private readonly ClientImport _import;
    private readonly MappedMemory _window;
    private readonly DmaAddressList _addresses;
    private readonly EventFd _wake = new();
    private readonly Timeline _timeline;
    private readonly Thread _thread;
    private Fence? _coming; // the pages are to be brought; signalled by the thread. Host lock, as what follows
    private bool _isHere = true;
    private bool _isTakenBack;
    private volatile bool _stopping;

    // The pages are in the window.
    private HostBuffer(VerbsDevice device, ClientImport import, MappedMemory window)
    {
        (_device, _host, _import, _window, Name) = (device, device.Host, import, window, import.Name);
        ulong start = AddressOf(window);
        using (_host.Enter())
        {
            _timeline = new Timeline(_host, $"pages of {Name}");
            _addresses = device.Memory.Locate(start, start + import.SizeBytes);
            Errno errno = SharedBuffer.TryExport(
                _host, new ExportInfo(this, Name, import.SizeBytes), out SharedBuffer? shared);
            Shared = errno == Errno.Success
                ? shared!
                : throw new InvalidOperationException($"a buffer of {import.SizeBytes} bytes is none here: {errno}");
        }

        _thread = new Thread(Run) { IsBackground = true, Name = "wayleave import" };
        _thread.Start();
    }

    /// <summary>What regions are made of.</summary>
    public SharedBuffer Shared { get; }

    public string Name { get; }

    public StorageKind Storage => StorageKind.Movable;

    /// <summary>
    /// Attaches to the buffer that a descriptor stands for, and maps it. The descriptor stays the caller's.
    /// </summary>
    /// <param name="device">Whose regions it is for.</param>
    /// <param name="descriptor">Any number.</param>
    /// <param name="buffer">Null unless Success.</param>
    /// <returns>EBADF; as <see cref="BrokerSockets.TryAttach"/>; ENOMEM.</returns>
    public static Errno TryOpen(VerbsDevice device, int descriptor, out HostBuffer? buffer)
    {
        buffer = null;
        using FileDescriptor given = new(descriptor, ownsHandle: false);
        Errno errno = BrokerSockets.TryAttach(
            given, $"verbs {Environment.ProcessId}", Environment.GetEnvironmentVariable, out ClientImport? import);
        if (errno != Errno.Success)
        {
            return errno;
        }

        MappedMemory? window = null;
        try
        {
            window = MappedMemory.AllocateAnonymous((long)import!.SizeBytes, hugePages: false);
            import.MapInto(window);
            buffer = new HostBuffer(device, import, window);
            return Errno.Success;
        }
        catch (Exception e) when (e is BrokerException or LinuxException)
        {
            import!.Dispose();
            ((IDisposable?)window)?.Dispose();
            return e is BrokerException refused ? refused.Errno : ((LinuxException)e).Errno;
        }
    }

    public Errno Attach(Attachment attachment) => Errno.Success;

    public void Detach(Attachment attachment)
    {
        // An attachment by itself holds nothing.
    }

    /// <summary>What the host moves, nobody here holds in place.</summary>
    public Errno Pin(Attachment attachment) => Errno.EOPNOTSUPP;

    public void Unpin(Attachment attachment) => throw new InvalidOperationException($"nobody has pinned {Name}");

    /// <summary>
    /// The addresses are those of the window at all times; without pages in it a fence stands before them.
    /// </summary>
    public Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        addresses = _addresses;
        if (_isHere || _coming is not null)
        {
            return Errno.Success;
        }

        Reservation reservation = Shared.Reservation;
        AcquireTicket holder = reservation.Owner
            ?? throw new InvalidOperationException($"{Name} is mapped without its reservation");
        Errno errno = reservation.ReserveFences(holder, 1);
        if (errno != Errno.Success)
        {
            addresses = null;
            return errno;
        }

        _coming = _timeline.CreateFence();
        reservation.AddFence(holder, _coming, ReservationUsage.Kernel);
        _host.Defer(_wake.Signal);
        return Errno.Success;
    }

    public void Unmap(Attachment attachment, DmaAddressList addresses)
    {
        // The window stays; its pages go when the host wants them.
    }

    public void Release(SharedBuffer buffer)
    {
        // The host's: it hears of it by the end of the connection.
    }

    /// <summary>The region has ended, and with it every use: the pages go, and the host is told.</summary>
    public void Dispose()
    {
        if (_stopping)
        {
            return;
        }

        _stopping = true;
        _wake.Signal();
        _thread.Join();
        if (_isHere)
        {
            _window.ReplaceByPrivate(0, (long)WholePages(_import.SizeBytes));
        }

        _import.Dispose();
        ((IDisposable)_window).Dispose();
        _wake.Dispose();
    }

    /// <summary>As the other, for a buffer that no region was made of.</summary>
    public void DisposeUnused()
    {
        using (_host.Enter())
        {
            Shared.Release();
        }

        Dispose();
    }

    private void Run()
    {
        try
        {
            while (!_stopping)
            {
                if (_import.TryWait(_wake, out bool isRevoked))
                {
                    LetGo(isRevoked);
                    continue;
                }

                _wake.Take();
                if (IsWanted())
                {
                    Bring();
                }
            }
        }
        catch (Exception e) when (e is BrokerException or LinuxException)
        {
            _host.Trace("import.lost", e.Message); // the host is dead, or this process has no room: nobody can go on
            TakeBack(e.Message);
            _window.ReplaceByPrivate(0, (long)WholePages(_import.SizeBytes));
        }
        finally
        {
            EndComing(Errno.ECANCELED);
        }
    }

    private bool IsWanted()
    {
        using (_host.Enter())
        {
            return _coming is not null && !_isHere;
        }
    }

    private void Bring()
    {
        try
        {
            _import.MapInto(_window);
        }
        catch (BrokerException e) when (e.Errno == Errno.EAGAIN)
        {
            _wake.Signal();
            return;
        }
        catch (BrokerException e) when (e.Errno is not (Errno.ECONNRESET or Errno.EPROTO))
        {
            TakeBack(e.Message); // taken back meanwhile, or this process was too slow once
            EndComing(e.Errno);
            return;
        }

        using (_host.Enter())
        {
            _isHere = true;
        }

        EndComing(Errno.Success);
    }

    private void LetGo(bool isRevoked)
    {
        bool wasHere;
        if (isRevoked)
        {
            wasHere = TakeBack($"{Name} was taken back by its host");
        }
        else
        {
            wasHere = Invalidate();
        }

        if (wasHere)
        {
            _import.Release(_window);
        }
    }

    // Nobody is inside the pages on return.
    private bool Invalidate()
    {
        AcquireTicket ticket = Lock();
        IReadOnlyList<Fence> inside;
        bool wasHere;
        using (_host.Enter())
        {
            (wasHere, _isHere) = (_isHere, false);
            Shared.InvalidateMappings(ticket);
            inside = PendingLocked();
            Shared.Reservation.Unlock(ticket);
        }

        Await(inside);
        return wasHere;
    }

    private bool TakeBack(string reason)
    {
        IReadOnlyList<Fence> inside;
        bool wasHere;
        using (_host.Enter())
        {
            (wasHere, _isHere) = (_isHere, false);
            if (!_isTakenBack)
            {
                _isTakenBack = true;
                RevokeOperation.Start(Shared, new RevokePolicy { Reason = reason });
                _device.CountRevoke(); // by whatever end of the host's buffer it comes
            }

            inside = PendingLocked();
        }

        Await(inside);
        return wasHere;
    }

    // What comes by a later map is not waited for.
    private List<Fence> PendingLocked() =>
        [.. Shared.Reservation.GetFences(ReservationUsage.Bookkeep).Where(f => !f.HasEnded && f != _coming)];

    private void Await(IReadOnlyList<Fence> fences)
    {
        foreach (Fence fence in fences)
        {
            using ManualResetEventSlim ended = new();
            Errno errno;
            using (_host.Enter())
            {
                errno = fence.TryAddEndCallback(_ => ended.Set());
            }

            if (errno == Errno.Success)
            {
                ended.Wait();
            }
        }
    }

    private AcquireTicket Lock()
    {
        AcquireTicket ticket;
        using ManualResetEventSlim granted = new();
        using (_host.Enter())
        {
            ticket = new AcquireTicket(_host, $"move of {Name}");
            if (Shared.Reservation.TryLock(ticket).Wait is not { } wait)
            {
                return ticket;
            }

            wait.TryAddCallback(granted.Set);
        }

        granted.Wait();
        return ticket;
    }

    private void EndComing(Errno errno)
    {
        using (_host.Enter())
        {
            using SignalingSection section = new(Name, "pages");
            (Fence? coming, _coming) = (_coming, null);
            coming?.Signal(errno);
        }
    }

    private static ulong WholePages(ulong sizeBytes) => (sizeBytes + PageBytes - 1) & ~(PageBytes - 1);

    private static unsafe ulong AddressOf(MappedMemory window)
    {
        using MemoryHandle pin = window.Pin();
        return (ulong)pin.Pointer;
    }
}
