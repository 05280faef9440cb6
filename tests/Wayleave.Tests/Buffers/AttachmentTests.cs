using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.Buffers;

public class AttachmentTests
{
    [Fact]
    public void DBUF_11_A_static_importer_that_stops_waiting_leaves_neither_a_pin_nor_a_mapping()
    {
        using BufferFixture f = new();
        Attachment attachment = f.Attach(importer: null);
        f.AddFence(ReservationUsage.Kernel);
        Assert.Equal(MapOutcomeKind.MustWait, f.Map(attachment).Kind);
        Assert.Equal((0, 0, MappingState.Unmapped), (f.Exporter.PinCount, attachment.PinCount, attachment.State));
        f.Buffer.Detach(attachment);
    }

    [Fact]
    public void A_static_importer_waits_for_the_move_that_its_own_pin_began()
    {
        using BufferFixture f = new();
        Attachment attachment = f.Attach(importer: null);
        Fence copy = f.Work.CreateFence();
        AcquireTicket ticket = f.Lock();
        Reservation reservation = f.Buffer.Reservation;
        f.Exporter.Pinning = () =>
        {
            reservation.ReserveFences(ticket, 1);
            reservation.AddFence(ticket, copy, ReservationUsage.Kernel);
        };
        MapOutcome outcome = attachment.MapLocked(ticket, DmaDirection.ToDevice);
        Assert.Equal((MapOutcomeKind.MustWait, copy), (outcome.Kind, outcome.Fence));
        Assert.Equal(["attach", "pin", "map", "unmap", "unpin"], f.Exporter.Calls);
        copy.Signal();
        Assert.Equal(MapOutcomeKind.Mapped, attachment.MapLocked(ticket, DmaDirection.ToDevice).Kind);
        Assert.Equal((1, DmaDirection.ToDevice), (f.Exporter.PinCount, attachment.Direction));
    }

    [Fact]
    public void A_pin_that_is_busy_is_a_violation_because_the_attach_should_have_refused()
    {
        using BufferFixture f = new();
        f.Exporter.PinResult = Errno.EBUSY;
        Assert.Equal(Errno.EBUSY, f.Map(f.Attach(importer: null)).Errno);
        f.ExpectViolation(ViolationKind.Pin);
    }

    [Fact]
    public void DBUF_15_Every_member_that_needs_the_reservation_throws_without_it()
    {
        using BufferFixture f = new();
        Attachment attachment = f.AttachAndMap(f.NewImporter());
        AcquireTicket other = new(f.Host, "somebody without the lock");
        SharedBuffer buffer = f.Buffer;
        Assert.Throws<InvalidOperationException>(() => attachment.MapLocked(other, DmaDirection.Bidirectional));
        Assert.Throws<InvalidOperationException>(() => attachment.UnmapLocked(other));
        Assert.Throws<InvalidOperationException>(() => attachment.PinLocked(other));
        Assert.Throws<InvalidOperationException>(() => attachment.UnpinLocked(other));
        Assert.Throws<InvalidOperationException>(() => buffer.InvalidateMappings(other));
        Assert.Throws<InvalidOperationException>(() => buffer.TryVmapLocked(other, out _));
        Assert.Throws<InvalidOperationException>(() => buffer.VunmapLocked(other, default));
        Assert.Throws<InvalidOperationException>(() => buffer.TryUnrevokeLocked(other));
    }

    [Fact]
    public void DBUF_15_differs_Attach_detach_put_and_cpu_access_take_no_reservation_so_a_holder_may_call_them()
    {
        using BufferFixture f = new();
        AcquireTicket ticket = f.Lock();
        Attachment attachment = f.Attach(f.NewImporter());
        f.Buffer.Detach(attachment);
        Assert.Equal(Errno.Success, f.Buffer.TryBeginCpuAccess(DmaDirection.ToDevice, out CpuAccess? access));
        access!.End(out _);
        f.Buffer.Get();
        f.Buffer.Put();
        Assert.Same(ticket, f.Buffer.Reservation.Owner);
    }

    [Fact]
    public void DBUF_17_Where_the_exporter_cannot_pin_because_it_never_moves_a_pin_succeeds_and_nothing_happens()
    {
        using BufferFixture f = new();
        SharedBuffer bare = f.Export(new ExportInfo(new BareExporter(), "bare", 1, f.Buffer.Reservation));
        bare.TryAttach(BufferFixture.Device, f.NewImporter(), out Attachment? attachment);
        Assert.Equal(Errno.Success, f.Pin(attachment!));
        AcquireTicket ticket = f.Lock();
        attachment!.UnpinLocked(ticket);
        Assert.Equal(0, attachment.PinCount);
    }

    [Fact]
    public void DBUF_18_An_importer_without_the_callback_is_let_in_and_is_not_revocable()
    {
        using BufferFixture f = new();
        Assert.False(f.Attach(new TestPinnedImporter()).IsRevocable);
        Assert.False(f.Attach(importer: null).IsRevocable);
        Assert.True(f.Attach(f.NewImporter()).IsRevocable);
        Assert.True(f.Attach(f.NewImporter(ImporterKind.PinnedRevocable)).IsRevocable);
    }

