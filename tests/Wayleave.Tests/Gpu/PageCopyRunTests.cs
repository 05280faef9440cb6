using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Xunit;

namespace Wayleave.Tests.Gpu;

/// <summary>Pages that a GPU's copy engine cannot copy: each stays where it was, all others migrate.</summary>
public sealed class PageCopyRunTests
{
    private const int Page = PageFrame.SizeBytes;
    private const int Pages = 6;

    private readonly GpuFixture _f;
    private readonly MemorySystem _memory;
    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private readonly GpuProcessMemory _vram;
    private readonly Dictionary<ulong, MemoryWindow> _windows = [];

    public PageCopyRunTests()
        : this(ringSlots: 256)
    {
    }

    private PageCopyRunTests(int ringSlots)
    {
        _f = new GpuFixture(new GpuOptions { CopyBlockBytes = 0x400, CopyRingSlots = ringSlots }, vramPages: 8);
        using (_f.Host.Enter())
        {
            _memory = new MemorySystem(_f.Host);
            for (int i = 0; i < Pages + 2; i++)
            {
                byte[] page = new byte[Page];
                MemoryWindow window = _f.Fabric.AddWindow(page, owner: null);
                _windows.Add(window.Range.Start.Value, window);
                _memory.AddMemory(page, window.Range.Start);
            }

            _space = new AddressSpace(_memory, "process");
            MapOperation map = _space.Map(new RegionRequest { LengthBytes = Pages * Page });
            Assert.True(map.Proceed());
            _range = map.Addresses;
            for (int i = 0; i < Pages - 1; i++) // the last was never written
            {
                byte[] bytes = new byte[Page];
                bytes.AsSpan().Fill((byte)(i + 1));
                Assert.True(_space.Write(_range.Start + (ulong)(i * Page), bytes).Proceed());
            }

            Assert.Equal(
                Errno.Success, GpuProcessMemory.TryCreate(_f.Gpu, _memory, Pages * Page, out GpuProcessMemory? made));
            _vram = made!;
        }
    }

    [Theory]
    [InlineData(new[] { 2 })]
    [InlineData(new[] { 0 })]
    [InlineData(new[] { 4 })]
    [InlineData(new[] { 1, 3 })]
    [InlineData(new[] { 0, 1, 2, 3, 4 })]
    public void A_page_that_answers_nothing_stays_and_all_others_migrate(int[] broken)
    {
        Array.ForEach(broken, Break);

        MigrateOperation migrate = Migrate();

        Assert.Equal((Errno.Success, Pages - broken.Length), (migrate.Errno, migrate.MigratedCount));
        Assert.Equal(broken.Length, _vram.Pages.FreePages);
        Assert.Equal(0, _vram.ProcessorCopies);
        ExpectAll();
        End();
    }

    [Fact]
    public void What_the_ring_has_no_slot_for_the_processor_copies_behind_the_page_that_failed()
    {
        PageCopyRunTests t = new(ringSlots: 1);
        t.Break(2);
        MigrateOperation migrate = t._f.Locked(() => t._space.MigrateToDevice(t._range, t._vram.Pages));
        Assert.False(t._f.Locked(migrate.Proceed)); // the copies are in the ring; what is to be cleared was cleared
        Assert.Equal(1, t._vram.ProcessorCopies);
        t.Finish(migrate);

        Assert.Equal((Errno.Success, Pages - 1), (migrate.Errno, migrate.MigratedCount));
        t.ExpectAll();
        t.End();
    }

    [Fact]
    public void An_engine_that_dies_on_the_way_keeps_no_page_that_it_has_not_copied()
    {
        MigrateOperation migrate = _f.Locked(() => _space.MigrateToDevice(_range, _vram.Pages));
        Assert.False(_f.Locked(migrate.Proceed));
        CopyEngine engine = _f.Gpu.CopyEngine;
        Assert.True(engine.TryEnter());
        for (int i = 0; i < (2 * Page / 0x400) + 1; i++)
        {
            Assert.True(engine.Step()); // two pages and a part of the third
        }

        _f.Locked(engine.HandleDriverEnded);
        Finish(migrate);

        Assert.Equal((Errno.Success, 2), (migrate.Errno, migrate.MigratedCount));
        Assert.Equal(Pages - 2, _vram.Pages.FreePages);
        for (int i = 2; i < Pages; i++)
        {
            Assert.Equal(Written(i), Read(i)); // where it was, for nobody brings anything home any more
        }

        End();
    }

    [Fact]
    public void While_an_engine_that_was_given_up_may_be_in_a_block_the_targets_are_its()
    {
        MigrateOperation migrate = _f.Locked(() => _space.MigrateToDevice(_range, _vram.Pages));
        Assert.False(_f.Locked(migrate.Proceed));
        CopyEngine engine = _f.Gpu.CopyEngine;
        Assert.True(engine.TryEnter());
        Assert.True(engine.Step());
        _f.Locked(() => engine.Jobs[0].Fence.Force(Errno.ETIME)); // what the watchdog does in the end

        Assert.False(_f.Locked(migrate.Proceed));
        Assert.Equal(0, _vram.Pages.FreePages);
        engine.Exit(); // it is back, and goes on
        Finish(migrate);
        Assert.Equal((Errno.Success, Pages), (migrate.Errno, migrate.MigratedCount));
        ExpectAll();
        End();
    }

    private static byte Written(int page) => page == Pages - 1 ? (byte)0 : (byte)(page + 1);

    // Its page of the machine is no longer on any bus; the processor has it.
    private void Break(int page) => _f.Locked(() => _f.Fabric.RemoveWindow(
        _windows[_space.Table.Peek(_range.FirstPage + (ulong)page).Frame!.Address.Value]));

    private MigrateOperation Migrate()
    {
        MigrateOperation migrate = _f.Locked(() => _space.MigrateToDevice(_range, _vram.Pages));
        Finish(migrate);
        return migrate;
    }

    private void Finish(SpaceOperation operation)
    {
        for (int round = 0; round < 1000 && !_f.Locked(operation.Proceed); round++)
        {
            _f.Gpu.CopyEngine.Drive(int.MaxValue);
        }

        Assert.True(operation.IsCompleted, operation.ToString());
    }

    private byte Read(int page)
    {
        byte[] bytes = new byte[Page];
        AccessOperation load = _f.Locked(() => _space.Read(_range.Start + (ulong)(page * Page), bytes));
        Finish(load);
        Assert.Equal(Errno.Success, load.Errno);
        Assert.Equal(-1, bytes.AsSpan().IndexOfAnyExcept(bytes[0]));
        return bytes[0];
    }

    private void ExpectAll()
    {
        for (int i = 0; i < Pages; i++)
        {
            Assert.Equal(Written(i), Read(i));
        }
    }

    private void End()
    {
        _f.Locked(() => Assert.True(_space.Exit().Proceed()));
        Assert.Equal(_memory.PageCount, _memory.FreePages);
        Assert.Equal(_vram.Pages.PageCount, _vram.Pages.FreePages);
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }
}
