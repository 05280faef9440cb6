using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.Buffers;

public class SharedBufferTests
{
    [Fact]
    public void Mapping_transitions() => Snapshot.Match(
        TransitionTable.Of<MappingState, MappingEvent>((s, e) => s.Next(e)), "MappingTransitions");

    [Fact]
    public void A_name_of_31_characters_is_taken_and_one_of_32_or_an_empty_buffer_is_EINVAL()
    {
        using BufferFixture f = new();
        ExportInfo info = new(f.Exporter, new string('n', 31), 1);
        Assert.Equal(Errno.Success, SharedBuffer.TryExport(f.Host, info, out _));
        Assert.Equal(Errno.EINVAL, SharedBuffer.TryExport(f.Host, info with { Name = new string('n', 32) }, out _));
        Assert.Equal(Errno.EINVAL, SharedBuffer.TryExport(f.Host, info with { SizeBytes = 0 }, out _));
    }

    [Fact]
    public void DBUF_06_The_exporter_sees_peer_to_peer_at_attach_and_may_clear_it()
    {
        using BufferFixture f = new();
        f.Exporter.ClearsPeerToPeer = true;
        Attachment attachment = f.Attach(f.NewImporter());
        Assert.True(f.Exporter.SeenPeerToPeer);
        Assert.False(attachment.PeerToPeer);
    }

    [Fact]
    public void DBUF_07_A_refused_attach_leaves_nothing_behind()
    {
        using BufferFixture f = new();
        f.Exporter.AttachResult = Errno.EBUSY;
        Assert.Equal(
            Errno.EBUSY, f.Buffer.TryAttach(BufferFixture.Device, f.NewImporter(), out Attachment? attachment));
        Assert.Null(attachment);
        Assert.Empty(f.Buffer.Attachments);
        Assert.Equal(["attach"], f.Exporter.Calls);
    }

    [Fact]
    public void DBUF_08_Core_pins_for_a_static_importer_while_it_is_mapped()
    {
        using BufferFixture f = new();
        Attachment attachment = f.Attach(importer: null);
        Assert.Equal(0, f.Exporter.PinCount);
        f.Map(attachment);
        Assert.Equal((1, 1), (f.Exporter.PinCount, attachment.PinCount));
        f.Unmap(attachment);
        Assert.Equal((0, 0), (f.Exporter.PinCount, attachment.PinCount));
    }

    [Fact]
    public void DBUF_09_Core_never_pins_for_a_dynamic_importer()
    {
        using BufferFixture f = new();
        f.AttachAndMap(f.NewImporter());
        Assert.Equal(["attach", "map"], f.Exporter.Calls);
    }

