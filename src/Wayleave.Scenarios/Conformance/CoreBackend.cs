using System.Globalization;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;

namespace Wayleave.Scenarios.Conformance;

/// <summary>
/// What stands behind the buffers of a <see cref="CoreBackend"/>: our own storage and fences, or those of a kernel's.
/// Called with the host lock held, unless a member says otherwise.
/// </summary>
public interface ICoreParts
{
    /// <summary>Storage for one buffer of that many bytes.</summary>
    IExporter CreateStorage(int size);

    /// <summary>A fence of a context of its own, as vgem's fences are.</summary>
    /// <param name="name">For people.</param>
    /// <param name="storage">Of the buffer that the job uses, which gets the fence from the caller; null: none.</param>
    /// <param name="isWriter">Whether the job writes.</param>
    Fence CreateFence(string name, IExporter? storage, bool isWriter);

    /// <summary>Ends the job: returns when its fence has signalled. Without the lock.</summary>
    void Signal(Fence fence);

    /// <summary>
    /// What was signalled may still have to become known to this host. Returns when it has. Without the lock.
    /// </summary>
    void Settle();
}

/// <summary>
/// Core's buffers and fences, answering as a kernel would. Core never blocks: what would sleep says what it waits for,
/// and is asked again when that has signalled.
/// </summary>
/// <param name="host">Of the buffers.</param>
/// <param name="parts">What stands behind them.</param>
/// <param name="forgetsReaders">Loses the fences of jobs that read: a twin, to be told from the rest.</param>
public sealed class CoreBackend(HostContext host, ICoreParts parts, bool forgetsReaders = false) : IBufferBackend
{
    private int _works;

    public IBufferUnderTest Create(int size)
    {
        using HostContext.Scope held = host.Enter();
        ExportInfo info = new(parts.CreateStorage(size), "lent", (ulong)size);
        Errno errno = SharedBuffer.TryExport(host, info, out SharedBuffer? buffer);
        return errno == Errno.Success
            ? new Buffer(host, parts, buffer!)
            : throw new InvalidOperationException($"{errno}");
    }

    public IPendingWork Attach(IBufferUnderTest buffer, bool isWriter)
    {
        using HostContext.Scope held = host.Enter();
        Buffer used = (Buffer)buffer;
        Fence fence = NewFence(used.Storage, isWriter);
        if (isWriter || !forgetsReaders)
        {
            used.Add(fence, isWriter ? ReservationUsage.Write : ReservationUsage.Read);
        }

        return new Work(parts, fence);
    }

    public (ISyncFileUnderTest File, IPendingWork Work) Pending()
    {
        using HostContext.Scope held = host.Enter();
        Fence fence = NewFence(storage: null, isWriter: true);
        return (new File(host, new SyncFile(host, fence)), new Work(parts, fence));
    }

    private Fence NewFence(IExporter? storage, bool isWriter) =>
        parts.CreateFence($"work {++_works}", storage, isWriter);

    private static string Name(Errno errno) => errno == Errno.Success ? "ok" : errno.ToString();

    private sealed class Work(ICoreParts parts, Fence fence) : IPendingWork
    {
        public void Signal() => parts.Signal(fence);
    }

    private sealed class Buffer(HostContext host, ICoreParts parts, SharedBuffer buffer) : IBufferUnderTest
    {
        private readonly BufferFile _file = new(buffer);

        public IExporter Storage => buffer.Exporter;

        public string Name
        {
            get
            {
                using HostContext.Scope held = host.Enter();
                return buffer.Name;
            }
        }

        public void Add(Fence fence, ReservationUsage usage)
        {
            AcquireTicket ticket = Lock();
            buffer.Reservation.ReserveFences(ticket, 1);
            buffer.Reservation.AddFence(ticket, fence, usage);
            buffer.Reservation.Unlock(ticket);
        }

        public string Seek(long offset, int whence)
        {
            using HostContext.Scope held = host.Enter();
            Errno errno = _file.TrySeek(offset, (SeekWhence)whence, out ulong position);
            return errno == Errno.Success ? position.ToString(CultureInfo.InvariantCulture) : errno.ToString();
        }

        public string Sync(ulong flags)
        {
            using HostContext.Scope held = host.Enter();
            Errno errno = _file.TrySync((BufferSync)flags, out CpuAccess? access, out _);
            bool mustWait = access is not null && (flags & (ulong)BufferSync.End) == 0
                && access.FirstUnsignaled() is not null;
            return mustWait ? "has to wait" : CoreBackend.Name(errno);
        }

