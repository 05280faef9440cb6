using Wayleave.Core.Topology;

namespace Wayleave.Devices.Nvme;

// fetched --Read--> media --> copy out --+
//         --Write-> copy in --> media ---+--> done --> posted (free)
//         --Flush-> media ---------------+
//         --admin, bad, aborted----------+
//
// No DMA happens for a request once it is done. One that was aborted, or ended by a reset, while the medium had its
// buffer is not free afterwards: the buffer is lent until the medium gives it back.

/// <summary>Where a request is.</summary>
internal enum NvmeRequestState
{
    Free,
    CopyIn,
    Media,
    CopyOut,
    Done,

    /// <summary>The command has ended, and the medium still has the buffer.</summary>
    Lent,
}

/// <summary>A command inside the controller, with its buffer. One of a fixed number, used again and again.</summary>
internal sealed class NvmeRequest(NvmeController controller, Memory<byte> slot)
{
    private readonly Memory<byte> _slot = slot;

    public NvmeMediaRequest Media { get; } = new(controller, slot);

    public NvmeDataPointer Pointer { get; } = new();

    public NvmeRequestState State { get; set; }

    public NvmeCommand Command { get; private set; }

    public NvmeSubmissionQueue Queue { get; private set; } = null!;

    public NvmeStatus Status { get; set; }

    public uint Result { get; set; }

    public bool IsAborted { get; set; }

    public int LengthBytes { get; set; }

    /// <summary>Bytes that were copied between the buffer and memory.</summary>
    public int DoneBytes { get; private set; }

    public Span<byte> Buffer => _slot.Span[..LengthBytes];

    private int _range;
    private ulong _offset;

    public void Begin(in NvmeCommand command, NvmeSubmissionQueue queue)
    {
        (Command, Queue, Status, Result, IsAborted) = (command, queue, NvmeStatus.Success, 0, false);
        (LengthBytes, DoneBytes, _range, _offset) = (0, 0, 0, 0);
        queue.Outstanding++;
    }

    public void End(NvmeStatus status)
    {
        Status = status;
        State = NvmeRequestState.Done;
    }

    /// <summary>Whether there is a command that has not ended.</summary>
    public bool IsOpen => State is not (NvmeRequestState.Free or NvmeRequestState.Lent);

    /// <summary>The command has ended: the request takes another one as soon as its buffer is here.</summary>
    public void Release() =>
        State = Media.IsOut ? NvmeRequestState.Lent : NvmeRequestState.Free;

    /// <summary>The next piece of memory and how much of it is left; null for bytes that are dropped.</summary>
    public DeviceAddress? Next(int blockBytes, out int length)
    {
        NvmeSegment segment = Pointer.Segments[_range];
        length = (int)Math.Min(segment.Range.LengthBytes - _offset, (ulong)blockBytes);
        return segment.IsDiscarded ? null : segment.Range.Start + _offset;
    }

    public void Advance(int bytes)
    {
        DoneBytes += bytes;
        _offset += (ulong)bytes;
        if (_offset == Pointer.Segments[_range].Range.LengthBytes)
        {
            (_range, _offset) = (_range + 1, 0);
        }
    }
}
