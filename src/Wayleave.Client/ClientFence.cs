using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Client;

/// <summary>
/// The end of some work, as a descriptor (<c>sync_file</c>): whoever has it, or a copy of it, in any process, may wait
/// for the fence with poll(2) and let work wait for it. It needs no connection, and no wait for it is longer than the
/// host's life. Disposing closes this copy.
/// </summary>
public sealed class ClientFence : IDisposable
{
    private ClientFence(FileDescriptor descriptor) => Descriptor = descriptor;

    /// <summary>
    /// Readable in poll(2) once the fence has signalled, for good. To be sent by SCM_RIGHTS, inherited or passed on as
    /// any descriptor; owned by this object. What is read from it is for <see cref="TryGetResult"/> alone, and what is
    /// written to it ends it for all copies.
    /// </summary>
    public FileDescriptor Descriptor { get; }

    /// <summary>A fence that came from another process.</summary>
    /// <param name="descriptor">Owned by the fence from now on.</param>
    public static ClientFence FromDescriptor(FileDescriptor descriptor)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        return new ClientFence(descriptor);
    }

    /// <summary>Waits until it has signalled, well or not (<c>sync_wait</c>). Any thread; several may.</summary>
    /// <param name="timeout">Relative, or <see cref="Timeout.InfiniteTimeSpan"/>; zero only looks.</param>
    /// <returns>False when the time is over.</returns>
    public bool Wait(TimeSpan timeout)
    {
        long start = Stopwatch.GetTimestamp();
        TimeSpan left = timeout;
        while (!HandleSignal.Wait(Descriptor, left))
        {
            if (timeout != Timeout.InfiniteTimeSpan)
            {
                left = timeout - Stopwatch.GetElapsedTime(start);
                if (left <= TimeSpan.Zero)
                {
                    return HandleSignal.Wait(Descriptor, TimeSpan.Zero);
                }
            }
        }

        return true;
    }

    /// <summary>What the work ended with.</summary>
    /// <param name="error">
    /// Success; ECANCELED when its program died or its memory was taken back; ENOENT when a timeline was closed;
    /// ECONNRESET when the host is dead, which then nobody can ask.
    /// </param>
    /// <param name="timestamp">When it ended, on the host's clock; zero when the host is dead.</param>
    /// <returns>False while it is pending.</returns>
    public bool TryGetResult(out Errno error, out TimeSpan timestamp) =>
        HandleSignal.TryRead(Descriptor, out error, out timestamp);

    public void Dispose() => Descriptor.Dispose();
}

/// <summary>What a host says of a fence (<c>SYNC_IOC_FILE_INFO</c>).</summary>
/// <param name="Name">Given at a merge, or made from what it is.</param>
/// <param name="Status">1 when all succeeded, 0 while one is pending, else a negative errno.</param>
/// <param name="IsForced">It had to be signalled in the place of its owner, and is no evidence that work ended.</param>
/// <param name="Count">Plain fences that it is made of.</param>
/// <param name="Parts">Those, or the first of very many.</param>
public sealed record FenceStatus(
    string Name, int Status, bool IsForced, int Count, IReadOnlyList<FencePart> Parts);

/// <summary>One plain fence (<c>struct sync_fence_info</c>).</summary>
/// <param name="Timeline">What its driver calls its context.</param>
/// <param name="Driver">Who signals it; <c>detached-driver</c> once it has signalled.</param>
/// <param name="Status">0 pending, 1 succeeded, or a negative errno.</param>
/// <param name="Timestamp">When it signalled, on the host's clock; zero while pending.</param>
public sealed record FencePart(string Timeline, string Driver, int Status, TimeSpan Timestamp);

/// <summary>Which accesses a fence stands for in a buffer; numbers of <c>DMA_BUF_SYNC_*</c>.</summary>
[Flags]
public enum FenceUse
{
    None = 0,

    Read = 1,

    Write = 2,

    ReadWrite = Read | Write,
}
