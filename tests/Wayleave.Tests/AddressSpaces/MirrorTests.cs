using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

public sealed class MirrorTests
{
    private const int Page = SpaceFixture.Page;

    [Fact]
    public void MM_11_A_device_reads_untouched_pages_as_zero_and_written_ones_as_written_with_one_fault()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(3);
        f.Read(range.Start + Page, 1); // the page of zeroes
        f.Fill(SpaceFixture.Pages(range.Start + (2 * Page), 1), 9);
        SimulatedMirror device = new(f.Space, range, "device");
        byte[] seen = new byte[3 * Page];

        Assert.Equal(Errno.Success, device.TryRead(range.Start, seen));

        Assert.True(seen.AsSpan(0, 2 * Page).IndexOfAnyExcept((byte)0) < 0);
        Assert.True(seen.AsSpan(2 * Page).IndexOfAnyExcept((byte)9) < 0);
        Assert.Equal(1, device.FaultCount);
        f.ExpectNoViolation();
    }

    [Fact]
    public void MM_12_A_device_that_reads_what_the_process_may_not_gets_EFAULT_and_no_byte()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(2);
        f.Fill(range, 5);
        f.Done(f.Space.Protect(range, SpaceProtection.None));
        SimulatedMirror device = new(f.Space, range, "device");
        byte[] seen = [1, 2, 3];

        Assert.Equal(Errno.EFAULT, device.TryRead(range.Start, seen));

        Assert.Equal([1, 2, 3], seen);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void MM_13_A_device_writes_all_pages_with_one_fault(bool isHuge)
    {
        using SpaceFixture f = new();
        AddressRange range = f.Done(
            f.Space.Map(new RegionRequest { LengthBytes = 8 * Page, UsesHugePages = isHuge })).Addresses;
        SimulatedMirror device = new(f.Space, range, "device");
        byte[] data = new byte[8 * Page];
        new Random(1).NextBytes(data);

        Assert.Equal(Errno.Success, device.TryWrite(range.Start, data));

        Assert.Equal(1, device.FaultCount);
        Assert.Equal(data, f.Read(range.Start, data.Length));
    }

    [Fact]
    public void MM_14_A_device_that_writes_what_the_process_may_only_read_gets_EPERM_until_it_may_write()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(2);
        f.Fill(range, 5);
        f.Done(f.Space.Protect(range, SpaceProtection.Read));
        SimulatedMirror device = new(f.Space, range, "device");

        Assert.Equal(Errno.EPERM, device.TryWrite(range.Start, [1]));
        f.ExpectFilled(range, 5);

        f.Done(f.Space.Protect(range, SpaceProtection.ReadWrite));
        Assert.Equal(Errno.Success, device.TryWrite(range.Start, [1]));
        Assert.Equal(1, f.Read(range.Start, 1)[0]);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void MM_15_What_a_childs_device_writes_to_private_memory_the_parent_does_not_see(bool isShared)
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(2, isShared: isShared);
        f.Fill(range, 1);
        AddressSpace child = f.Done(f.Space.Fork("child")).Child!;
        SimulatedMirror device = new(child, range, "child's device");
        byte[] data = new byte[2 * Page];
        Array.Fill(data, (byte)0x77);

        Assert.Equal(Errno.Success, device.TryWrite(range.Start, data));

        Assert.Equal(data, f.Read(range.Start, data.Length, child));
        if (isShared)
        {
            Assert.Equal(data, f.Read(range.Start, data.Length));
        }
        else
        {
            f.ExpectFilled(range, 1);
        }
    }

    [Fact]
    public void MM_16_A_device_reads_and_writes_a_mapped_file()
    {
        using SpaceFixture f = new();
        byte[] disk = new byte[3 * Page];
        new Random(2).NextBytes(disk);
        byte[] before = [.. disk];
        MemoryFile file = MemoryFile.OnDisk(f.Memory, "file", disk);
        AddressRange range = f.MapFile(file, isShared: true);
        SimulatedMirror device = new(f.Space, range, "device");
        byte[] seen = new byte[3 * Page];

        Assert.Equal(Errno.Success, device.TryRead(range.Start, seen));
        Assert.Equal(before, seen);
        Assert.Equal(Errno.Success, device.TryWrite(range.Start + Page, [1, 2, 3]));

        file.WriteBack();
        Assert.Equal([1, 2, 3], disk[Page..(Page + 3)]);
        Assert.Equal(before[..Page], disk[..Page]);
    }

    [Fact]
    public void MM_23_A_look_without_faults_says_what_is_there()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(8);
        ulong At(int page) => range.Start + (ulong)(page * Page);
        f.Fill(SpaceFixture.Pages(At(0), 1), 1);
        f.Done(f.Space.Protect(SpaceFixture.Pages(At(0), 1), SpaceProtection.None));
        f.Read(At(1), 1);
        f.Fill(SpaceFixture.Pages(At(2), 2), 1);
        f.Done(f.Space.Protect(SpaceFixture.Pages(At(2), 1), SpaceProtection.Read));
        SimulatedMirror own = new(f.Space, range, "own");
        SimulatedMirror foreign = new(f.Space, range, "foreign");
        own.AddMemory(4);
        foreign.AddMemory(4);
        f.Fill(SpaceFixture.Pages(At(4), 2), 1);
        f.Done(f.Space.MigrateToDevice(SpaceFixture.Pages(At(4), 1), own.Memory!));
        f.Done(f.Space.MigrateToDevice(SpaceFixture.Pages(At(5), 1), foreign.Memory!));
        f.Done(f.Space.Unmap(SpaceFixture.Pages(At(7), 1)));

        IReadOnlyList<MirrorPage> seen = f.Snapshot(range, own);

        Assert.Equal(
            [
                MirrorBits.Error, MirrorBits.Valid, MirrorBits.Valid, MirrorBits.Valid | MirrorBits.Write,
                MirrorBits.Valid | MirrorBits.Write, MirrorBits.None, MirrorBits.None, MirrorBits.Error,
            ],
            seen.Select(p => p.Bits));
        Assert.True(seen[1].Frame!.IsZeroPage);
        Assert.Equal(PageFrameKind.DevicePrivate, seen[4].Frame!.Kind);
    }

    [Fact]
    public void What_counts_of_the_requests_is_what_the_mask_lets_through()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(3);
        SimulatedMirror device = new(f.Space, range, "device");
        MirrorRange masked = new(f.Space, device.Notifier, range);
        masked.Requests[1] = MirrorBits.Fault | MirrorBits.FaultWrite;
        masked.Sequence = device.Notifier.BeginRead(out _);
        f.Done(masked.Fault());
        Assert.All(masked.Pages, p => Assert.Equal(MirrorBits.None, p.Bits));

        MirrorRange single = new(f.Space, device.Notifier, range)
        {
            RequestMask = MirrorBits.Fault | MirrorBits.FaultWrite,
        };
        single.Requests[1] = MirrorBits.Fault | MirrorBits.FaultWrite;
        single.Sequence = device.Notifier.BeginRead(out _);
        f.Done(single.Fault());
        Assert.Equal([false, true, false], single.Pages.Select(p => p.IsValid));
        Assert.True(single.Pages[1].IsWritable);
    }

    [Fact]
    public void A_look_that_came_too_late_is_EBUSY_and_leaves_the_rest_as_it_was()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(2);
        SimulatedMirror device = new(f.Space, range, "device");
        MirrorRange look = new(f.Space, device.Notifier, range)
        {
            DefaultRequest = MirrorBits.Fault,
            Sequence = device.Notifier.BeginRead(out _),
        };
        f.Done(f.Space.Discard(range));

        Assert.Equal(Errno.EBUSY, f.Run(look.Fault()).Errno);
        Assert.All(look.Pages, p => Assert.Equal(default, p));
    }

    [Fact]
    public void MM_30_A_device_that_reads_while_the_process_unmaps_gets_the_data_or_an_error()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        SimulatedMirror device = new(f.Space, range, "device");
        Assert.Equal(Errno.Success, device.TryRead(range.Start, new byte[4 * Page]));
        Assert.True(device.TryEnter(range.Start, isWrite: false, out SimulatedMirror.Access? access));

        ChangeOperation unmap = f.Space.Unmap(range);
        Assert.False(unmap.Proceed()); // the access under way comes first
        byte[] seen = new byte[Page];
        device.Exit(access!, seen, default);
        Assert.True(seen.AsSpan().IndexOfAnyExcept((byte)1) < 0);
        f.Done(unmap);

        Assert.Equal(Errno.EFAULT, device.TryRead(range.Start, seen));
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
    }

    [Fact]
    public void MM_31_A_device_that_loses_every_race_gets_EBUSY_after_a_second_and_does_not_hang()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        SimulatedMirror device = new(f.Space, range, "device");
        SpaceOperation fault = device.Fault(range, isWrite: true);

        int rounds = 0;
        while (!fault.IsCompleted)
        {
            fault.Step();
            f.Done(f.Space.Discard(range));
            f.Clock.Advance(TimeSpan.FromMilliseconds(50));
            Assert.True(++rounds < 1000, "the fault never ends");
        }

        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.InRange(f.Clock.Now, TimeSpan.FromMilliseconds(1000), TimeSpan.FromMilliseconds(1200));
        Assert.Equal(0, device.MappedCount);
    }

    [Fact]
    public void A_device_that_waits_for_an_invalidation_goes_on_when_it_has_ended()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 3);
        SimulatedMirror device = new(f.Space, range, "device");
        ChangeOperation discard = f.Space.Discard(range);
        discard.Step();
        discard.Step(); // the mirror was told, the page is not gone yet
        SpaceOperation fault = device.Fault(range, isWrite: false);

        fault.Step();
        Assert.False(fault.IsReady);
        bool wasCalled = false;
        Assert.True(fault.TryAddReadyCallback(() => wasCalled = true));
        f.Done(discard);
        Assert.True(fault.IsReady);
        f.Done(fault);

        byte[] seen = new byte[1];
        Assert.Equal(Errno.Success, device.TryRead(range.Start, seen));
        Assert.Equal(0, seen[0]);
        Assert.False(wasCalled); // it runs when the lock is released
    }
}
