using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Core.Buffers;

// Begin:  the exporter prepares (an error ends it here) -> wait for the fences of the class -> the processor touches
// End:    the exporter cleans up; nothing is waited for

/// <summary>
/// One access of the processor between <c>dma_buf_begin_cpu_access</c> and <c>dma_buf_end_cpu_access</c>, of the whole
/// buffer or a part of it. It orders the processor against devices; that the bytes can be reached and stay in place is
/// the matter of a mapping. Host lock held by the caller.
/// </summary>
public sealed class CpuAccess
{
    private Fence? _work;
    private bool _ended;

    internal CpuAccess(SharedBuffer buffer, DmaDirection direction, ulong offset, ulong lengthBytes) =>
        (Buffer, Direction, Offset, LengthBytes) = (buffer, direction, offset, lengthBytes);

    public SharedBuffer Buffer { get; }

    /// <summary>
    /// Seen from the device, as in the kernel: the processor reads what came <see cref="DmaDirection.FromDevice"/>.
    /// </summary>
    public DmaDirection Direction { get; }

    /// <summary>First byte within the buffer.</summary>
    public ulong Offset { get; }

    public ulong LengthBytes { get; }

    public bool Reads => Direction != DmaDirection.ToDevice;

    public bool Writes => Direction != DmaDirection.FromDevice;

    /// <summary>What the edge does to caches before the first touch.</summary>
    public CacheMaintenance Maintenance { get; private set; }

    /// <summary>
    /// A fence that must signal before the first touch, or null when the processor may go ahead. The edge waits and
    /// asks again. A reader waits for WRITE fences and stronger, a writer for READ fences and stronger
    /// (<c>dma_resv_usage_rw</c>); BOOKKEEP never.
    /// </summary>
    public Fence? FirstUnsignaled()
    {
        Buffer.Host.AssertHeld();
        if (_work is { IsSignaled: false })
        {
            return _work;
        }

        return Buffer.Reservation.FirstUnsignaled(Writes ? ReservationUsage.Read : ReservationUsage.Write);
    }

    /// <summary>The processor is done (<c>dma_buf_end_cpu_access</c>). Waits for nothing.</summary>
    /// <param name="maintenance">What the edge does to caches before a device looks.</param>
    /// <returns>What the exporter says. The access has ended in any case.</returns>
    /// <exception cref="InvalidOperationException">It has ended before.</exception>
    public Errno End(out CacheMaintenance maintenance)
    {
        Buffer.Host.AssertHeld();
        if (_ended)
        {
            throw new InvalidOperationException($"the processor's access to {Buffer} has ended before");
        }

        _ended = true;
        Buffer.CpuAccessCount--;
        return EndAtExporter(out maintenance);
    }

    internal Errno EndAtExporter(out CacheMaintenance maintenance)
    {
        maintenance = CacheMaintenance.None;
        return Buffer.Exporter is ICpuAccessExporter exporter
            ? exporter.EndCpuAccess(this, out maintenance)
            : Errno.Success;
    }

    internal Errno Begin()
    {
        if (Buffer.Exporter is ICpuAccessExporter exporter)
        {
            Errno errno = exporter.BeginCpuAccess(this, out CacheMaintenance maintenance, out _work);
            if (errno != Errno.Success)
            {
                return errno;
            }

            Maintenance = maintenance;
        }

        Buffer.CpuAccessCount++;
        return Errno.Success;
    }
}
