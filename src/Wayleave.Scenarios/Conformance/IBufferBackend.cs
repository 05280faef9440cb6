namespace Wayleave.Scenarios.Conformance;

/// <summary>
/// Something that shares buffers the way dma-buf does, to be asked by <see cref="BufferConformance"/>: a kernel, or
/// ours. Answers are text, so that both say the same in the same words: <c>ok</c>, a number, or the name of an errno.
/// </summary>
public interface IBufferBackend
{
    /// <summary>A buffer without fences, of that many bytes.</summary>
    IBufferUnderTest Create(int size);

    /// <summary>A job of a device that reads or writes the buffer and does not end before it is told.</summary>
    IPendingWork Attach(IBufferUnderTest buffer, bool isWriter);

    /// <summary>A job that no buffer knows, and a file that stands for its end.</summary>
    (ISyncFileUnderTest File, IPendingWork Work) Pending();
}

/// <summary>A job that is told when to end.</summary>
public interface IPendingWork
{
    /// <summary>Ends it: its fence signals.</summary>
    void Signal();
}

/// <summary>A buffer, as a process sees it by its handle.</summary>
public interface IBufferUnderTest : IDisposable
{
    /// <summary>lseek: the position, or the errno. Whence is 0 from the start, 1 from here, 2 from the end.</summary>
    string Seek(long offset, int whence);

    /// <summary>DMA_BUF_IOCTL_SYNC, which must not have to wait.</summary>
    string Sync(ulong flags);

    /// <summary>
    /// DMA_BUF_IOCTL_SYNC, which may have to wait; then <paramref name="release"/> lets it go on.
    /// </summary>
    /// <returns><c>at once: RESULT</c> or <c>after the signal: RESULT</c>.</returns>
    string SyncWhile(ulong flags, Action release);

    /// <summary>DMA_BUF_SET_NAME.</summary>
    string SetName(string name);

    /// <summary>The name that others are shown.</summary>
    string Name { get; }

    /// <summary>What is ready now: <c>in</c>, <c>out</c>, <c>in out</c> or <c>nothing</c>.</summary>
    string Poll(bool isForIn = true, bool isForOut = true);

    /// <summary>So many pollers wait for IN; then <paramref name="release"/> lets them go on.</summary>
    /// <returns>For each, <c>at once: READY</c> or <c>after the signal: READY</c>.</returns>
    IReadOnlyList<string> PollWhile(int pollers, Action release);

    /// <summary>DMA_BUF_IOCTL_EXPORT_SYNC_FILE; null with the errno in <paramref name="result"/>.</summary>
    ISyncFileUnderTest? TryExport(ulong flags, out string result);

    /// <summary>DMA_BUF_IOCTL_IMPORT_SYNC_FILE; null is a descriptor that is no sync_file.</summary>
    string Import(ulong flags, ISyncFileUnderTest? file);
}

/// <summary>A sync_file.</summary>
public interface ISyncFileUnderTest : IDisposable
{
    /// <summary>SYNC_IOC_FILE_INFO: <c>status S, P of N pending</c>.</summary>
    string Status();

    /// <summary>SYNC_IOC_FILE_INFO with room for so many fences: the count that it answers, or the errno.</summary>
    string Count(uint room, uint flags);

    /// <summary>SYNC_IOC_SET_DEADLINE, of one nanosecond.</summary>
    string SetDeadline(ulong padding);

    /// <summary>SYNC_IOC_MERGE; null is a descriptor that is no sync_file.</summary>
    ISyncFileUnderTest? TryMerge(ISyncFileUnderTest? other, uint flags, out string result);

    /// <summary><c>in</c> or <c>nothing</c>.</summary>
    string Poll();
}
