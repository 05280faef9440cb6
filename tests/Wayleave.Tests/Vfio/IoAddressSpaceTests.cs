using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Vfio;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Vfio;

/// <summary>The importer that iommufd is.</summary>
public sealed class IoAddressSpaceTests
{
    private const ulong Page = VfioFixture.Page;
    private const ulong Iova = 0x10_0000;

    [Fact]
    public void EXP_14_A_buffer_is_mapped_whole_or_in_part_dies_by_a_revoke_and_is_mapped_anew_after_it()
    {
        VfioFixture f = new();
        SharedBuffer buffer = f.Export();
        IoAddressSpace space = new(f.Host, "vm 1");
        ulong size = buffer.SizeBytes;

        Assert.Equal(Errno.EINVAL, TryMap(f, space, buffer, 0, 0, out _));
        Assert.Equal(Errno.EINVAL, TryMap(f, space, buffer, size, Page, out _));
        Assert.Equal(Errno.EINVAL, TryMap(f, space, buffer, 0, size + 1, out _));
        Assert.Equal(Errno.EINVAL, TryMap(f, space, buffer, 0, size + Page, out _));
        Assert.Equal(Errno.Success, TryMap(f, space, buffer, 0, size, out IoMapping? mapping));
        Assert.Equal(IoMappingState.Mapped, mapping!.State);
        Assert.True(TryWrite(f, space, Iova + Page, 7));
        Assert.Equal(7, f.Memory[Page]);

        f.Locked(() => f.Device.SetMemoryEnable(false));
        Assert.Equal(IoMappingState.Dead, mapping.State);
        Assert.False(TryWrite(f, space, Iova + Page, 8));
        f.Locked(mapping.Release);
        Assert.Equal(Errno.ENODEV, TryMap(f, space, buffer, 0, size, out _));

        f.Locked(() => f.Device.SetMemoryEnable(true));
        Assert.Equal(Errno.Success, TryMap(f, space, buffer, 0, size, out _));
        Assert.True(TryWrite(f, space, Iova + Page, 9));
        Assert.Equal(9, f.Memory[Page]);
    }

    [Fact]
    public void EXP_14_A_mapping_that_was_revoked_stays_dead_when_its_buffer_comes_back()
    {
        VfioFixture f = new();
        SharedBuffer buffer = f.Export();
        IoAddressSpace space = new(f.Host, "vm 1");
        TryMap(f, space, buffer, 0, Page, out IoMapping? mapping);

        f.Locked(f.Device.Reset);

        Assert.False(buffer.IsRevoked);
        Assert.Equal(IoMappingState.Dead, mapping!.State);
        Assert.False(TryWrite(f, space, Iova, 1));
        Assert.Equal(Errno.EEXIST, TryMap(f, space, buffer, 0, Page, out _)); // the address is still the user's
        f.Locked(mapping.Release);
        Assert.Equal(Errno.Success, TryMap(f, space, buffer, 0, Page, out _));
    }

    [Fact]
    public void EXP_14_Only_buffers_of_vfio_and_of_one_range_have_the_private_way()
    {
        VfioFixture f = new();
        IoAddressSpace space = new(f.Host, "vm 1");
        SharedBuffer two = f.Export(new VfioRange(0, Page), new VfioRange(2 * Page, Page));
        SharedBuffer foreign = f.Locked(() =>
        {
            SharedBuffer.TryExport(
                f.Host,
                new ExportInfo(new TestExporter(StorageKind.Revocable), "foreign", Page),
                out SharedBuffer? made);
            return made!;
        });

        Assert.Equal(Errno.EOPNOTSUPP, TryMap(f, space, two, 0, Page, out _));
        Assert.Equal(Errno.EOPNOTSUPP, TryMap(f, space, foreign, 0, Page, out _));
        Assert.Empty(two.Attachments);
    }

    [Fact]
    public void A_part_of_a_buffer_is_found_at_its_address_and_nothing_beside_it()
    {
        VfioFixture f = new();
        IoAddressSpace space = new(f.Host, "vm 1");
        SharedBuffer buffer = f.Export();
        Assert.Equal(Errno.Success, TryMap(f, space, buffer, Page, 2 * Page, out _));

        Assert.True(space.TryTranslate(Iova + 5, out _, out DeviceAddress address, out ulong contiguous));
        Assert.Equal((f.Start + Page + 5, (2 * Page) - 5), (address, contiguous));
        Assert.False(space.TryTranslate(Iova + (2 * Page), out _, out _, out _));
        Assert.False(space.TryTranslate(Iova - 1, out _, out _, out _));
        Assert.Equal(
            Errno.EEXIST, f.Locked(() => space.TryMapFile(buffer, 0, Page, Iova + Page, out _)));
        Assert.Equal(
            Errno.EINVAL, f.Locked(() => space.TryMapFile(buffer, 0, Page, ulong.MaxValue - Page + 1, out _)));
        Assert.Equal(Errno.EINVAL, f.Locked(() => space.TryMapFile(buffer, 0, Page, Iova + 1, out _)));
    }