        public string SyncWhile(ulong flags, Action release)
        {
            CpuAccess? access;
            Errno errno;
            bool mustWait;
            using (host.Enter())
            {
                errno = _file.TrySync((BufferSync)flags, out access, out _);
                mustWait = access?.FirstUnsignaled() is not null;
            }

            release();
            parts.Settle();
            using HostContext.Scope held = host.Enter();
            string result = access?.FirstUnsignaled() is null ? CoreBackend.Name(errno) : "still has to wait";
            return (mustWait ? "after the signal: " : "at once: ") + result;
        }

        public string SetName(string name)
        {
            using HostContext.Scope held = host.Enter();
            return CoreBackend.Name(buffer.SetName(name));
        }

        public string Poll(bool isForIn = true, bool isForOut = true)
        {
            using HostContext.Scope held = host.Enter();
            return Text(buffer.Poll(
                (isForIn ? PollEvents.In : PollEvents.None) | (isForOut ? PollEvents.Out : PollEvents.None)));
        }

        public IReadOnlyList<string> PollWhile(int pollers, Action release)
        {
            int woken = 0;
            PollEvents[] before = new PollEvents[pollers];
            using (host.Enter())
            {
                for (int i = 0; i < pollers; i++)
                {
                    before[i] = buffer.Poll(PollEvents.In, () => woken++);
                }
            }

            release();
            using HostContext.Scope held = host.Enter();
            int waited = before.Count(b => b == PollEvents.None);
            return [.. before.Select(b => b != PollEvents.None ? $"at once: {Text(b)}"
                : woken == waited ? $"after the signal: {Text(buffer.Poll(PollEvents.In))}"
                : $"{woken} of {waited} were woken")];
        }

        public ISyncFileUnderTest? TryExport(ulong flags, out string result)
        {
            using HostContext.Scope held = host.Enter();
            Errno errno = _file.TryExportSyncFile((BufferSync)flags, out SyncFile? file);
            result = CoreBackend.Name(errno);
            return file is null ? null : new File(host, file);
        }

        public string Import(ulong flags, ISyncFileUnderTest? file)
        {
            using HostContext.Scope held = host.Enter();
            AcquireTicket ticket = Lock();
            Errno errno = _file.TryImportSyncFileLocked(ticket, (BufferSync)flags, ((File?)file)?.Sync);
            buffer.Reservation.Unlock(ticket);
            return CoreBackend.Name(errno);
        }

        public void Dispose()
        {
            using HostContext.Scope held = host.Enter();
            buffer.Release();
        }

        private static string Text(PollEvents events) => events switch
        {
            PollEvents.None => "nothing",
            PollEvents.In => "in",
            PollEvents.Out => "out",
            _ => "in out",
        };

        private AcquireTicket Lock()
        {
            AcquireTicket ticket = new(host, "conformance");
            LockOutcome outcome = buffer.Reservation.TryLock(ticket);
            return outcome.Kind == LockOutcomeKind.Acquired
                ? ticket
                : throw new InvalidOperationException($"the reservation is held: {outcome.Kind}");
        }
    }

    private sealed class File(HostContext host, SyncFile file) : ISyncFileUnderTest
    {
        public SyncFile Sync { get; } = file;

        public string Status()
        {
            using HostContext.Scope held = host.Enter();
            SyncFenceInfo[] fences = new SyncFenceInfo[64];
            Errno errno = Sync.TryGetInfo(fences, 0, out SyncFileInfo info);
            int pending = fences.Take(info.Count).Count(f => f.Status == 0);
            return errno == Errno.Success
                ? $"status {info.Status}, {pending} of {info.Count} pending" : errno.ToString();
        }

        public string Count(uint room, uint flags)
        {
            using HostContext.Scope held = host.Enter();
            Errno errno = Sync.TryGetInfo(new SyncFenceInfo[room], flags, out SyncFileInfo info);
            return errno == Errno.Success ? info.Count.ToString(CultureInfo.InvariantCulture) : errno.ToString();
        }

        public string SetDeadline(ulong padding)
        {
            using HostContext.Scope held = host.Enter();
            return CoreBackend.Name(Sync.TrySetDeadline(TimeSpan.FromTicks(1), padding));
        }

        public ISyncFileUnderTest? TryMerge(ISyncFileUnderTest? other, uint flags, out string result)
        {
            using HostContext.Scope held = host.Enter();
            Errno errno = Sync.TryMerge(((File?)other)?.Sync, "merged", flags, out SyncFile? merged);
            result = CoreBackend.Name(errno);
            return merged is null ? null : new File(host, merged);
        }

        public string Poll()
        {
            using HostContext.Scope held = host.Enter();
            return Sync.Poll() ? "in" : "nothing";
        }

        public void Dispose()
        {
            // Nothing but memory.
        }
    }
}
