using System.Buffers;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ports;

namespace Wayleave.Host.Tracing;

/// <summary>
/// Writes the datagrams of one port to a pcap file, each as the frame it was on the wire: a socket sees neither
/// Ethernet nor IP, so those headers are made again. The identification of what was received from a foreign IPv4 sender
/// is unknown and left zero.
/// </summary>
/// <remarks>
/// For looking, not for speed: the port waits for the file. Times are UTC. What is captured ends after
/// <c>frameLimit</c> frames, so that a long run cannot fill the disk.
/// </remarks>
public sealed class PcapFile : IDatagramTap, IDisposable
{
    private const int FlushBytes = 1 << 20;

    private readonly FileStream _file;
    private readonly ArrayBufferWriter<byte> _buffer = new(2 * FlushBytes);
    private readonly Gid _local;
    private readonly ushort _localPort;
    private readonly DateTimeOffset _start;
    private readonly long _frameLimit;
    private readonly Lock _lock = new();
    private TimeSpan? _origin;
    private bool _disposed;

    /// <exception cref="WayleaveException">The file cannot be made.</exception>
    public PcapFile(string path, Gid local, ushort localPort, TimeProvider clock, long frameLimit = 1_000_000)
    {
        ArgumentNullException.ThrowIfNull(clock);
        try
        {
            _file = new FileStream(path, FileMode.Create, FileAccess.Write, FileShare.Read, bufferSize: 0);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw ErrnoMap.ToException(e, $"write {path}");
        }

        _local = local;
        _localPort = localPort;
        _start = clock.GetUtcNow();
        _frameLimit = frameLimit;
        PcapWriter.WriteHeader(_buffer);
    }

    /// <summary>Frames written.</summary>
    public long Frames { get; private set; }

    /// <summary>Frames that came after the limit.</summary>
    public long Dropped { get; private set; }

    public void Sent(
        Gid destination, ushort destinationPort, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now) =>
        Write(
            new FrameHeader
            {
                Source = _local,
                SourcePort = _localPort,
                Destination = destination,
                DestinationPort = destinationPort,
            },
            bytes,
            segmentBytes,
            now);

    public void Received(Gid source, ushort sourcePort, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now) =>
        Write(
            new FrameHeader
            {
                Source = source,
                SourcePort = sourcePort,
                Destination = _local,
                DestinationPort = _localPort,
            },
            bytes,
            segmentBytes,
            now);

    public void Dispose()
    {
        lock (_lock)
        {
            if (!_disposed)
            {
                _disposed = true;
                Flush();
                _file.Dispose();
            }
        }
    }

    private void Write(FrameHeader header, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now)
    {
        lock (_lock)
        {
            _origin ??= now;
            long nanoseconds = ((_start - DateTimeOffset.UnixEpoch) + (now - _origin.Value)).Ticks * 100;
            ushort identification = 0;
            for (int offset = 0; offset < bytes.Length && !_disposed; offset += segmentBytes)
            {
                if (Frames == _frameLimit)
                {
                    Dropped++;
                    continue;
                }

                ReadOnlySpan<byte> segment = bytes.Slice(offset, Math.Min(segmentBytes, bytes.Length - offset));
                PcapWriter.WriteDatagram(
                    _buffer,
                    nanoseconds,
                    header with
                    {
                        SourceMac = header.Source.ToMacAddress(),
                        DestinationMac = header.Destination.ToMacAddress(),
                        Identification = identification++,
                    },
                    segment);
                Frames++;
            }

            if (_buffer.WrittenCount >= FlushBytes)
            {
                Flush();
            }
        }
    }

    private void Flush()
    {
        _file.Write(_buffer.WrittenSpan);
        _buffer.Clear();
    }
}
