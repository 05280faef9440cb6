using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Vfio;
using Wayleave.Tests.Buffers;
using Wayleave.Tests.PeerMemory;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.Vfio;

public sealed class VfioTests
{
    private const ulong Page = VfioFixture.Page;

    [Fact]
    public void The_table_of_states() => Snapshot.Match(
        TransitionTable.Of<VfioTransitionState, VfioTransitionEvent>(VfioTransition.Next), "VfioTransitions");

    [Fact]
    public void EXP_08_Only_importers_that_can_be_made_to_stop_are_let_in()
    {
        VfioFixture f = new();
        SharedBuffer buffer = f.Export();

        Assert.Equal(Errno.EOPNOTSUPP, f.TryAttach(buffer, null));
        Assert.Equal(Errno.EOPNOTSUPP, f.TryAttach(buffer, new TestPinnedImporter()));
        Assert.Equal(Errno.EOPNOTSUPP, f.TryAttach(buffer, new NoPeerToPeer()));
        PeerUser pinned = new(f.Host, f.Importer, ImporterKind.PinnedRevocable);
        Assert.Equal(Errno.Success, f.TryAttach(buffer, pinned));
        Assert.Equal(Errno.Success, f.TryAttach(buffer, new PeerUser(f.Host, f.Importer)));
    }

    [Fact]
    public void EXP_08_A_pin_is_no_more_than_a_promise_to_unmap()
    {
        VfioFixture f = new();
        SharedBuffer buffer = f.Export();
        PeerUser pinned = f.Use(buffer, ImporterKind.PinnedRevocable);

        Assert.True(f.Locked(f.Device.Reset).IsCompleted);

        Assert.Equal((0, 1), (pinned.Attachment!.PinCount, f.Resets));
        Assert.False(buffer.IsRevoked);
        Assert.Equal(Errno.ENODEV, pinned.TryMap()); // for good
    }

