using System.Buffers;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Buffers;

// Who runs what: Follow and the fence's own questions with the host lock held; Wait without it, by one thread at a
// time or by many. The list is guarded by the host lock. A Wait polls a copy of it, and the descriptors of the copy
// stay open until it is done, so a fence that somebody's look completes meanwhile takes nothing away from it.

/// <summary>
/// Brings fences of the kernel into a host: each <c>sync_file</c> that it follows is a <see cref="Fence"/> of Core, and
/// this is who signals it. It has no thread: whoever waits drives it by <see cref="Wait"/>.
/// </summary>
public sealed unsafe class SyncFileWatcher : IDisposable
{
    private readonly HostContext _host;
    private readonly EventFd _changed = new();
    private readonly List<FollowedFence> _followed = []; // guarded by the host lock
    private bool _isDisposed;

    /// <param name="host">Whose lock guards the fences.</param>
    public SyncFileWatcher(HostContext host)
    {
        ArgumentNullException.ThrowIfNull(host);
        _host = host;
    }

    /// <summary>How many fences have not signalled. Host lock held by the caller.</summary>
    public int PendingCount
    {
        get
        {
            _host.AssertHeld();
            return _followed.Count;
        }
    }

    /// <summary>
    /// A fence that signals after the file has, with its error: as soon as somebody looks, or drives
    /// <see cref="Wait"/>. Host lock held by the caller.
    /// </summary>
    /// <param name="file">Owned by this object from now on, and closed after the signal.</param>
    /// <param name="name">Who signals, for people and proofs: <c>udmabuf 3</c>.</param>
    /// <param name="then">
    /// Runs once on the thread that drives <see cref="Wait"/>, without the host lock, between the kernel's signal and
    /// ours; an error of it is the fence's. With it a look alone does not signal the fence. Null for nothing.
    /// </param>
    public Fence Follow(KernelSyncFile file, string name, Func<Errno>? then = null)
    {
        ArgumentNullException.ThrowIfNull(file);
        if (_isDisposed)
        {
            file.Dispose();
            throw new ObjectDisposedException(nameof(SyncFileWatcher));
        }

        FollowedFence followed = new(_host, file, name, then);
        Fence fence = new(_host, _host.AllocateFenceContexts(), 1, name, followed);
        followed.Fence = fence;
        _followed.Add(followed);
        fence.TryAddCallback(_ => Forget(followed));
        _changed.Signal(); // who sleeps in Wait has an older list
        return fence;
    }

    /// <summary>
    /// Sleeps until a followed file signals, then signals its fence and those of all others that are ready. Without the
    /// host lock.
    /// </summary>
    /// <param name="timeout">Zero only looks; or <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <returns>
    /// How many fences it signalled. 0 also when a fence was added, or a signal handler ran: look at the clock and call
    /// again.
    /// </returns>
    public int Wait(TimeSpan timeout)
    {
        bool isFinite = KernelTime.TryConvert(timeout, out timespec time);
        FollowedFence[] copy;
        using (_host.Enter())
        {
            ObjectDisposedException.ThrowIf(_isDisposed, this);
            _changed.Take(); // what was added until now is in the copy
            copy = [.. _followed];
            foreach (FollowedFence followed in copy)
            {
                followed.File.Descriptor.DangerousAddRef(ref followed.IsHeld);
            }
        }

        pollfd[] polled = ArrayPool<pollfd>.Shared.Rent(copy.Length + 1);
        try
        {
            using FileDescriptor.Borrowed changed = _changed.Descriptor.Borrow();
            polled[copy.Length] = new pollfd { fd = changed.Number, events = poll.POLLIN };
            for (int i = 0; i < copy.Length; i++)
            {
                polled[i] = new pollfd { fd = Number(copy[i].File.Descriptor), events = poll.POLLIN };
            }

            fixed (pollfd* first = polled)
            {
                if (Libc.ppoll(first, (nuint)copy.Length + 1, isFinite ? &time : null, null) < 0)
                {
                    Errno errno = LinuxException.LastErrno();
                    return errno == Errno.EINTR ? 0 : throw new LinuxException("ppoll", "sync files", errno);
                }
            }

            int signalled = 0;
            for (int i = 0; i < copy.Length; i++)
            {
                if ((polled[i].revents & poll.POLLIN) != 0)
                {
                    signalled += Complete(copy[i]) ? 1 : 0;
                }
            }

            return signalled;
        }
        finally
        {
            ArrayPool<pollfd>.Shared.Return(polled);
            foreach (FollowedFence followed in copy)
            {
                followed.File.Descriptor.DangerousRelease();
            }
        }
    }

