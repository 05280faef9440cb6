using System.Runtime.CompilerServices;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet;

/// <summary>
/// What a port has done since it was made, in all its queues. Plain counters, written under the port token; a reader
/// without it sees each number whole but not all of one moment.
/// </summary>
public struct NicStats
{
    private DropCounters _drops;

    public long FramesReceived { get; internal set; }

    public long BytesReceived { get; internal set; }

    public long FramesSent { get; internal set; }

    public long BytesSent { get; internal set; }

    /// <summary>Frames dropped; by reason in <see cref="Drops"/>.</summary>
    public long FramesDropped { get; internal set; }

    /// <summary>Frames whose checksum the link had verified, or had not made yet.</summary>
    public long ChecksumsTrusted { get; internal set; }

    /// <summary>Frames whose checksum was verified here.</summary>
    public long ChecksumsVerified { get; internal set; }

    /// <summary>Super-packets received.</summary>
    public long SuperFramesReceived { get; internal set; }

    /// <summary>Super-packets handed to the link.</summary>
    public long SuperFramesSent { get; internal set; }

    /// <summary>Frames that were dropped for that reason.</summary>
    public readonly long Drops(FrameDrop reason) => _drops[(int)reason];

    internal void CountDrop(FrameDrop reason)
    {
        FramesDropped++;
        _drops[(int)reason]++;
    }

    [InlineArray((int)FrameDrop.NoMemory + 1)]
    private struct DropCounters
    {
        private long _first;
    }
}
