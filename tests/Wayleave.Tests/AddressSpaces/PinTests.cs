using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Checking;
using Wayleave.Core.PeerMemory;
using Wayleave.Simulation;
using Wayleave.Tests.PeerMemory;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

public sealed class PinTests
{
    private const int Page = SpaceFixture.Page;
    private const PinMode LongTerm = PinMode.Pin | PinMode.LongTerm;

    [Theory]
    [InlineData(PageFrameKind.DevicePrivate, PinMode.Get, PageFrameKind.System)]
    [InlineData(PageFrameKind.DevicePrivate, PinMode.Pin, PageFrameKind.System)]
    [InlineData(PageFrameKind.DevicePrivate, LongTerm, PageFrameKind.System)]
    [InlineData(PageFrameKind.DevicePrivate, LongTerm | PinMode.Write, PageFrameKind.System)]
    [InlineData(PageFrameKind.DeviceCoherent, PinMode.Get, PageFrameKind.DeviceCoherent)]
    [InlineData(PageFrameKind.DeviceCoherent, PinMode.Get | PinMode.FastOnly, PageFrameKind.DeviceCoherent)]
    [InlineData(PageFrameKind.DeviceCoherent, LongTerm, PageFrameKind.System)]
    [InlineData(PageFrameKind.DeviceCoherent, LongTerm | PinMode.Write, PageFrameKind.System)]
    public void MM_27_Pins_take_private_pages_home_always_and_coherent_ones_for_long_only(
        PageFrameKind kind, PinMode mode, PageFrameKind expected)
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        SimulatedMirror device = new(f.Space, range, "device");
        device.AddMemory(8, kind);
        f.Done(f.Space.MigrateToDevice(range, device.Memory!));

        PinnedPages pin = f.Done(f.Space.Pin(range, mode)).Result!;