    /// <summary>
    /// Ends the watch, without the host lock; who sleeps in <see cref="Wait"/> wakes. Nobody is left who could signal
    /// the fences that pend: each is a violation and ends with EDEADLK (<see cref="Fence.Drop"/>).
    /// </summary>
    public void Dispose()
    {
        using (_host.Enter())
        {
            if (_isDisposed)
            {
                return;
            }

            _isDisposed = true;
            foreach (FollowedFence followed in _followed.ToArray())
            {
                followed.Fence!.Drop();
            }
        }

        _changed.Signal();
        _changed.Dispose();
    }

    private static int Number(FileDescriptor held) => (int)held.DangerousGetHandle();

    // False: somebody's look, or another thread that waits, has signalled it or is about to.
    private bool Complete(FollowedFence followed)
    {
        if (!followed.TryRunThen(out Errno error))
        {
            return false;
        }

        using (_host.Enter())
        {
            Fence fence = followed.Fence!;
            if (fence.IsSignaled)
            {
                return false; // its file may be closed
            }

            error = error == Errno.Success ? followed.ReadError() : error;
            if (error != Errno.Success)
            {
                fence.SetError(error);
            }

            fence.Signal();
            return true;
        }
    }

    private void Forget(FollowedFence followed)
    {
        using (_host.Enter())
        {
            _followed.Remove(followed);
        }

        followed.File.Dispose();
    }

    /// <summary>The driver behind a fence that stands for a sync_file.</summary>
    private sealed class FollowedFence(HostContext host, KernelSyncFile file, string name, Func<Errno>? then)
        : IFenceOperations
    {
        private const int Nothing = 0;
        private const int ToRun = 1;
        private const int Runs = 2;

        private int _then = then is null ? Nothing : ToRun;

        public bool IsHeld; // for DangerousAddRef, which wants a reference

        public KernelSyncFile File { get; } = file;

        public Fence? Fence { get; set; }

        public string DriverName => "sync_file";

        public string TimelineName { get; } = name;

        /// <summary>Does what is to be done before the signal.</summary>
        /// <returns>False while another thread is at it.</returns>
        public bool TryRunThen(out Errno error)
        {
            error = Errno.Success;
            int seen = Interlocked.CompareExchange(ref _then, Runs, ToRun);
            if (seen == ToRun)
            {
                error = then!();
                Volatile.Write(ref _then, Nothing);
            }

            return seen != Runs;
        }

        // A look has no way to say with which error: those wait for who drives Wait.
        public bool IsSignaled(Fence fence) => Volatile.Read(ref _then) == Nothing
            && File.TryPoll(TimeSpan.Zero, out bool isSignaled) == Errno.Success
            && isSignaled
            && ReadError() == Errno.Success;

        // A hint, which kernels before 6.6 do not take. Both clocks run alike, from different epochs.
        public void SetDeadline(Fence fence, TimeSpan deadline) =>
            _ = File.TrySetDeadline(KernelTime.Monotonic + (deadline - host.Now));

        public Errno ReadError()
        {
            Errno errno = File.TryGetInfo([], 0, out SyncFileInfo info);
            return errno != Errno.Success ? errno : info.Status < 0 ? (Errno)(-info.Status) : Errno.Success;
        }
    }
}
