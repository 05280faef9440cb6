using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Gpu;
using Xunit;

namespace Wayleave.Tests.Buffers;

public class SteadyStateTests
{
    private const int Rounds = 1000;

    [Theory]
    [InlineData(ImporterKind.Dynamic, GpuDomain.Vram)]
    [InlineData(ImporterKind.Dynamic, GpuDomain.System)]
    [InlineData(ImporterKind.PinnedRevocable, GpuDomain.Vram)]
    [InlineData(ImporterKind.Static, GpuDomain.System)]
    public void Pin_map_unmap_and_unpin_allocate_nothing(ImporterKind kind, GpuDomain domain)
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(domain: domain);
        Attachment attachment = f.Attach(buffer, kind == ImporterKind.Static ? null : f.NewImporter(kind));
        f.Locked(() =>
        {
            AcquireTicket ticket = new(f.Host, "importer");
            buffer.Shared.Reservation.TryLock(ticket);
            Use(attachment, ticket, Rounds); // compiled, and lists have grown
            long before = GC.GetAllocatedBytesForCurrentThread();
            Use(attachment, ticket, Rounds);
            Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        });
    }

    [Fact]
    public void A_poll_that_only_asks_allocates_nothing()
    {
        using BufferFixture f = new();
        f.AddFence(ReservationUsage.Read);
        Ask(f.Buffer);
        long before = GC.GetAllocatedBytesForCurrentThread();
        Ask(f.Buffer);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    private static void Use(Attachment attachment, AcquireTicket ticket, int rounds)
    {
        bool pins = attachment.Kind == ImporterKind.PinnedRevocable;
        for (int i = 0; i < rounds; i++)
        {
            if (pins && attachment.PinLocked(ticket) != Errno.Success)
            {
                throw new InvalidOperationException("the pin was refused");
            }

            if (attachment.MapLocked(ticket, DmaDirection.Bidirectional).Kind != MapOutcomeKind.Mapped)
            {
                throw new InvalidOperationException("the map was refused");
            }

            attachment.UnmapLocked(ticket);
            if (pins)
            {
                attachment.UnpinLocked(ticket);
            }
        }
    }

    private static void Ask(SharedBuffer buffer)
    {
        for (int i = 0; i < Rounds; i++)
        {
            buffer.Poll(PollEvents.In | PollEvents.Out);
        }
    }
}