        Assert.All(pin.Frames, p => Assert.Equal(expected, p.Kind));
        Assert.Equal([1, 2, 3, 4], pin.Frames.Select(p => (int)p.Bytes.Span[0]));
        pin.Release();
        f.ExpectFilled(range, 1);
    }

    [Fact]
    public void MM_27_The_fast_path_alone_gets_no_private_page()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        SimulatedMirror device = new(f.Space, range, "device");
        device.AddMemory(8);
        f.Done(f.Space.MigrateToDevice(range, device.Memory!));

        Assert.Equal(Errno.EAGAIN, f.Run(f.Space.Pin(range, PinMode.Get | PinMode.FastOnly)).Errno);
    }

    [Fact]
    public void MM_32_A_page_of_a_BAR_is_pinned_with_its_flag_not_without_and_never_for_long()
    {
        using PeerFixture f = new();
        (AddressSpace space, AddressRange range, _) = MapBar(f);

        Assert.Equal(Errno.EREMOTEIO, Run(space.Pin(range, PinMode.Pin)).Errno);
        PinOperation pin = Run(space.Pin(range, PinMode.Pin | PinMode.PeerToPeer | PinMode.Write));
        Assert.Equal((Errno.Success, 2), (pin.Errno, pin.Result!.Frames.Count));
        Assert.All(pin.Result.Frames, p => Assert.Equal(PageFrameKind.PeerToPeer, p.Kind));
        Assert.Empty(f.Host.Checker.Violations);

        Assert.Equal(Errno.EINVAL, Run(space.Pin(range, LongTerm | PinMode.PeerToPeer)).Errno);
        Assert.Equal(ViolationKind.PagePin, Assert.Single(f.Host.Checker.Violations).Kind);
        Assert.Equal(Errno.EREMOTEIO, Run(space.Pin(range, LongTerm)).Errno);
        pin.Result.Release();
    }

    [Fact]
    public void MM_33_A_driver_that_leaves_waits_for_a_short_pin_of_its_pages()
    {
        using PeerFixture f = new();
        (AddressSpace space, AddressRange range, PeerPool pool) = MapBar(f);
        Assert.Equal(Errno.Success, Run(space.Write(range.Start, new byte[] { 1, 2, 3 })).Errno);
        PinnedPages pin = Run(space.Pin(range, PinMode.Pin | PinMode.PeerToPeer)).Result!;

        PeerUnbind unbind = f.A.PeerDevice!.Unbind(f.Host);

        Assert.False(unbind.IsCompleted);
        Assert.Single(unbind.Holders);
        Assert.Equal(Errno.EFAULT, Run(space.Read(range.Start, new byte[1])).Errno);
        Assert.Equal(Errno.EFAULT, Run(space.Pin(range, PinMode.Pin | PinMode.PeerToPeer)).Errno);
        pin.Release();
        Assert.True(unbind.IsCompleted);
        Assert.Empty(pool.Allocations);
        Assert.Equal(0, f.Violations);
    }

    [Fact]
    public void A_process_that_ends_with_pages_of_a_BAR_pinned_gives_them_back_with_the_pin()
    {
        using PeerFixture f = new();
        (AddressSpace space, AddressRange range, PeerPool pool) = MapBar(f);
        PinnedPages pin = Run(space.Pin(range, PinMode.Pin | PinMode.PeerToPeer)).Result!;

        Assert.Equal(Errno.Success, Run(space.Exit()).Errno);
        Assert.Equal(14 * (ulong)Page, pool.AvailableBytes);
        pin.Release();
        Assert.Equal(16 * (ulong)Page, pool.AvailableBytes);
    }

    [Fact]
    public void MM_34_A_long_term_pin_of_persistent_memory_is_EOPNOTSUPP_and_any_pin_of_registers_EFAULT()
    {
        using SpaceFixture f = new();
        MemoryFile dax = MemoryFile.InPersistentMemory(f.Memory, "pmem", new byte[Page]);
        AddressRange range = f.MapFile(dax, isShared: true);
        AddressRange registers = f.Done(
            f.Space.Map(new RegionRequest { LengthBytes = Page, Kind = RegionKind.Device })).Addresses;

        Assert.Equal(Errno.EOPNOTSUPP, f.Run(f.Space.Pin(range, LongTerm)).Errno);
        f.Done(f.Space.Pin(range, PinMode.Pin)).Result!.Release();
        Assert.Equal(Errno.EFAULT, f.Run(f.Space.Pin(registers, PinMode.Pin)).Errno);
        Assert.Equal(Errno.EFAULT, f.Run(f.Space.Pin(registers, PinMode.Get)).Errno);
    }

    [Fact]
    public void Flags_that_do_not_go_together_are_EINVAL_and_a_violation()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);

        Assert.Equal(Errno.EINVAL, f.Run(f.Space.Pin(range, PinMode.LongTerm)).Errno);
        Assert.Equal(Errno.EINVAL, f.Run(f.Space.Pin(range, PinMode.Get | PinMode.Pin)).Errno);
        Assert.Equal(2, f.Checker.ViolationCount);
    }

    [Fact]
    public void A_long_term_pin_for_writing_of_a_file_that_wants_to_hear_of_it_is_EFAULT()
    {
        using SpaceFixture f = new();
        MemoryFile file = MemoryFile.OnDisk(f.Memory, "file", new byte[Page]);
        AddressRange shared = f.MapFile(file, isShared: true);
        AddressRange own = f.MapFile(file, isShared: false);

        Assert.Equal(Errno.EFAULT, f.Run(f.Space.Pin(shared, LongTerm | PinMode.Write)).Errno);
        f.Done(f.Space.Pin(shared, PinMode.Pin | PinMode.Write)).Result!.Release();
        f.Done(f.Space.Pin(own, LongTerm | PinMode.Write)).Result!.Release();
    }

    [Fact]
    public void A_short_pin_of_which_a_part_is_a_hole_gets_the_part_before_and_a_long_term_pin_nothing()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(2);
        AddressRange beyond = SpaceFixture.Pages(range.Start, 4);

        PinnedPages pin = f.Done(f.Space.Pin(beyond, PinMode.Pin)).Result!;
        Assert.Equal(2, pin.Frames.Count);
        pin.Release();
        Assert.Equal(Errno.EFAULT, f.Run(f.Space.Pin(beyond, LongTerm)).Errno);
        Assert.Equal(Errno.EFAULT, f.Run(f.Space.Pin(SpaceFixture.Pages(range.End, 1), PinMode.Pin)).Errno);
        f.Done(f.Space.Exit());
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
    }

    [Fact]
    public void A_long_term_pin_moves_pages_out_of_movable_memory_first()
    {
        using SpaceFixture f = new(8, movablePages: 8);
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        Assert.Equal((8L, 4L), (
            f.Memory.FreePagesOf(MemoryZoneKind.Normal), f.Memory.FreePagesOf(MemoryZoneKind.Movable)));

        PinnedPages pin = f.Done(f.Space.Pin(range, LongTerm)).Result!;

        Assert.All(pin.Frames, p => Assert.Equal(MemoryZoneKind.Normal, p.Zone));
        Assert.Equal(8, f.Memory.FreePagesOf(MemoryZoneKind.Movable));
        f.ExpectFilled(range, 1);
        pin.Release();

        AddressRange more = f.Map(8);
        f.Fill(more, 1);
        Assert.Equal(Errno.ENOMEM, f.Run(f.Space.Pin(more, LongTerm)).Errno);
        f.ExpectFilled(more, 1);
        f.Done(f.Space.Pin(more, PinMode.Pin)).Result!.Release(); // short: where they are
    }

    [Theory]
    [InlineData(0UL, false, Errno.EPERM)]
    [InlineData(2UL, false, Errno.ENOMEM)]
    [InlineData(3UL, false, Errno.Success)]
    [InlineData(0UL, true, Errno.Success)]
    public void RDMA_04_What_a_process_may_pin_is_limited_unless_it_may_lock_all(
        ulong limitPages, bool hasCapability, Errno expected)
    {
        using SpaceFixture f = new(64, limits: new PinLimits(limitPages * Page, hasCapability));
        AddressRange range = f.Map(3);

        PinOperation pin = f.Run(f.Space.Pin(range, LongTerm | PinMode.Write, isCharged: true));

        Assert.Equal(expected, pin.Errno);
        Assert.Equal(expected == Errno.Success ? 3 : 0, f.Space.Pins.Pages);
        pin.Result?.Release();
        Assert.Equal(0, f.Space.Pins.Pages);
    }

    [Fact]
    public void A_pinned_page_outlives_its_unmap_and_nobody_else_gets_it()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 7);
        PinnedPages pin = f.Done(f.Space.Pin(range, LongTerm | PinMode.Write)).Result!;

        f.Done(f.Space.Unmap(range));
        Assert.Equal(f.Memory.PageCount - 1, f.Memory.FreePages);
        Assert.Equal(7, pin.Frames[0].Bytes.Span[0]);
        pin.Release();
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
    }

    [Fact]
    public void A_fork_copies_what_is_pinned_at_once_so_that_the_device_goes_on_with_the_parents_page()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(3);
        f.Fill(range, 1);
        PinnedPages pin = f.Done(
            f.Space.Pin(SpaceFixture.Pages(range.Start + Page, 1), LongTerm | PinMode.Write)).Result!;

        ForkOperation fork = f.Done(f.Space.Fork("child"));

        Assert.Equal(1, fork.PagesCopied);
        f.Write(range.Start + Page, [0xAA]); // no copy: the device and the parent see the same page
        Assert.Equal(0xAA, pin.Frames[0].Bytes.Span[0]);
        pin.Frames[0].Bytes.Span[1] = 0xBB;
        Assert.Equal([0xAA, 0xBB], f.Read(range.Start + Page, 2));
        Assert.Equal([2, 2], f.Read(range.Start + Page, 2, fork.Child));
        pin.Release(areDirty: true);
    }

    [Fact]
    public void A_pin_that_ends_while_a_fork_makes_room_for_the_copy_loses_no_byte_and_no_page()
    {
        bool hasForked = false;
        for (int steps = 0; !hasForked; steps++)
        {
            using SpaceFixture f = new(4, swapPages: 16);
            AddressSpace other = new(f.Memory, "other");
            AddressRange range = f.Map(2), full = f.Map(2, space: other);
            f.Fill(range, 1);
            f.Fill(full, 7, other);
            PinnedPages pin = f.Done(f.Space.Pin(SpaceFixture.Pages(range.Start, 1), LongTerm | PinMode.Write)).Result!;
            ForkOperation fork = f.Space.Fork("child");
            for (int i = 0; i < steps && !hasForked; i++)
            {
                hasForked = fork.Step();
            }

            pin.Release();
            _ = f.Memory.Reclaim(4).Proceed(); // as far as it gets: the fork may be on its way with a page
            _ = fork.IsCompleted || fork.Proceed();
            Assert.Equal(Errno.Success, fork.Errno);
            f.ExpectFilled(range, 1);
            f.ExpectFilled(range, 1, fork.Child);
            f.ExpectFilled(full, 7, other);
            f.Done(fork.Child!.Exit());
            f.Done(f.Space.Exit());
            f.Done(other.Exit());
            Assert.Equal((f.Memory.PageCount, 0L), (f.Memory.FreePages, f.Memory.SwapUsed));
            f.ExpectNoViolation();
        }
    }

    [Fact]
    public void A_pin_to_read_of_what_a_fork_shares_gets_a_page_of_its_own_and_sees_later_writes()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        f.Done(f.Space.Fork("child"));

        PinnedPages pin = f.Done(f.Space.Pin(range, LongTerm)).Result!;
        f.Write(range.Start, [0x44]);

        Assert.Equal(0x44, pin.Frames[0].Bytes.Span[0]);
        pin.Release();
    }

    private static (AddressSpace Space, AddressRange Range, PeerPool Pool) MapBar(in PeerFixture f)
    {
        PeerPool pool = f.Add(0, 0);
        PeerUserMapping mapping = f.Mmap(pool, 2 * Page);
        AddressSpace space = new(new MemorySystem(f.Host), "process 1");
        RegionRequest request = new()
        {
            LengthBytes = 2 * Page,
            Kind = RegionKind.PeerMemory,
            Peer = mapping,
            IsShared = true,
        };
        return (space, Run(space.Map(request)).Addresses, pool);
    }

    private static T Run<T>(T operation)
        where T : SpaceOperation
    {
        Assert.True(operation.Proceed(), $"waits at '{operation.Next}'");
        return operation;
    }
}
