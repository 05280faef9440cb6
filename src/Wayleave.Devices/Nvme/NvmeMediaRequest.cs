using Wayleave.Core;

namespace Wayleave.Devices.Nvme;

/// <summary>What a controller asks of the medium behind a namespace.</summary>
public enum NvmeMediaKind
{
    Read,
    Write,

    /// <summary>Everything that was written is to survive a loss of power.</summary>
    Flush,
}

/// <summary>
/// One request to the medium: read into or write from a buffer inside the drive. Handed out by
/// <see cref="NvmeController.TryTakeMediaRequest"/>; whoever took it calls <see cref="Complete"/> exactly once, on any
/// thread, and does not touch it afterwards.
/// </summary>
public sealed class NvmeMediaRequest
{
    private readonly Memory<byte> _slot;
    private readonly NvmeController _controller;
    private int _state = 1; // 0 handed out, 1 complete or never used

    internal NvmeMediaRequest(NvmeController controller, Memory<byte> slot) =>
        (_controller, _slot) = (controller, slot);

    public NvmeMediaKind Kind { get; private set; }

    public NvmeNamespace Namespace { get; private set; } = null!;

    /// <summary>From the start of the namespace; a multiple of its block size.</summary>
    public long OffsetBytes { get; private set; }

    /// <summary>
    /// The drive's own memory, aligned to 4096 bytes; as long as what is to be moved, empty for a flush.
    /// </summary>
    public Memory<byte> Buffer { get; private set; }

    /// <summary>Set by <see cref="Complete"/>.</summary>
    public Errno Errno { get; private set; }

    /// <summary>Whether the medium has the buffer.</summary>
    internal bool IsOut => Volatile.Read(ref _state) == 0;

    /// <summary>The request has ended, all of it; the buffer belongs to the drive again.</summary>
    public void Complete(Errno errno)
    {
        Errno = errno;
        if (Interlocked.Exchange(ref _state, 1) != 0)
        {
            throw new InvalidOperationException("the media request was completed already");
        }

        _controller.RingInternally();
    }

    internal void Begin(NvmeMediaKind kind, NvmeNamespace @namespace, long offset, int length)
    {
        (Kind, Namespace, OffsetBytes, Buffer) = (kind, @namespace, offset, _slot[..length]);
        Errno = Errno.Success;
        Volatile.Write(ref _state, 0);
    }
}
