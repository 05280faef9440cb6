using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Gpu;

public class CopyEngineTests
{
    [Fact]
    public void A_step_moves_one_block_and_reports_whether_it_did_something()
    {
        GpuFixture f = new();
        f.TryCreate("a", 1, out _);
        CopyEngine engine = f.Gpu.CopyEngine;
        Assert.Throws<InvalidOperationException>(() => engine.Step());
        Assert.True(engine.TryEnter());
        Assert.False(engine.TryEnter());
        for (int block = 0; block < 4; block++)
        {
            Assert.Equal(1, engine.QueuedCount);
            Assert.True(engine.Step());
            Assert.Equal((block + 1) * 0x400, engine.Port.BytesWritten(PeerRoute.SameDevice));
        }

        Assert.False(engine.Step());
        engine.Exit();
        Assert.Equal(0, engine.QueuedCount);
    }

    [Fact]
    public void A_copy_that_waits_for_a_hanging_importer_does_not_stop_the_others()
    {
        GpuFixture f = new();
        GpuBuffer stuck = f.Create("stuck"), other = f.Create("other");
        TestImporter importer = f.NewImporter();
        f.Map(f.Attach(stuck, importer));
        importer.Inside = 1;
        MoveOperation first = f.Evict(stuck), second = f.Evict(other);
        f.Run();
        Assert.Equal((MoveState.Copying, MoveState.Moved), (first.State, second.State));
        f.Locked(importer.Leave);
        f.Run();
        Assert.Equal(MoveState.Moved, first.State);
    }

    [Fact]
    public void The_edge_is_told_without_the_lock_when_a_job_is_submitted_and_when_it_becomes_ready()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        TestImporter importer = f.NewImporter();
        f.Map(f.Attach(buffer, importer));
        importer.Inside = 1;
        int told = 0;
        f.Gpu.CopyEngine.WorkAvailable = () => told += f.Host.IsHeld ? 100 : 1;
        f.Evict(buffer);
        Assert.Equal(0, told);
        f.Locked(importer.Leave);
        Assert.Equal(1, told);
        f.TryCreate("next", 1, out _);
        Assert.Equal(2, told);
    }

    [Fact]
    public void A_drive_stops_at_its_limit_and_goes_on_where_it_stopped()
    {
        GpuFixture f = new();
        f.TryCreate("a", 1, out _);
        f.TryCreate("b", 1, out _);
        Assert.Equal(3, f.Gpu.CopyEngine.Drive(3));
        Assert.Equal(5, f.Gpu.CopyEngine.Drive(100));
        Assert.Equal(0, f.Gpu.CopyEngine.Drive(100));
    }

    [Fact]
    public void Moves_over_scattered_blocks_keep_the_order_of_the_bytes()
    {
        GpuFixture f = new(vramPages: 8, systemPages: 8);
        GpuBuffer[] pages = [.. Enumerable.Range(0, 8).Select(i => f.Create($"{i}", domain: GpuDomain.System))];
        foreach (int odd in (int[])[1, 3, 4, 6])
        {
            f.Free(pages[odd]);
        }

        GpuBuffer buffer = f.Create("scattered", pages: 4);
        for (int page = 0; page < 4; page++)
        {
            f.Bytes(buffer).Slice(page * 0x1000, 0x1000).Fill((byte)(page + 1));
        }

        f.Evict(buffer);
        f.Run();
        Assert.True(buffer.Placement.Blocks.Count > 1);
        f.Vram.AsSpan().Clear();
        f.Restore(buffer);
        f.Run();
        for (int page = 0; page < 4; page++)
        {
            Assert.False(f.Bytes(buffer).Slice(page * 0x1000, 0x1000).ContainsAnyExcept((byte)(page + 1)));
        }
    }

    [Fact]
    public void A_copy_between_lists_of_different_length_is_a_bug_that_throws()
    {
        GpuFixture f = new();
        GpuBuffer one = f.Create("one"), two = f.Create("two", pages: 2);
        CopyJob job = new()
        {
            Name = "wrong",
            Source = one.Placement.Addresses,
            Target = two.Placement.Addresses,
            Fence = f.Locked(f.Work.CreateFence),
        };
        Assert.Throws<ArgumentException>(() => f.Locked(() => f.Gpu.CopyEngine.TrySubmit(job)));
    }
}
