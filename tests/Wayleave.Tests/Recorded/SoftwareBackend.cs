using System.Globalization;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Scenarios.Conformance;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;

namespace Wayleave.Tests.Recorded;

/// <summary>
/// Our own buffers and fences, answering as a kernel would. Core never blocks: what would sleep says what it waits for,
/// and is asked again when that has signalled.
/// </summary>
internal sealed class SoftwareBackend(bool forgetsReaders = false) : IBufferBackend
{
    private readonly HostContext _host = new(new VirtualClock(), new TraceLog());
    private int _works;

    public IBufferUnderTest Create(int size)
    {
        using HostContext.Scope held = _host.Enter();
        ExportInfo info = new(new BareExporter(), "lent", (ulong)size);
        Errno errno = SharedBuffer.TryExport(_host, info, out SharedBuffer? buffer);
        return errno == Errno.Success ? new Buffer(_host, buffer!) : throw new InvalidOperationException($"{errno}");
    }

    public IPendingWork Attach(IBufferUnderTest buffer, bool isWriter)
    {
        using HostContext.Scope held = _host.Enter();
        Fence fence = NewFence();
        if (isWriter || !forgetsReaders)
        {
            ((Buffer)buffer).Add(fence, isWriter ? ReservationUsage.Write : ReservationUsage.Read);
        }

        return new Work(_host, fence);
    }

    public (ISyncFileUnderTest File, IPendingWork Work) Pending()
    {
        using HostContext.Scope held = _host.Enter();
        Fence fence = NewFence();
        return (new File(_host, new SyncFile(_host, fence)), new Work(_host, fence));
    }

    // A context of its own for each, as vgem's fences have.
    private Fence NewFence() => new Timeline(_host, $"work {++_works}").CreateFence();

    private static string Name(Errno errno) => errno == Errno.Success ? "ok" : errno.ToString();

    private sealed class Work(HostContext host, Fence fence) : IPendingWork
    {
        public void Signal()
        {
            using HostContext.Scope held = host.Enter();
            fence.Signal();
        }
    }

    private sealed class Buffer(HostContext host, SharedBuffer buffer) : IBufferUnderTest
    {
        private readonly BufferFile _file = new(buffer);

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
            bool mustWait = errno == Errno.Success && (flags & (ulong)BufferSync.End) == 0
                && access!.FirstUnsignaled() is not null;
            return mustWait ? "has to wait" : SoftwareBackend.Name(errno);
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
            using HostContext.Scope held = host.Enter();
            string result = access?.FirstUnsignaled() is null ? SoftwareBackend.Name(errno) : "still has to wait";
            return (mustWait ? "after the signal: " : "at once: ") + result;
        }

        public string SetName(string name)
        {
            using HostContext.Scope held = host.Enter();
            return SoftwareBackend.Name(buffer.SetName(name));
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
            result = SoftwareBackend.Name(errno);
            return file is null ? null : new File(host, file);
        }

        public string Import(ulong flags, ISyncFileUnderTest? file)
        {
            using HostContext.Scope held = host.Enter();
            AcquireTicket ticket = Lock();
            Errno errno = _file.TryImportSyncFileLocked(ticket, (BufferSync)flags, ((File?)file)?.Sync);
            buffer.Reservation.Unlock(ticket);
            return SoftwareBackend.Name(errno);
        }

        public void Dispose()
        {
            using HostContext.Scope held = host.Enter();
            buffer.Put();
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
            return SoftwareBackend.Name(Sync.TrySetDeadline(TimeSpan.FromTicks(1), padding));
        }

        public ISyncFileUnderTest? TryMerge(ISyncFileUnderTest? other, uint flags, out string result)
        {
            using HostContext.Scope held = host.Enter();
            Errno errno = Sync.TryMerge(((File?)other)?.Sync, "merged", flags, out SyncFile? merged);
            result = SoftwareBackend.Name(errno);
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