    [Fact]
    public void A_revoke_waits_for_the_access_that_is_inside()
    {
        VfioFixture f = new();
        IoAddressSpace space = new(f.Host, "vm 1");
        TryMap(f, space, f.Export(), 0, Page, out IoMapping? mapping);
        Assert.True(space.TryTranslate(Iova, out Translation? translation, out _, out _));
        Assert.True(translation!.Gate.TryEnter());

        VfioTransition reset = f.Locked(f.Device.Reset);
        f.Locked(mapping!.Release); // and the user gives it up meanwhile

        Assert.False(reset.IsCompleted);
        Assert.Equal(IoMappingState.Releasing, mapping.State);
        translation.Gate.Exit();
        Assert.True(reset.IsCompleted);
        Assert.Equal(IoMappingState.Released, mapping.State);
        Assert.Empty(space.Mappings);
    }

    [Fact]
    public void A_drain_that_takes_too_long_is_forced_and_the_reset_waits_for_who_is_inside()
    {
        VfioFixture f = new();
        IoAddressSpace space = new(f.Host, "vm 1");
        SharedBuffer buffer = f.Export();
        TryMap(f, space, buffer, 0, Page, out _);
        Assert.True(space.TryTranslate(Iova, out Translation? translation, out _, out _));
        Assert.True(translation!.Gate.TryEnter());
        VfioTransition reset = f.Locked(f.Device.Reset);
        f.Locked(() => space.Hangs.HandleTimeout(f.Host.Now + IoAddressSpace.DrainTimeout));

        Assert.True(f.Locked(() => buffer.Reservation.TestSignaled(ReservationUsage.Bookkeep)));
        Assert.False(reset.IsCompleted);
        translation.Gate.Exit();
        Assert.True(reset.IsCompleted);
    }

    [Fact]
    public void A_release_waits_for_the_access_that_is_inside_and_for_the_reservation()
    {
        VfioFixture f = new();
        IoAddressSpace space = new(f.Host, "vm 1");
        SharedBuffer buffer = f.Export();
        TryMap(f, space, buffer, 0, Page, out IoMapping? mapping);
        Assert.True(space.TryTranslate(Iova, out Translation? translation, out _, out _));
        Assert.True(translation!.Gate.TryEnter());
        f.Locked(mapping!.Release);
        AcquireTicket ticket = f.LockReservation(buffer);

        translation.Gate.Exit();
        Assert.Equal(IoMappingState.Releasing, mapping.State);
        f.Locked(() => buffer.Reservation.Unlock(ticket));

        Assert.Equal(IoMappingState.Released, mapping.State);
        Assert.Empty(buffer.Attachments);
        f.Locked(mapping.Release);
    }

    [Fact]
    public void A_map_waits_for_the_reservation_and_is_refused_if_the_buffer_was_taken_meanwhile()
    {
        VfioFixture f = new();
        IoAddressSpace space = new(f.Host, "vm 1");
        SharedBuffer buffer = f.Export();
        AcquireTicket ticket = f.LockReservation(buffer);
        Assert.Equal(Errno.Success, TryMap(f, space, buffer, 0, Page, out IoMapping? mapping));
        Assert.Equal(IoMappingState.Mapping, mapping!.State);
        Assert.False(space.TryTranslate(Iova, out _, out _, out _));
        bool called = false;
        Assert.True(f.Locked(() => mapping.TryAddCompletion(() => called = true)));

        VfioTransition reset = f.Locked(f.Device.Reset);
        f.Locked(() => buffer.Reservation.Unlock(ticket));

        Assert.Equal((IoMappingState.Dead, Errno.ENODEV, true), (mapping.State, mapping.Error, called));
        Assert.True(reset.IsCompleted);
        f.Locked(mapping.Release);
        Assert.Empty(buffer.Attachments);
        Assert.Empty(space.Mappings);
    }

    private static Errno TryMap(
        VfioFixture f, IoAddressSpace space, SharedBuffer buffer, ulong offset, ulong length, out IoMapping? mapping)
    {
        using (f.Host.Enter())
        {
            return space.TryMapFile(buffer, offset, length, Iova, out mapping);
        }
    }

    // What an assigned device does: its IOMMU translates, and the request goes its way on the bus.
    private static bool TryWrite(VfioFixture f, IoAddressSpace space, ulong iova, byte value)
    {
        if (!space.TryTranslate(iova, out Translation? translation, out DeviceAddress address, out _)
            || !translation!.Gate.TryEnter())
        {
            return false;
        }

        Assert.Equal(Errno.Success, new DmaPort(f.Importer).TryWrite(address, 1, out Span<byte> bytes));
        bytes[0] = value;
        translation.Gate.Exit();
        return true;
    }
}
