using System.Globalization;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Lab.Interop;
using Wayleave.Linux.Buffers;
using Wayleave.Scenarios.Conformance;

namespace Wayleave.Lab.Guests;

/// <summary>The kernel through the product's adapters: what <see cref="KernelBackend"/> asks by itself.</summary>
internal sealed class AdapterBackend(AdapterDevices devices, string exporter) : IBufferBackend
{
    public IBufferUnderTest Create(int size) => new Buffer(devices.Create(exporter, size));

    public IPendingWork Attach(IBufferUnderTest buffer, bool isWriter) =>
        new Work(devices, devices.Attach(((Buffer)buffer).DmaBuf, isWriter));

    public (ISyncFileUnderTest File, IPendingWork Work) Pending()
    {
        (KernelSyncFile file, uint fence) = devices.Pending();
        return (new File(file), new Work(devices, fence));
    }

    private static string Name(Errno errno) => errno == Errno.Success ? "ok" : KernelResult.Name((int)errno);

    private sealed class Work(AdapterDevices devices, uint fence) : IPendingWork
    {
        public void Signal() => devices.Fences.TrySignal(fence);
    }

    private sealed class Buffer(DmaBuf buffer) : IBufferUnderTest
    {
        private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(5);

        public DmaBuf DmaBuf => buffer;

        public string Name => buffer.ReadName();

        public string Seek(long offset, int whence)
        {
            Errno errno = buffer.TrySeek(offset, (SeekWhence)whence, out ulong position);
            return errno == Errno.Success
                ? position.ToString(CultureInfo.InvariantCulture) : KernelResult.Name((int)errno);
        }

        public string Sync(ulong flags) => AdapterBackend.Name(buffer.TrySync((BufferSync)flags));

        public string SyncWhile(ulong flags, Action release) =>
            KernelPoll.Blocking([() => Sync(flags)], release)[0];

        public string SetName(string name) => AdapterBackend.Name(buffer.TrySetName(name));

        public string Poll(bool isForIn, bool isForOut) => Poll(
            (isForIn ? PollEvents.In : PollEvents.None) | (isForOut ? PollEvents.Out : PollEvents.None), TimeSpan.Zero);

        public IReadOnlyList<string> PollWhile(int pollers, Action release) =>
            KernelPoll.Blocking([.. Enumerable.Repeat(() => Poll(PollEvents.In, s_patience), pollers)], release);

        public ISyncFileUnderTest? TryExport(ulong flags, out string result)
        {
            result = AdapterBackend.Name(buffer.TryExportSyncFile((BufferSync)flags, out KernelSyncFile? file));
            return file is null ? null : new File(file);
        }

        // The buffer itself is a descriptor that is no sync_file.
        public string Import(ulong flags, ISyncFileUnderTest? file) => AdapterBackend.Name(
            buffer.TryImportSyncFile((BufferSync)flags, ((File?)file)?.Kernel.Descriptor ?? buffer.Descriptor));

        public void Dispose() => buffer.Dispose();

        private string Poll(PollEvents events, TimeSpan timeout)
        {
            Errno errno = buffer.TryPoll(events, timeout, out PollEvents ready);
            return errno != Errno.Success ? errno.ToString() : ready switch
            {
                PollEvents.None => "nothing",
                PollEvents.In => "in",
                PollEvents.Out => "out",
                _ => "in out",
            };
        }
    }

    private sealed class File(KernelSyncFile file) : ISyncFileUnderTest
    {
        public KernelSyncFile Kernel => file;

        public string Status()
        {
            SyncFenceInfo[] fences = new SyncFenceInfo[64];
            Errno errno = file.TryGetInfo(fences, 0, out SyncFileInfo info);
            int pending = fences.Take(info.Count).Count(f => f.Status == 0);
            return errno == Errno.Success
                ? $"status {info.Status}, {pending} of {info.Count} pending" : errno.ToString();
        }

        public string Count(uint room, uint flags)
        {
            Errno errno = file.TryGetInfo(new SyncFenceInfo[room], flags, out SyncFileInfo info);
            return errno == Errno.Success ? info.Count.ToString(CultureInfo.InvariantCulture) : errno.ToString();
        }

        public string SetDeadline(ulong padding) => Name(file.TrySetDeadline(TimeSpan.FromTicks(1), padding));

        // A descriptor of the process that is no sync_file: its own memory.
        public ISyncFileUnderTest? TryMerge(ISyncFileUnderTest? other, uint flags, out string result)
        {
            using Linux.FileDescriptor none = new(Libc.memfd_create("none", 0), ownsHandle: true);
            Linux.FileDescriptor second = ((File?)other)?.Kernel.Descriptor ?? none;
            result = Name(file.TryMerge(second, "m", flags, out KernelSyncFile? merged));
            return merged is null ? null : new File(merged);
        }

        public string Poll() =>
            file.TryPoll(TimeSpan.Zero, out bool isSignaled) == Errno.Success && isSignaled ? "in" : "nothing";

        public void Dispose() => file.Dispose();
    }
}
