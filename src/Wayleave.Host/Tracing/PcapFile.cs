using System.Buffers;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Transfers;
using Wayleave.Linux;
using Wayleave.Ports;

namespace Wayleave.Host.Tracing;

/// <summary>
/// Writes the datagrams of ports to one pcap file, each as the frame it was on the wire: a socket sees neither
/// Ethernet nor IP, so those headers are made again. The identification of what was received from a foreign IPv4 sender
/// is unknown and left zero.
/// </summary>
/// <remarks>
/// For looking, not for speed: the ports wait for the file. Times are UTC. What is captured ends after
/// <c>frameLimit</c> frames, so that a long run cannot fill the disk. When the disk is full all the same the ports go
/// on, the file is removed, and disposing says so.
/// </remarks>
public sealed class PcapFile : IDisposable
{
    private const int FlushBytes = 1 << 20;

    private readonly string _path;
    private readonly Stream _file;
    private readonly ArrayBufferWriter<byte> _buffer = new(2 * FlushBytes);
    private readonly TimeProvider _clock;
    private readonly long _frameLimit;
    private readonly Lock _lock = new();
    private DateTimeOffset _epoch; // the port's zero; known once a datagram has come
    private bool _hasEpoch;
    private Exception? _failure;
    private bool _disposed;

    /// <exception cref="WayleaveException">The file cannot be made.</exception>
    public PcapFile(string path, TimeProvider clock, long frameLimit = 1_000_000)
        : this(path, Open, clock, frameLimit)
    {
    }

    /// <summary>As the other; tests open files that fail.</summary>
    internal PcapFile(string path, Func<string, Stream> open, TimeProvider clock, long frameLimit)
    {
        ArgumentNullException.ThrowIfNull(clock);
        try
        {
            _file = open(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw LocalFile.ToTargetFailure(e, $"write {path}", path);
        }

        _path = path;
        _clock = clock;
        _frameLimit = frameLimit;
        PcapWriter.WriteHeader(_buffer);
    }

    /// <summary>Frames written.</summary>
    public long Frames { get; private set; }

    /// <summary>Frames that came after the limit.</summary>
    public long Dropped { get; private set; }

    /// <summary>What is told the datagrams of a port; ends with this file, and is not disposed by itself.</summary>
    /// <param name="local">The port's address.</param>
    /// <param name="localPort">Its UDP port.</param>
    public IDatagramTap Of(Gid local, ushort localPort) => new PortTap(this, local, localPort);

    private static FileStream Open(string path) =>
        new(path, FileMode.Create, FileAccess.Write, FileShare.Read, bufferSize: 0);

    /// <summary>What is written so far is in the file; later datagrams are ignored. Disposing twice is fine.</summary>
    /// <exception cref="WayleaveException">Something could not be written; says why and what to do.</exception>
    public void Dispose()
    {
        lock (_lock)
        {
            if (!_disposed)
            {
                _disposed = true;
                Flush();
                _file.Dispose();
                ThrowIfFailed();
            }
        }
    }

    // What is there ends somewhere inside a packet.
    private void ThrowIfFailed()
    {
        if (_failure is null)
        {
            return;
        }

        if (FileStatus.TryReadThrough(_path, out FileStatus status) && status.Kind == FileKind.Regular)
        {
            File.Delete(_path);
        }

        throw LocalFile.ToTargetFailure(_failure, $"write {_path}", _path);
    }

    private void Write(FrameHeader header, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now)
    {
        lock (_lock)
        {
            if (!_hasEpoch)
            {
                (_epoch, _hasEpoch) = (_clock.GetUtcNow() - now, true);
            }

            long nanoseconds = (_epoch + now - DateTimeOffset.UnixEpoch).Ticks * 100;
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

    // A port does not fail because nobody can watch it.
    private void Flush()
    {
        try
        {
            if (_failure is null)
            {
                _file.Write(_buffer.WrittenSpan);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            _failure = e;
        }

        _buffer.Clear();
    }

    private sealed class PortTap(PcapFile file, Gid local, ushort localPort) : IDatagramTap
    {
        public void Sent(
            Gid destination, ushort destinationPort, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now) =>
            file.Write(
                new FrameHeader
                {
                    Source = local,
                    SourcePort = localPort,
                    Destination = destination,
                    DestinationPort = destinationPort,
                },
                bytes,
                segmentBytes,
                now);

        public void Received(
            Gid source,
            ushort sourcePort,
            Gid destination,
            ReadOnlySpan<byte> bytes,
            int segmentBytes,
            TimeSpan now) =>
            file.Write(
                new FrameHeader
                {
                    Source = source,
                    SourcePort = sourcePort,
                    Destination = destination,
                    DestinationPort = localPort,
                },
                bytes,
                segmentBytes,
                now);
    }
}
