using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Gpu;

/// <summary>What the edge puts behind the places of a buffer that moves.</summary>
public class PlacementBackingTests
{
    [Fact]
    public void The_new_place_is_backed_before_the_importers_are_told_and_the_old_one_given_up_after_the_copy()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Run();
        List<string> log = [];
        buffer.Backing = new Backing(f, log);
        TestImporter importer = f.NewImporter();
        f.Map(f.Attach(buffer, importer));
        MoveOperation move = f.Evict(buffer);
        Assert.Equal(["back System"], log);
        f.Run();
        Assert.Equal(["back System", "unback Vram, not free"], log);
        Assert.Equal((MoveState.Moved, 4 * GpuFixture.Page), (move.State, f.Stats.VramFreeBytes));
    }

    [Fact]
    public void A_place_that_cannot_be_backed_refuses_the_move_and_nobody_hears_of_it()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Run();
        buffer.Backing = new Backing(f, []) { BackErrno = Errno.ENOMEM };
        Attachment attachment = f.Attach(buffer, f.NewImporter());
        f.Map(attachment);
        MoveOperation move = f.Evict(buffer);
        Assert.Equal((MoveState.Refused, Errno.ENOMEM), (move.State, move.Error));
        Assert.Equal(
            (MappingState.Mapped, GpuDomain.Vram, 4 * GpuFixture.Page),
            (attachment.State, buffer.Placement.Domain, f.Stats.SystemFreeBytes));
    }

    [Fact]
    public void A_place_whose_pages_somebody_may_keep_is_never_handed_out_again()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Run();
        buffer.Backing = new Backing(f, []) { UnbackErrno = Errno.ENOMEM };
        MoveOperation move = f.Evict(buffer);
        f.Run();
        Assert.Equal(MoveState.Moved, move.State);
        Assert.Equal((GpuFixture.Page, 3 * GpuFixture.Page), (f.Stats.VramQuarantinedBytes, f.Stats.VramFreeBytes));
    }

    private sealed class Backing(GpuFixture fixture, List<string> log) : IPlacementBacking
    {
        public Errno BackErrno { get; init; }

        public Errno UnbackErrno { get; init; }

        public Errno TryBack(GpuPlacement placement)
        {
            log.Add($"back {placement.Domain}");
            return BackErrno;
        }

        public Errno Unback(GpuPlacement placement)
        {
            bool isFree = fixture.Gpu.Stats.VramFreeBytes == fixture.Gpu.Stats.VramTotalBytes;
            log.Add($"unback {placement.Domain}, {(isFree ? "free" : "not free")}");
            return UnbackErrno;
        }
    }
}