    [Theory]
    [InlineData(ImporterKind.Static)]
    [InlineData(ImporterKind.PinnedRevocable)]
    [InlineData(ImporterKind.Dynamic)]
    public void An_importer_that_says_it_can_stop_and_has_no_way_to_be_told_is_EINVAL(ImporterKind kind)
    {
        using BufferFixture f = new();
        Assert.Equal(Errno.EINVAL, f.Buffer.TryAttach(BufferFixture.Device, new Liar(kind), out Attachment? none));
        Assert.Null(none);
        f.ExpectViolation(ViolationKind.ImporterKind);
        TestImporter denies = f.NewImporter(ImporterKind.Pinned);
        Assert.Equal(Errno.EINVAL, f.Buffer.TryAttach(BufferFixture.Device, denies, out _));
        Assert.Empty(f.Exporter.Calls);
    }

    [Theory]
    [InlineData(0xFFFUL)]
    [InlineData(0x1001UL)]
    public void A_list_that_is_not_as_long_as_the_buffer_is_given_back_and_refused(ulong length)
    {
        using BufferFixture f = new();
        f.Exporter.MappedBytes = length;
        MapOutcome outcome = f.Map(f.Attach(importer: null));
        Assert.Equal((MapOutcomeKind.Refused, Errno.EINVAL), (outcome.Kind, outcome.Errno));
        Assert.Equal(["attach", "pin", "map", "unmap", "unpin"], f.Exporter.Calls);
        f.ExpectViolation(ViolationKind.ExporterAnswer);
    }

    [Fact]
    public void DBUF_21_After_the_exporter_takes_a_revoke_back_dynamic_importers_map_again_and_pinned_ones_stay_dead()
    {
        using BufferFixture f = new(StorageKind.Revocable);
        TestImporter dynamic = f.NewImporter(), pinned = f.NewImporter(ImporterKind.PinnedRevocable);
        Attachment follows = f.AttachAndMap(dynamic), dies = f.AttachAndMap(pinned);
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, new RevokePolicy());
        Assert.Equal((RevokeState.Retired, true), (revoke.State, revoke.IsCurrent));
        Assert.Equal((Errno.ENODEV, Errno.ENODEV), (f.Map(follows).Errno, f.Map(dies).Errno));
        Assert.Equal(Errno.Success, f.Unrevoke());
        Assert.Equal((MapOutcomeKind.Mapped, 2), (f.Map(follows).Kind, dynamic.Invalidations));
        Assert.Equal((Errno.ENODEV, Errno.ENODEV), (f.Map(dies).Errno, f.Pin(dies)));
        Assert.False(revoke.IsCurrent);
    }

    [Fact]
    public void A_pinned_importer_that_a_mover_told_to_stop_has_stopped_for_good()
    {
        using BufferFixture f = new();
        Attachment attachment = f.AttachAndMap(f.NewImporter(ImporterKind.PinnedRevocable));
        f.Invalidate();
        Assert.Equal((MappingState.Unmapped, Errno.ENODEV), (attachment.State, f.Map(attachment).Errno));
    }

    [Fact]
    public void A_revoke_that_has_not_retired_and_storage_that_was_given_away_are_not_taken_back()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter();
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation.Start(f.Buffer, new RevokePolicy());
        Assert.Equal(Errno.EBUSY, f.Unrevoke());
        importer.Leave();
        f.Exporter.UnrevokeResult = Errno.EOPNOTSUPP;
        Assert.Equal(Errno.EOPNOTSUPP, f.Unrevoke());
        Assert.True(f.Buffer.IsRevoked);
        SharedBuffer bare = f.Export(new ExportInfo(new BareExporter(), "bare", 1, f.Buffer.Reservation));
        RevokeOperation.Start(bare, new RevokePolicy());
        AcquireTicket ticket = f.Lock();
        Assert.Equal(Errno.EOPNOTSUPP, bare.TryUnrevokeLocked(ticket));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Maps_that_fail_leave_no_pin_behind_and_without_the_undo_they_do(bool undoes)
    {
        using BufferFixture f = new(StorageKind.Movable, undoes ? CoreDefences.None : CoreDefences.UnpinsFailedMap);
        Attachment attachment = f.Attach(importer: null);
        foreach (Errno errno in new[] { Errno.ENOMEM, Errno.EPERM, Errno.Success })
        {
            (f.Exporter.MapResult, f.Exporter.MapsNothing) = (errno, true);
            Assert.Equal(MapOutcomeKind.Refused, f.Map(attachment).Kind);
        }

        bool leaks = f.Exporter.PinCount != 0 || attachment.PinCount != 0;
        Assert.Equal(!undoes, leaks);
        SharedBuffer buffer = f.Buffer;
        if (undoes)
        {
            buffer.Detach(attachment);
        }
        else
        {
            Assert.Throws<InvalidOperationException>(() => buffer.Detach(attachment)); // and it is noticed here
        }
    }

    /// <summary>Says that it can be made to stop.</summary>
    private sealed class Liar(ImporterKind kind) : IImporter
    {
        public string Name => "liar";

        public ImporterKind Kind { get; } = kind;

        public bool AllowPeerToPeer => true;
    }
}
