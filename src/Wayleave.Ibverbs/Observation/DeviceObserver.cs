using System.Buffers;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux;
using Wayleave.Ports;
using Wayleave.Ports.Programs;

namespace Wayleave.Ibverbs.Observation;

/// <summary>
/// Looks at the port of one device for a capture, a trace and a report. Every member but the constructor runs under the
/// port token. For looking, not for speed: the port waits for the files.
/// </summary>
internal sealed class DeviceObserver : IDatagramTap
{
    private const long FramesMax = 1_000_000;

    private readonly Gid _local;
    private readonly ProgramTrace? _trace;
    private readonly ReportPage? _page;
    private readonly AppendFile? _capture;
    private readonly ArrayBufferWriter<byte> _frames = new(1 << 16);
    private DateTimeOffset? _epoch; // the port's zero; known once a datagram has come
    private long _frameCount;

    private DeviceObserver(Gid local, ProgramTrace? trace, ReportPage? page, AppendFile? capture) =>
        (_local, _trace, _page, _capture) = (local, trace, page, capture);

    /// <summary>Whether it wants to see datagrams.</summary>
    public bool TapsDatagrams => _trace is not null || _capture is not null;

    /// <summary>Null when nobody asked for anything.</summary>
    /// <exception cref="IOException">A file that was named cannot be opened.</exception>
    public static DeviceObserver? TryCreate(string device, Gid local)
    {
        string? capture = Environment.GetEnvironmentVariable(ProgramVariables.Pcap);
        string? folder = Environment.GetEnvironmentVariable(ProgramVariables.Report);
        return string.IsNullOrEmpty(capture) && string.IsNullOrEmpty(folder) && ProgramTrace.Instance is null
            ? null
            : new DeviceObserver(
                local,
                ProgramTrace.Instance,
                string.IsNullOrEmpty(folder) ? null : ReportPage.Create(folder, device, local.ToString()),
                string.IsNullOrEmpty(capture) ? null : new AppendFile(capture));
    }

    public void Sent(
        Gid destination, ushort destinationPort, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now)
    {
        FrameHeader header = new()
        {
            Source = _local,
            SourcePort = AddressVector.RoceUdpPort,
            Destination = destination,
            DestinationPort = destinationPort,
        };
        Take(isSent: true, destination, header, bytes, segmentBytes, now);
    }

    public void Received(
        Gid source,
        ushort sourcePort,
        Gid destination,
        ReadOnlySpan<byte> bytes,
        int segmentBytes,
        TimeSpan now)
    {
        FrameHeader header = new()
        {
            Source = source,
            SourcePort = sourcePort,
            Destination = destination,
            DestinationPort = AddressVector.RoceUdpPort,
        };
        Take(isSent: false, source, header, bytes, segmentBytes, now);
    }

    /// <summary>A turn of the port is over: what it did becomes the kernel's.</summary>
    /// <param name="port">Its counters.</param>
    /// <param name="revokes">Of the device.</param>
    public void HandleTurnEnd(RdmaPort port, long revokes)
    {
        const PeerRoute Staging = PeerRoute.Staging;
        _page?.Write(port.Stats, port.Dma.BytesRead(Staging) + port.Dma.BytesWritten(Staging), revokes);
        _trace?.Flush();
        if (_frames.WrittenCount > 0)
        {
            if (_capture!.Append(_frames.WrittenSpan) != Errno.Success)
            {
                _frameCount = FramesMax; // a file that takes no more ends the capture
            }

            _frames.Clear();
        }
    }

    private void Take(
        bool isSent, Gid peer, FrameHeader header, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now)
    {
        _epoch ??= DateTimeOffset.UtcNow - now;
        long nanoseconds = (_epoch.Value + now - DateTimeOffset.UnixEpoch).Ticks * 100;
        int step = segmentBytes <= 0 ? bytes.Length : segmentBytes;
        ushort identification = 0; // of one's own super-packets; what a foreign sender chose nobody can see
        for (int at = 0; at < bytes.Length; at += step)
        {
            ReadOnlySpan<byte> datagram = bytes.Slice(at, Math.Min(step, bytes.Length - at));
            _trace?.AddPacket(isSent, peer, datagram);
            if (_capture is not null && _frameCount++ < FramesMax)
            {
                PcapWriter.WriteDatagram(
                    _frames,
                    nanoseconds,
                    header with
                    {
                        SourceMac = header.Source.ToMacAddress(),
                        DestinationMac = header.Destination.ToMacAddress(),
                        Identification = identification++,
                    },
                    datagram);
            }
        }
    }
}
