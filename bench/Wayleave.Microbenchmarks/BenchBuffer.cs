using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Microbenchmarks;

/// <summary>A buffer whose exporter does nothing but count its pins: what is measured is Core.</summary>
internal sealed class BenchBuffer : IPinningExporter
{
    private static readonly DmaAddressList s_list = new([new DeviceRange(new DeviceAddress(0x1000), 0x10_0000)]);

    private int _pins;

    public BenchBuffer(HostContext host)
    {
        SharedBuffer.TryExport(host, new ExportInfo(this, "lent", s_list.LengthBytes), out SharedBuffer? buffer);
        Buffer = buffer!;
        Ticket = new AcquireTicket(host, "benchmark");
    }

    public static PciFunction Device { get; } = new("0000:02:00.0", "nic0");

    public SharedBuffer Buffer { get; }

    public AcquireTicket Ticket { get; }

    public string Name => "bench";

    public StorageKind Storage => StorageKind.Movable;

    public Errno Attach(Attachment attachment) => Errno.Success;

    public void Detach(Attachment attachment)
    {
        // Nothing depends on who is attached.
    }

    public Errno Pin(Attachment attachment)
    {
        _pins++;
        return Errno.Success;
    }

    public void Unpin(Attachment attachment) => _pins--;

    public Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        addresses = s_list;
        return Errno.Success;
    }

    public void Unmap(Attachment attachment, DmaAddressList addresses)
    {
        // One list for all.
    }

    public void Release(SharedBuffer buffer)
    {
        // The collector frees it.
    }

    /// <summary>Attaches an importer, or throws.</summary>
    public Attachment Attach(IImporter importer)
    {
        Errno errno = Buffer.TryAttach(Device, importer, out Attachment? attachment);
        return attachment ?? throw new InvalidOperationException($"attach: {errno}");
    }
}
