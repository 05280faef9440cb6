using Wayleave.Lab.Interop;
using Wayleave.Scenarios.Conformance;

namespace Wayleave.Lab.Guests;

/// <summary>
/// The kernel, asked by system calls: buffers of one of its exporters, with vgem as the device that has jobs.
/// </summary>
internal sealed class KernelBackend(Vgem vgem, Func<int, KernelBuffer> make) : IBufferBackend
{
    public IBufferUnderTest Create(int size) => new Buffer(make(size));

    public IPendingWork Attach(IBufferUnderTest buffer, bool isWriter) =>
        new Work(vgem, vgem.Attach(vgem.Import(((Buffer)buffer).Kernel), isWriter));

    public (ISyncFileUnderTest File, IPendingWork Work) Pending()
    {
        (RawSyncFile file, uint fence) = vgem.Pending();
        return (new SyncFile(file), new Work(vgem, fence));
    }

    private sealed class Work(Vgem vgem, uint fence) : IPendingWork
    {
        public void Signal() => vgem.Signal(fence);
    }

    private sealed class Buffer(KernelBuffer kernel) : IBufferUnderTest
    {
        private const int PatienceMs = 5000;

        public KernelBuffer Kernel => kernel;

        public string Name => kernel.FdInfo("name:");

        public string Seek(long offset, int whence) => KernelResult.Number(Libc.lseek(kernel.Fd, offset, whence));

        public string Sync(ulong flags) => kernel.Sync(flags);

        public string SyncWhile(ulong flags, Action release) =>
            KernelPoll.Blocking([() => kernel.Sync(flags)], release)[0];

        public string SetName(string name) => kernel.SetName(name);

        public string Poll(bool isForIn, bool isForOut) =>
            KernelPoll.Now(kernel.Fd, (isForIn ? Libc.POLLIN : 0) | (isForOut ? Libc.POLLOUT : 0));

        public IReadOnlyList<string> PollWhile(int pollers, Action release) => KernelPoll.Blocking(
            [.. Enumerable.Repeat(() => KernelPoll.Wait(kernel.Fd, Libc.POLLIN, PatienceMs), pollers)], release);

        public ISyncFileUnderTest? TryExport(ulong flags, out string result)
        {
            int fd = kernel.TryExport((uint)flags);
            result = KernelResult.Ok(fd);
            return fd < 0 ? null : new SyncFile(new RawSyncFile(fd));
        }

        // The buffer itself is a descriptor that is no sync_file.
        public string Import(ulong flags, ISyncFileUnderTest? file) =>
            kernel.Import(flags, file is null ? kernel.Fd : ((SyncFile)file).Kernel.Fd);

        public void Dispose() => kernel.Dispose();
    }

    private sealed class SyncFile(RawSyncFile kernel) : ISyncFileUnderTest
    {
        public RawSyncFile Kernel => kernel;

        public string Status() => kernel.Status();

        public string Count(uint room, uint flags) => kernel.Count(room, flags);

        public string SetDeadline(ulong padding) => kernel.SetDeadline(1, padding);

        public ISyncFileUnderTest? TryMerge(ISyncFileUnderTest? other, uint flags, out string result)
        {
            int fd = kernel.TryMerge(other is null ? -1 : ((SyncFile)other).Kernel.Fd, flags);
            result = KernelResult.Ok(fd);
            return fd < 0 ? null : new SyncFile(new RawSyncFile(fd));
        }

        public string Poll() => kernel.Poll();

        public void Dispose() => kernel.Dispose();
    }
}
