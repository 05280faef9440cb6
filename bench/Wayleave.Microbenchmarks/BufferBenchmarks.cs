using BenchmarkDotNet.Attributes;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Microbenchmarks;

/// <summary>
/// The life of an attachment, and of its mapping alone, with the lock of the host and of the buffer taken each time.
/// </summary>
public class BufferBenchmarks
{
    private readonly BenchImporter _importer = new(ImporterKind.Dynamic);
    private HostContext _host = null!;
    private BenchBuffer _bench = null!;
    private Attachment _attachment = null!;
    private Attachment _static = null!;

    [GlobalSetup]
    public void Setup()
    {
        _host = new HostContext(TimeProvider.System);
        using (_host.Enter())
        {
            _bench = new BenchBuffer(_host);
            _attachment = _bench.Attach(_importer);
            _bench.Buffer.TryAttach(BenchBuffer.Device, importer: null, out Attachment? made);
            _static = made!;
        }
    }

    [Benchmark(Baseline = true, Description = "map+unmap, dynamic importer")]
    public void Map() => MapAndUnmap(_attachment);

    [Benchmark(Description = "pin+map+unmap+unpin, static importer")]
    public void MapStatic() => MapAndUnmap(_static);

    [Benchmark(Description = "attach+map+unmap+detach")]
    public void Attach()
    {
        Attachment attachment;
        using (_host.Enter())
        {
            attachment = _bench.Attach(_importer);
        }

        MapAndUnmap(attachment);
        using (_host.Enter())
        {
            _bench.Buffer.Detach(attachment);
        }
    }

    [Benchmark(Description = "poll of an idle buffer")]
    public PollEvents Poll()
    {
        using (_host.Enter())
        {
            return _bench.Buffer.Poll(PollEvents.In | PollEvents.Out);
        }
    }

    private void MapAndUnmap(Attachment attachment)
    {
        using (_host.Enter())
        {
            _bench.Buffer.Reservation.TryLock(_bench.Ticket);
            attachment.MapLocked(_bench.Ticket, DmaDirection.Bidirectional);
            attachment.UnmapLocked(_bench.Ticket);
            _bench.Buffer.Reservation.Unlock(_bench.Ticket);
        }
    }
}