    [Fact]
    public void DBUF_10_A_static_importer_waits_for_KERNEL_fences_and_for_no_others()
    {
        using BufferFixture f = new();
        Attachment attachment = f.Attach(importer: null);
        f.AddFence(ReservationUsage.Write);
        Fence copy = new Timeline(f.Host, "copy").CreateFence();
        AcquireTicket ticket = f.Lock();
        f.Buffer.Reservation.ReserveFences(ticket, 1);
        f.Buffer.Reservation.AddFence(ticket, copy, ReservationUsage.Kernel);
        f.Buffer.Reservation.Unlock(ticket);
        MapOutcome outcome = f.Map(attachment);
        Assert.Equal((MapOutcomeKind.MustWait, copy), (outcome.Kind, outcome.Fence));
        Assert.Equal(0, f.Exporter.PinCount);
        copy.Signal();
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(attachment).Kind);
    }

    [Fact]
    public void DBUF_12_A_dynamic_importer_gets_its_list_at_once()
    {
        using BufferFixture f = new();
        f.AddFence(ReservationUsage.Kernel);
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(f.Attach(f.NewImporter())).Kind);
    }

    [Fact]
    public void DBUF_13_A_pin_that_fails_ends_the_map_before_it_began()
    {
        using BufferFixture f = new();
        f.Exporter.PinResult = Errno.ENOMEM;
        MapOutcome outcome = f.Map(f.Attach(importer: null));
        Assert.Equal((MapOutcomeKind.Refused, Errno.ENOMEM), (outcome.Kind, outcome.Errno));
        Assert.Equal(["attach", "pin"], f.Exporter.Calls);
    }

    [Fact]
    public void DBUF_14_A_map_of_nothing_is_ENOMEM_and_undoes_the_pin()
    {
        using BufferFixture f = new();
        f.Exporter.MapsNothing = true;
        Assert.Equal(Errno.ENOMEM, f.Map(f.Attach(importer: null)).Errno);
        Assert.Equal(0, f.Exporter.PinCount);
    }

    [Fact]
    public void A_map_that_fails_undoes_the_pin_and_says_why()
    {
        using BufferFixture f = new();
        f.Exporter.MapResult = Errno.EPERM;
        Attachment attachment = f.Attach(importer: null);
        Assert.Equal(Errno.EPERM, f.Map(attachment).Errno);
        Assert.Equal((0, MappingState.Unmapped), (f.Exporter.PinCount, attachment.State));
    }

    [Fact]
    public void Every_member_without_the_host_lock_throws()
    {
        BufferFixture f = new();
        SharedBuffer buffer = f.Buffer;
        Timeline work = f.Work;
        Fence fence = f.AddFence(ReservationUsage.Write);
        f.Dispose();
        Assert.Throws<InvalidOperationException>(() => buffer.TryAttach(BufferFixture.Device, null, out _));
        Assert.Throws<InvalidOperationException>(() => buffer.Reservation.FirstUnsignaled(ReservationUsage.Read));
        Assert.Throws<InvalidOperationException>(() => fence.Signal());
        Assert.Throws<InvalidOperationException>(() => fence.TryAddCallback(_ => { }));
        Assert.Equal("work", work.Name);
    }

    [Fact]
    public void DBUF_16_A_pin_on_a_static_attachment_throws()
    {
        using BufferFixture f = new();
        Attachment attachment = f.Attach(importer: null);
        AcquireTicket ticket = f.Lock();
        Assert.Throws<InvalidOperationException>(() => attachment.PinLocked(ticket));
        f.ExpectViolation(ViolationKind.Pin);
    }

    [Fact]
    public void DBUF_19_Only_importers_that_can_stop_are_told_once_with_the_reservation_held_even_if_unmapped()
    {
        using BufferFixture f = new();
        f.Attach(importer: null);
        f.Attach(new TestPinnedImporter());
        TestImporter dynamic = f.NewImporter();
        f.Attach(dynamic);
        f.Invalidate();
        Assert.Equal((1, true), (dynamic.Invalidations, dynamic.WasLocked));
    }

    [Fact]
    public void DBUF_20_Revocable_storage_refuses_at_attach_who_cannot_be_made_to_stop()
    {
        using BufferFixture f = new(StorageKind.Revocable);
        Assert.Equal(Errno.EOPNOTSUPP, f.Buffer.TryAttach(BufferFixture.Device, new TestPinnedImporter(), out _));
        Assert.Equal(Errno.EOPNOTSUPP, f.Buffer.TryAttach(BufferFixture.Device, importer: null, out _));
        Assert.Empty(f.Exporter.Calls);
        f.Attach(f.NewImporter(ImporterKind.PinnedRevocable));
        f.Attach(f.NewImporter());
    }

    [Fact]
    public void A_second_map_of_one_attachment_is_EBUSY()
    {
        using BufferFixture f = new();
        Assert.Equal(Errno.EBUSY, f.Map(f.AttachAndMap(f.NewImporter())).Errno);
    }

    [Fact]
    public void An_invalidation_that_drains_leaves_a_BOOKKEEP_fence_and_an_invalidated_mapping()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter();
        Attachment attachment = f.AttachAndMap(importer);
        importer.Inside = 1;
        f.Invalidate();
        Assert.Equal(MappingState.Invalidated, attachment.State);
        Assert.Null(f.Buffer.Reservation.FirstUnsignaled(ReservationUsage.Read));
        Assert.Same(importer.Drain, f.Buffer.Reservation.FirstUnsignaled(ReservationUsage.Bookkeep));
        Assert.Equal(Errno.EBUSY, f.Map(attachment).Errno);
        importer.Leave();
        Assert.Equal(MappingState.Unmapped, attachment.State);
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(attachment).Kind);
    }

    [Fact]
    public void An_unmap_without_a_mapping_or_of_one_that_was_not_invalidated_throws()
    {
        using BufferFixture f = new();
        Attachment attachment = f.Attach(f.NewImporter());
        Assert.Throws<InvalidOperationException>(attachment.UnmapInvalidated);
        f.Map(attachment);
        Assert.Throws<InvalidOperationException>(attachment.UnmapInvalidated);
    }

    [Fact]
    public void A_detach_with_a_mapping_or_a_pin_throws()
    {
        using BufferFixture f = new();
        SharedBuffer buffer = f.Buffer;
        Attachment attachment = f.AttachAndMap(f.NewImporter(ImporterKind.PinnedRevocable));
        Assert.Throws<InvalidOperationException>(() => buffer.Detach(attachment));
        f.Unmap(attachment);
        Assert.Throws<InvalidOperationException>(() => buffer.Detach(attachment));
        AcquireTicket ticket = f.Lock();
        attachment.UnpinLocked(ticket);
        Assert.Throws<InvalidOperationException>(() => attachment.UnpinLocked(ticket));
        f.Buffer.Reservation.Unlock(ticket);
        buffer.Detach(attachment);
        Assert.Throws<InvalidOperationException>(() => buffer.Detach(attachment));
    }

    [Fact]
    public void A_buffer_outlives_its_owner_as_long_as_somebody_is_attached_and_is_released_once()
    {
        using BufferFixture f = new();
        SharedBuffer buffer = f.Buffer;
        Attachment attachment = f.Attach(f.NewImporter());
        buffer.Release();
        buffer.Release();
        Assert.Equal(1, buffer.ReferenceCount);
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(attachment).Kind);
        f.Unmap(attachment);
        Assert.DoesNotContain("release", f.Exporter.Calls);
        buffer.Detach(attachment);
        Assert.Equal(["detach", "release"], f.Exporter.Calls[^2..]);
        Assert.Throws<InvalidOperationException>(buffer.Put);
        Assert.Throws<ObjectDisposedException>(buffer.Get);
        Assert.Throws<ObjectDisposedException>(() => buffer.Poll(PollEvents.In));
        Assert.Equal(Errno.ENODEV, buffer.TryAttach(BufferFixture.Device, null, out _));
        Assert.Equal(Errno.ENODEV, buffer.TryBeginCpuAccess(DmaDirection.ToDevice, out _));
        Assert.Equal(Errno.ENODEV, buffer.TryMmap("process 1", 0, 1, out _));
    }
}