    [Fact]
    public void EXP_09_Memory_is_off_when_everybody_has_unmapped_and_on_again_it_can_be_mapped()
    {
        VfioFixture f = new();
        SharedBuffer buffer = f.Export();
        PeerUser user = f.Use(buffer);
        PeerUser idle = new(f.Host, f.Importer);
        Assert.Equal(Errno.Success, idle.TryAttach(buffer));
        Assert.True(user.TryEnter());

        VfioTransition off = f.Locked(() => f.Device.SetMemoryEnable(false));

        Assert.Equal((1, 1), (user.Invalidations, idle.Invalidations));
        Assert.Equal(VfioTransitionState.Stopping, off.State);
        Assert.Equal(Errno.ENODEV, idle.TryMap());
        user.Land(0, 1); // the access that had begun
        user.Leave();
        Assert.True(off.IsCompleted);
        Assert.Equal(RetirementGrade.Retired, Assert.Single(off.Revokes).Proof!.Grade);
        Assert.Equal(1, f.Memory[0]);
        Assert.False(f.Device.Function.DecodesMemory);
        Assert.Equal(Errno.ENODEV, user.TryMap());

        Assert.True(f.Locked(() => f.Device.SetMemoryEnable(true)).IsCompleted);
        Assert.Equal(2, user.Invalidations); // told once more, before it may map
        user.Map();
        Assert.True(user.TryWrite(0, 2));
        Assert.Equal(2, f.Memory[0]);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void EXP_10_A_reset_starts_when_the_last_access_has_ended(bool waits)
    {
        VfioFixture f = new(new VfioOptions { WaitsForImporters = waits });
        PeerUser user = f.Use(f.Export());
        Assert.True(user.TryEnter());

        VfioTransition reset = f.Locked(f.Device.Reset);
        f.Clock.Advance(TimeSpan.FromMilliseconds(50));

        // With the wait switched off the reset comes first, and the write lands in a device that was reset.
        Assert.Equal(waits ? 0 : 1, f.Resets);
        user.Land(0, 0x11);
        user.Leave();
        Assert.Equal((true, 1), (reset.IsCompleted, f.Resets));
        Assert.Equal(waits ? 0xF0 : 0x11, f.Memory[0]);
    }

    [Fact]
    public void EXP_10_An_importer_that_does_not_stop_is_named_and_the_reset_waits_on()
    {
        VfioFixture f = new();
        PeerUser deaf = new(f.Host, f.Importer) { IsDeaf = true };
        Assert.Equal(Errno.Success, deaf.TryAttach(f.Export()));
        deaf.Map();
        VfioTransition reset = f.Locked(f.Device.Reset);

        Assert.Equal(f.Host.Now + TimeSpan.FromSeconds(5), reset.NextDeadline);
        f.Clock.Advance(TimeSpan.FromSeconds(6));
        f.Locked(() => reset.HandleTimeout(f.Host.Now));
        Assert.Null(reset.NextDeadline);

        RetirementProof proof = Assert.Single(reset.Revokes).Proof!;
        Assert.Equal("b user", Assert.Single(proof.Importers).Importer);
        Assert.Equal((false, 0), (reset.IsCompleted, f.Resets));
        bool called = false;
        Assert.True(f.Locked(() => reset.TryAddCompletion(() => called = true)));
        f.Locked(deaf.Attachment!.UnmapInvalidated);
        Assert.Equal((true, 1, true), (reset.IsCompleted, f.Resets, called));
        Assert.False(f.Locked(() => reset.TryAddCompletion(() => { })));
    }

    [Fact]
    public void EXP_11_What_is_exported_while_memory_is_off_is_dead_until_it_is_on()
    {
        VfioFixture f = new();
        f.Locked(() => f.Device.SetMemoryEnable(false));
        SharedBuffer buffer = f.Export();

        Assert.Equal(Errno.ENODEV, f.TryAttach(buffer, new PeerUser(f.Host, f.Importer)));
        f.Locked(() => f.Device.SetMemoryEnable(true));
        f.Use(buffer);
    }

    [Fact]
    public void EXP_11_What_is_exported_while_importers_are_being_stopped_waits_for_the_end_of_that()
    {
        VfioFixture f = new();
        PeerUser user = f.Use(f.Export());
        Assert.True(user.TryEnter());
        VfioTransition reset = f.Locked(f.Device.Reset);

        SharedBuffer late = f.Export();

        Assert.Equal(Errno.ENODEV, f.TryAttach(late, new PeerUser(f.Host, f.Importer)));
        user.Leave();
        Assert.True(reset.IsCompleted);
        f.Use(late);
    }

    [Fact]
    public void EXP_12_Ranges_are_whole_pages_of_a_BAR_one_after_the_other()
    {
        VfioFixture f = new();
        PeerUser user = f.Use(f.Export(new VfioRange(0, Page), new VfioRange(2 * Page, Page)));

        Assert.Equal(2 * Page, user.Attachment!.Buffer.SizeBytes);
        Assert.Equal(
            [new DeviceRange(f.Start, Page), new DeviceRange(f.Start + (2 * Page), Page)],
            user.Mapping.Entries.ToArray());

        Assert.Equal(Errno.EINVAL, f.TryExport([new VfioRange(Page, 0)], out _));
        Assert.Equal(Errno.EINVAL, f.TryExport([new VfioRange(1, Page)], out _));
        Assert.Equal(Errno.EINVAL, f.TryExport([new VfioRange(0, 100)], out _));
        Assert.Equal(Errno.EINVAL, f.TryExport([new VfioRange(15 * Page, 2 * Page)], out _));
        Assert.Equal(Errno.EINVAL, f.TryExport([new VfioRange(16 * Page, Page)], out _));
        ulong half = 1UL << 62;
        Assert.Equal(Errno.EINVAL, f.TryExport([new VfioRange(0, half), new VfioRange(0, half)], out _));
        Assert.Equal(Errno.EOVERFLOW, f.TryExport([new VfioRange(ulong.MaxValue - Page + 1, Page)], out _));
    }

    [Fact]
    public void EXP_12_Flags_no_ranges_and_regions_that_are_not_its_own_are_refused()
    {
        VfioFixture f = new();
        VfioRange[] one = [new VfioRange(0, Page)];

        Assert.Equal(Errno.EINVAL, f.TryExport(one, out _, flags: 1));
        Assert.Equal(Errno.EINVAL, f.TryExport([], out _));
        Assert.Equal(Errno.ENODEV, f.TryExport(one, out _, region: 6));
        Assert.Equal(Errno.ENODEV, f.TryExport(one, out _, region: 0));
        Assert.Equal(Errno.EINVAL, f.TryExport(one, out _, region: 4)); // I/O ports have no provider
        VfioFixture other = new(new VfioOptions { ClaimedBars = [0] });
        Assert.Equal(Errno.ENODEV, other.TryExport(one, out _));
        VfioFixture none = new(new VfioOptions { ExportsBars = false });
        Assert.Equal(Errno.EOPNOTSUPP, none.TryExport(one, out _));
    }

    [Fact]
    public void EXP_13_After_the_close_of_the_device_its_buffers_are_dead_and_their_handles_valid()
    {
        VfioFixture f = new();
        SharedBuffer buffer = f.Export();
        HandleTable table = new(f.Host);
        PeerUser user = f.Use(buffer);
        f.Locked(() => table.TryInstall(buffer, out _));

        VfioTransition close = f.Locked(f.Device.Close);

        Assert.True(close.IsCompleted);
        Assert.Same(close, f.Locked(f.Device.Close));
        Assert.False(user.TryWrite(0, 1));
        Assert.Equal(Errno.ENODEV, user.TryMap());
        Assert.Equal(Errno.ENODEV, f.TryAttach(buffer, new PeerUser(f.Host, f.Importer)));
        Assert.Equal(Errno.ENODEV, f.TryExport([new VfioRange(0, Page)], out _));
        Assert.Throws<ObjectDisposedException>(() => f.Locked(f.Device.Reset));
        f.Locked(() => buffer.Detach(user.Attachment!));
        Assert.Equal(Errno.Success, f.Locked(() => table.Close(0)));
        Assert.Equal(0, buffer.ReferenceCount);

        // The provider may go now: P2P-27.
        Assert.True(f.Locked(() => f.Device.Function.PeerDevice!.Unbind(f.Host)).IsCompleted);
        Assert.DoesNotContain(f.Trace.Events, e => e.Name.StartsWith("violation.", StringComparison.Ordinal));
    }

    [Fact]
    public void P2P_27_A_driver_that_lets_go_before_its_device_is_closed_is_a_violation()
    {
        VfioFixture f = new();
        f.Use(f.Export());

        f.Locked(() => f.Device.Function.PeerDevice!.Unbind(f.Host));

        Assert.Contains(f.Trace.Events, e => e.Name == "violation.provider_destroyed_while_mapped");
    }

    [Fact]
    public void Every_way_to_switch_the_BARs_off_stops_the_importers_and_its_opposite_revives_the_buffer()
    {
        VfioFixture f = new();
        SharedBuffer buffer = f.Export();
        PeerUser user = f.Use(buffer);
        (Func<VfioTransition> Off, Func<VfioTransition> On)[] ways =
        [
            (() => f.Device.SetPowerState(PciPowerState.D3Hot), () => f.Device.SetPowerState(PciPowerState.D0)),
            (() => f.Device.SetPowerState(PciPowerState.D3Cold), f.Device.Reset),
            (f.Device.Suspend, f.Device.Resume),
            (() => f.Device.SetMemoryEnable(false), () => f.Device.SetMemoryEnable(true)),
        ];

        foreach ((Func<VfioTransition> off, Func<VfioTransition> on) in ways)
        {
            Assert.True(f.Locked(off).IsCompleted);
            Assert.True(buffer.IsRevoked);
            Assert.False(user.TryWrite(0, 1));
            Assert.Equal(Errno.ENODEV, user.TryMap());
            Assert.True(f.Locked(on).IsCompleted);
            user.Map();
            Assert.True(user.TryWrite(0, 1));
        }

        // D1 and D2 keep the BARs.
        f.Locked(() => f.Device.SetPowerState(PciPowerState.D2));
        Assert.True(user.TryWrite(0, 2));
    }

    [Fact]
    public void One_way_on_does_not_undo_another_way_off()
    {
        VfioFixture f = new();
        SharedBuffer buffer = f.Export();
        f.Locked(() => f.Device.SetMemoryEnable(false));
        f.Locked(f.Device.Reset);
        Assert.True(buffer.IsRevoked);
        f.Locked(f.Device.Suspend);
        f.Locked(() => f.Device.SetMemoryEnable(true));
        Assert.True(buffer.IsRevoked);
        f.Locked(f.Device.Resume);
        Assert.False(buffer.IsRevoked);
    }

    [Fact]
    public void Changes_happen_one_after_the_other()
    {
        VfioFixture f = new();
        PeerUser user = f.Use(f.Export());
        Assert.True(user.TryEnter());

        VfioTransition off = f.Locked(() => f.Device.SetMemoryEnable(false));
        VfioTransition reset = f.Locked(f.Device.Reset);
        VfioTransition on = f.Locked(() => f.Device.SetMemoryEnable(true));

        Assert.Equal(
            [VfioTransitionState.Stopping, VfioTransitionState.Queued, VfioTransitionState.Queued],
            new[] { off.State, reset.State, on.State });
        Assert.Same(off, f.Device.Transition);
        user.Leave();
        Assert.True(off.IsCompleted && reset.IsCompleted && on.IsCompleted);
        Assert.Null(f.Device.Transition);
        user.Map();
    }

    [Fact]
    public void A_buffer_whose_reservation_somebody_has_comes_back_when_that_is_free()
    {
        VfioFixture f = new();
        SharedBuffer held = f.Export();
        SharedBuffer free = f.Export();
        f.Locked(() => f.Device.SetMemoryEnable(false));
        AcquireTicket ticket = f.LockReservation(held);

        VfioTransition on = f.Locked(() => f.Device.SetMemoryEnable(true));

        Assert.Equal(VfioTransitionState.Restoring, on.State);
        Assert.Equal((true, true), (held.IsRevoked, free.IsRevoked));
        f.Locked(() => held.Reservation.Unlock(ticket));
        Assert.True(on.IsCompleted);
        Assert.Equal((false, false), (held.IsRevoked, free.IsRevoked));
    }

    [Fact]
    public void What_somebody_else_took_back_does_not_come_back_with_the_BARs()
    {
        VfioFixture f = new();
        SharedBuffer buffer = f.Export();
        f.Locked(() => RevokeOperation.Start(buffer, new RevokePolicy()));

        f.Locked(f.Device.Reset);

        Assert.True(buffer.IsRevoked);
        Assert.Equal(Errno.ENODEV, f.TryAttach(buffer, new PeerUser(f.Host, f.Importer)));
    }

    [Fact]
    public void Without_a_route_a_map_is_EINVAL()
    {
        VfioFixture f = new(tree: Trees.RootPorts(Trees.Unlisted));
        PeerUser user = new(f.Host, f.Importer);

        Assert.Equal(Errno.Success, user.TryAttach(f.Export()));
        Assert.Equal(Errno.EINVAL, user.TryMap());
    }

    [Fact]
    public void A_buffer_that_is_released_is_forgotten()
    {
        VfioFixture f = new();
        SharedBuffer buffer = f.Export();
        Assert.Single(f.Device.Buffers);
        f.Locked(buffer.Release);
        Assert.Empty(f.Device.Buffers);
    }

    private sealed class NoPeerToPeer : IRevocableImporter
    {
        public string Name => "no peers";

        public ImporterKind Kind => ImporterKind.Dynamic;

        public bool AllowPeerToPeer => false;

        public InvalidateOutcome InvalidateMappings(Attachment attachment) => InvalidateOutcome.Done;
    }

    [Fact]
    public void A_reset_that_takes_its_time_keeps_the_lock_free_and_the_buffers_dead_until_it_is_done()
    {
        VfioFixture f = new() { HoldsResets = true };
        SharedBuffer buffer = f.Export();
        VfioTransition reset = f.Locked(f.Device.Reset);
        Assert.Equal((VfioTransitionState.Changing, true), (reset.State, buffer.IsRevoked));

        SharedBuffer meanwhile = f.Export();
        Assert.True(meanwhile.IsRevoked);
        f.Locked(f.FinishReset!);
        Assert.True(reset.IsCompleted);
        Assert.Equal((false, false), (buffer.IsRevoked, meanwhile.IsRevoked));
    }
}
