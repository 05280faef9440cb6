using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Regions over buffers that are registered, moved, taken back and deregistered.</summary>
public class RegionTests
{
    private const uint First = Conversation.First;
    private const AccessFlags Writable = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead;

    private static byte[] Bytes(int length, byte seed = 0x11) => TestMemory.Pattern(length, seed);

    private static RevokeOperation Revoke(TestNode node, TestMemory memory)
    {
        using (node.Host.Enter())
        {
            return RevokeOperation.Start(memory.Buffer, new RevokePolicy());
        }
    }

    [Theory]
    [InlineData(0x1000ul, 0x1000ul, 0x5000ul, Writable, Errno.Success)]
    [InlineData(0x1100ul, 0x1000ul, 0x5100ul, Writable, Errno.Success)]
    [InlineData(0x100ul, 0x1000ul, 0x200ul, Writable, Errno.EINVAL)] // RDMA-06
    [InlineData(0ul, 0x1000ul, 0ul, AccessFlags.LocalWrite | AccessFlags.OnDemand, Errno.EINVAL)] // RDMA-07
    [InlineData(0ul, 0x1000ul, 0ul, AccessFlags.LocalWrite | AccessFlags.WindowBind, Errno.EINVAL)] // RDMA-07
    [InlineData(0ul, 0x1000ul, 0ul, AccessFlags.RemoteWrite, Errno.EINVAL)] // RDMA-01
    [InlineData(0ul, 0x1000ul, 0ul, (AccessFlags)(1 << 25), Errno.EINVAL)] // RDMA-02
    [InlineData(0ul, 0x1000ul, 0ul, AccessFlags.LocalWrite | AccessFlags.RelaxedOrdering, Errno.Success)]
    [InlineData(0xF000ul, 0x2000ul, 0ul, Writable, Errno.EINVAL)] // RDMA-08
    [InlineData(0xFFFF_FFFF_FFFF_F000ul, 0x2000ul, 0ul, Writable, Errno.EINVAL)] // RDMA-08
    [InlineData(0ul, 0ul, 0ul, Writable, Errno.EINVAL)]
    public void RDMA_01_02_06_07_08_Registration_checks_its_arguments(
        ulong offset, ulong length, ulong iova, AccessFlags access, Errno expected)
    {
        TestNode node = new("10.77.0.1", 1);
        TestMemory memory = node.Allocate(0x10000);
        Errno errno = node.TryRegister(
            memory,
            new MemoryRegionRequest(offset, length, iova, access, ImporterKind.Dynamic),
            out MemoryRegion? region);
        Assert.Equal(expected, errno);
        Assert.Equal(expected == Errno.Success, region is not null);
        Assert.Equal(expected == Errno.Success ? 1 : 0, memory.Buffer.Attachments.Count);
    }

    // Of 62 packets that fit the super-packet. The owner waits for the one in hand, or for the whole run.
    [Theory]
    [InlineData(true, 3)]
    [InlineData(false, 62)]
    public void A_run_ends_behind_the_packet_during_which_its_gate_was_closed_unless_it_does_not_look(
        bool endsRuns, int packets)
    {
        Action? beforePacket = null;
        int asked = 0;
        TestLink link = new(o => o with
        {
            Defences = new ResponderDefences { EndsRuns = endsRuns },
            SuperPacketSegments = 64,
            WillRead = _ =>
            {
                asked++;
                beforePacket?.Invoke();
            },
        });
        TestMemory memory = link.A.Allocate(16 << 20); // larger than a cache, so that the hint is asked for
        MemoryRegion local = link.A.Register(memory), remote = link.B.Register(link.B.Allocate(1 << 20));
        (QueuePair a, _) = link.Connect();
        SendWorkRequest write = new()
        {
            Opcode = WorkRequestOpcode.RdmaWrite,
            RemoteAddress = remote.Iova,
            RKey = remote.Key,
        };
        Assert.Equal(Errno.Success, a.PostSend(write, new Sge(local.Iova, 1 << 17, local.Key)));
        RevokeOperation? revoke = null;
        beforePacket = () =>
        {
            if (asked == 3)
            {
                revoke = Revoke(link.A, memory);
                Assert.NotEqual(RevokeState.Retired, revoke.State);
            }
        };

        byte[] buffer = new byte[65536];
        Assert.True(link.A.Port.PollTransmit(link.Now, buffer, out _)); // First and the Middle behind it
        Assert.True(link.A.Port.PollTransmit(link.Now, buffer, out Transmit run));
        Assert.Equal((packets, packets), (asked, run.LengthBytes / run.SegmentBytes));
        Assert.Equal(RevokeState.Retired, revoke!.State);
    }

    // The same for what answers a READ: after the proof nothing of the memory is read for a packet.
    [Theory]
    [InlineData(true, 3)]
    [InlineData(false, 62)]
    public void A_run_of_an_answer_ends_behind_the_packet_during_which_its_gate_was_closed_unless_it_does_not_look(
        bool endsRuns, int packets)
    {
        Action? beforePacket = null;
        int asked = 0;
        TestLink link = new(configureB: o => o with
        {
            Defences = new ResponderDefences { EndsRuns = endsRuns },
            SuperPacketSegments = 64,
            WillRead = _ =>
            {
                asked++;
                beforePacket?.Invoke();
            },
        });
        TestMemory memory = link.B.Allocate(16 << 20); // larger than a cache, so that the hint is asked for
        MemoryRegion remote = link.B.Register(memory, kind: ImporterKind.PinnedRevocable);
        MemoryRegion local = link.A.Register(link.A.Allocate(1 << 20));
        (QueuePair a, QueuePair b) = link.Connect();
        SendWorkRequest read = new()
        {
            WrId = 1,
            Opcode = WorkRequestOpcode.RdmaRead,
            RemoteAddress = remote.Iova,
            RKey = remote.Key,
        };
        Assert.Equal(Errno.Success, a.PostSend(read, new Sge(local.Iova, 1 << 17, local.Key)));
        link.Step(link.A, link.B);
        RevokeOperation? revoke = null;
        beforePacket = () =>
        {
            if (asked == 3)
            {
                revoke = Revoke(link.B, memory);
                Assert.NotEqual(RevokeState.Retired, revoke.State);
            }
        };

        byte[] buffer = new byte[65536];
        Assert.True(link.B.Port.PollTransmit(link.Now, buffer, out _)); // First and the Middle behind it
        Assert.True(link.B.Port.PollTransmit(link.Now, buffer, out Transmit run));
        Assert.Equal((packets, packets), (asked, run.LengthBytes / run.SegmentBytes));
        Assert.Equal(RevokeState.Retired, revoke!.State);
        while (link.B.Port.PollTransmit(link.Now, buffer, out _))
        {
            // what is left is the refusal, if it did not ride with the run
        }

        Assert.Equal(packets, asked);
        Assert.Equal(QueuePairState.Error, b.State);
    }

    [Fact]
    public void A_run_lends_64_KiB_at_most()
    {
        TestNode node = new("10.77.0.1", 1);
        MemoryRegion region = node.Register(node.Allocate(1 << 20));
        AccessOutcome outcome = node.Port.Memory.TryOpen(
            region, region.Iova, 1 << 20, out ReadOnlySpan<byte> bytes, out Translation? translation);
        Assert.Equal((AccessOutcome.Done, 64 << 10), (outcome, bytes.Length));
        node.Port.Memory.Leave(translation!);
    }

    [Fact]
    public void A_region_whose_drain_was_forced_is_neither_unmapped_nor_deregistered_while_the_port_is_inside()
    {
        Conversation c = new();
        Translation inside = c.Region.Current!;
        Assert.True(inside.Gate.TryEnter());
        RevokeOperation revoke = Revoke(c.Node, c.Memory);
        using (c.Node.Host.Enter())
        {
            c.Memory.Buffer.Reservation.FirstUnsignaled(ReservationUsage.Bookkeep)!.Force(Errno.ETIME);
        }

        Revoke(c.Node, c.Memory);
        Fence drain = c.Node.Deregister(c.Region)!;
        Assert.Equal((true, false, 1), (drain.IsForced, drain.HasEnded, c.Memory.Mapped));
        Assert.NotEqual(RevokeState.Retired, revoke.State);
        inside.Gate.Exit();
        Assert.Equal((RevokeState.Retired, 0), (revoke.State, c.Memory.Mapped));
        Assert.Null(c.Node.Deregister(c.Region));
    }

    [Fact]
    public void A_drain_that_takes_too_long_is_forced_and_the_memory_waits_for_who_is_inside()
    {
        Conversation c = new();
        Translation inside = c.Region.Current!;
        Assert.True(inside.Gate.TryEnter());
        RevokeOperation revoke = Revoke(c.Node, c.Memory);
        HangDetector hangs = c.Node.Device.Hangs;
        using (c.Node.Host.Enter())
        {
            TimeSpan due = hangs.NextDeadline!.Value;
            Assert.Equal(c.Node.Host.Now + c.Node.Device.Options.DrainTimeout, due);
            hangs.HandleTimeout(due);
            Assert.False(Assert.Single(hangs.Hangs).WasStopped);
            Assert.True(c.Memory.Buffer.Reservation.TestSignaled(ReservationUsage.Bookkeep));
        }

        Assert.NotEqual(RevokeState.Retired, revoke.State);
        inside.Gate.Exit();
        Assert.Equal((RevokeState.Retired, 0), (revoke.State, hangs.WatchedCount));
        Assert.Equal(0, c.Node.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_region_whose_drain_was_forced_is_mapped_again_once_the_port_has_left_after_all()
    {
        Conversation c = new();
        Translation inside = c.Region.Current!;
        Assert.True(inside.Gate.TryEnter());
        using (c.Node.Host.Enter())
        {
            AcquireTicket ticket = new(c.Node.Host, "move");
            Assert.Equal(LockOutcomeKind.Acquired, c.Memory.Buffer.Reservation.TryLock(ticket).Kind);
            c.Memory.Buffer.InvalidateMappings(ticket);
            c.Memory.Buffer.Reservation.FirstUnsignaled(ReservationUsage.Bookkeep)!.Force(Errno.ETIME);
            c.Memory.Buffer.Reservation.Unlock(ticket);
        }

        Assert.Equal(Errno.EBUSY, c.Node.Remap(c.Region).Errno);
        inside.Gate.Exit();

        // No access was refused meanwhile, and none is now: it asks for a map, which succeeds.
        c.SendWrite(First, 0, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 2c msn=0");
        Assert.Equal(1, c.Node.ServeFaults());
        c.SendWrite(First, 0, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
    }

    [Theory]
    [InlineData(true, Errno.EEXIST)]
    [InlineData(false, Errno.Success)]
    public void The_number_of_a_dead_key_is_free_only_to_a_device_without_that_defence(bool holds, Errno expected)
    {
        ResponderDefences defences = new() { HoldsDeadNumbers = holds };
        TestNode node = new("10.77.0.1", 1, options => options with { Defences = defences });
        TestMemory old = node.Allocate(0x1000), next = node.Allocate(0x1000);
        MemoryRegion dead = node.Register(old);
        MemoryRegionRequest request = new(0, 0x1000, 0, Writable, ImporterKind.Dynamic, dead.Key);
        Assert.Equal(Errno.EEXIST, node.TryRegister(next, request, out _));
        Revoke(node, old);
        Assert.Equal(expected, node.TryRegister(next, request, out _));
    }

    [Fact]
    public void RDMA_10_After_a_move_a_WRITE_lands_in_the_new_place_under_the_same_key()
    {
        Conversation c = new();
        Assert.Equal(MemoryRegionState.Valid, c.Region.State);
        uint key = c.Region.Key;
        c.SendWrite(First, 0, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        c.Memory.Move();
        Assert.Equal(MemoryRegionState.Invalidated, c.Region.State);

        c.SendWrite(First + 1, 64, Bytes(64, 0x55));
        c.Expect("RC_ACKNOWLEDGE a00001 2c msn=1");
        Assert.Equal(1, c.Node.ServeFaults());
        c.SendWrite(First + 1, 64, Bytes(64, 0x55));
        c.Expect("RC_ACKNOWLEDGE a00001 1f msn=2");
        Assert.Equal(Bytes(64, 0x55), c.Memory.Read(64, 64, place: 1));
        Assert.All(c.Memory.Read(64, 64, place: 0), b => Assert.Equal(0, b));
        Assert.Equal(key, c.Region.Key);
    }

    [Fact]
    public void RDMA_11_Between_invalidate_and_map_nothing_is_touched_and_the_rest_of_the_batch_is_silent()
    {
        Conversation c = new();
        c.Memory.Move();
        for (uint i = 0; i < 4; i++)
        {
            c.SendWrite(First + i, i * 64, Bytes(64));
        }

        c.Expect("RC_ACKNOWLEDGE a00000 2c msn=0");
        c.ExpectNothing();
        c.ExpectUntouched();
        c.ExpectState(QueuePairState.ReadyToSend);
        Assert.Equal(1, c.Node.Port.Stats.Faults);
        Assert.True(c.Node.Port.PollFault(out MemoryRegion? region));
        Assert.Same(c.Region, region);
        Assert.False(c.Node.Port.PollFault(out _));
    }

    [Fact]
    public void RDMA_12_A_map_waits_for_the_movers_copy_before_the_memory_is_touched()
    {
        Conversation c = new();
        Fence copy;
        using (c.Node.Host.Enter())
        {
            AcquireTicket ticket = new(c.Node.Host, "mover");
            c.Memory.Buffer.Reservation.TryLock(ticket);
            c.Memory.Buffer.InvalidateMappings(ticket);
            copy = new Timeline(c.Node.Host, "copy").CreateFence();
            c.Memory.Buffer.Reservation.ReserveFences(ticket, 1);
            c.Memory.Buffer.Reservation.AddFence(ticket, copy, ReservationUsage.Kernel);
            c.Memory.Buffer.Reservation.Unlock(ticket);
        }

        c.SendWrite(First, 0, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 2c msn=0");
        Assert.Same(copy, c.Node.Remap(c.Region).Fence);
        Assert.Null(c.Region.Current);
        c.SendWrite(First, 0, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 2c msn=0");
        c.ExpectUntouched();

        using (c.Node.Host.Enter())
        {
            copy.Signal();
        }

        Assert.Equal(MapOutcomeKind.Mapped, c.Node.Remap(c.Region).Kind);
        c.SendWrite(First, 0, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        Assert.Equal(1, c.Memory.Mapped);
    }

    [Fact]
    public void RDMA_12_An_invalidation_while_the_map_waits_gives_the_addresses_back()
    {
        Conversation c = new();
        using (c.Node.Host.Enter())
        {
            AcquireTicket ticket = new(c.Node.Host, "mover");
            c.Memory.Buffer.Reservation.TryLock(ticket);
            c.Memory.Buffer.InvalidateMappings(ticket);
            c.Memory.Buffer.Reservation.ReserveFences(ticket, 1);
            c.Memory.Buffer.Reservation.AddFence(
                ticket, new Timeline(c.Node.Host, "copy").CreateFence(), ReservationUsage.Kernel);
            c.Memory.Buffer.Reservation.Unlock(ticket);
        }

        Assert.Equal(MapOutcomeKind.MustWait, c.Node.Remap(c.Region).Kind);
        Assert.Equal(1, c.Memory.Mapped);
        RevokeOperation revoke = Revoke(c.Node, c.Memory);
        Assert.Equal(0, c.Memory.Mapped);
        Assert.False(revoke.IsCompleted); // the copy's fence is pending
        Assert.Equal(Errno.EINVAL, c.Node.Remap(c.Region).Errno);
    }

    [Fact]
    public void RDMA_14_A_pinned_region_that_cannot_stop_is_refused_by_storage_that_must_be_revocable()
    {
        TestNode node = new("10.77.0.1", 1);
        TestMemory memory = node.Allocate(4096, StorageKind.Revocable);
        MemoryRegionRequest request = new(0, 4096, 0, Writable, ImporterKind.Pinned);
        Assert.Equal(Errno.EOPNOTSUPP, node.TryRegister(memory, request, out _));
        Assert.Equal(
            Errno.Success, node.TryRegister(memory, request with { Kind = ImporterKind.PinnedRevocable }, out _));
        Assert.Equal(1, memory.Pins);
    }

    [Fact]
    public void A_pin_that_is_refused_leaves_nothing_behind()
    {
        TestNode node = new("10.77.0.1", 1);
        TestMemory memory = node.Allocate(4096);
        memory.PinResult = Errno.EOPNOTSUPP;
        Assert.Equal(
            Errno.EOPNOTSUPP,
            node.TryRegister(memory, new MemoryRegionRequest(0, 4096, 0, Writable, ImporterKind.Pinned), out _));
        Assert.Empty(memory.Buffer.Attachments);
        Assert.Equal(0, memory.Mapped);
    }

    [Theory]
    [InlineData(ImporterKind.Dynamic)]
    [InlineData(ImporterKind.PinnedRevocable)]
    public void RDMA_15_16_A_revoke_kills_the_key_before_it_unmaps_and_the_proof_says_so(ImporterKind kind)
    {
        Conversation c = new();
        TestMemory memory = c.Node.Allocate(4096);
        MemoryRegion region = c.Node.Register(memory, kind: kind);
        Assert.Equal(kind == ImporterKind.Dynamic ? 0 : 1, memory.Pins);

        RevokeOperation revoke = Revoke(c.Node, memory);

        Assert.Equal(RetirementGrade.Retired, revoke.Proof!.Grade);
        ImporterProof proof = Assert.Single(revoke.Proof.Importers);
        Assert.Equal((region.Key, 0L), (proof.Key!.Value, proof.InsideAtClose));
        Assert.NotNull(proof.DrainedAt);
        Assert.NotNull(proof.UnmappedAt);
        Assert.Equal((0, 0), (memory.Mapped, memory.Pins));
        Assert.Equal(MemoryRegionState.Dead, region.State);
        Assert.Equal(
            ["rdma.key_dead", "rdma.gate_closed", "revoke.retired"],
            c.Node.Trace.Events.Select(e => e.Name).Where(
                n => n is "rdma.key_dead" or "rdma.gate_closed" or "revoke.retired"));

        c.SendWrite(First, 0, Bytes(64), key: region.Key, address: region.Iova);
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
        c.ExpectState(QueuePairState.Error);
        Assert.Equal((64L, 0L, First), (region.BytesRejected, region.BytesPlaced, region.FirstRejectedPsn!.Value));
        Assert.Equal(
            [new AsyncEvent(AsyncEventType.QueuePairAccessError, c.Pair.QpNumber, region.Key)], c.Node.PollEvents());
        Assert.All(memory.Read(0, 4096), b => Assert.Equal(0, b));
        Assert.Null(c.Node.Deregister(region));
        Assert.Null(c.Node.Device.FindRegion(region.Key));
        Assert.Empty(memory.Buffer.Attachments);
    }

    [Fact]
    public void RDMA_16_After_a_revoke_a_local_use_is_a_local_protection_error()
    {
        Conversation c = new();
        Revoke(c.Node, c.Memory);
        c.Post(8, WorkRequestOpcode.RdmaWrite, 0, 64);
        c.ExpectNothing();
        c.ExpectCompletion(8, WorkCompletionStatus.LocalProtectionError);
        c.ExpectState(QueuePairState.Error);

        Conversation receiver = new();
        receiver.PostReceive(9, 0, 64);
        Revoke(receiver.Node, receiver.Memory);
        receiver.SendSend(First, Bytes(8));
        receiver.Expect("RC_ACKNOWLEDGE a00000 63 msn=0");
        receiver.ExpectCompletion(9, WorkCompletionStatus.LocalProtectionError);
    }

    [Fact]
    public void RDMA_17_A_dead_key_keeps_its_number_until_it_is_deregistered()
    {
        TestNode node = new("10.77.0.1", 1);
        TestMemory memory = node.Allocate(4096), other = node.Allocate(4096);
        MemoryRegion region = node.Register(memory);
        Revoke(node, memory);
        MemoryRegionRequest same = new(0, 4096, TestNode.Iova, Writable, ImporterKind.Dynamic, region.Key);
        Assert.Equal(Errno.EEXIST, node.TryRegister(other, same, out _));
        Assert.Null(node.Deregister(region));
        Assert.Equal(Errno.Success, node.TryRegister(other, same, out _));
    }

    [Theory]
    [InlineData(ImporterKind.Dynamic)]
    [InlineData(ImporterKind.PinnedRevocable)]
    [InlineData(ImporterKind.Pinned)]
    public void RDMA_18_Deregistration_without_a_revoke_ends_mapping_and_pin_once(ImporterKind kind)
    {
        TestNode node = new("10.77.0.1", 1);
        TestMemory memory = node.Allocate(4096);
        MemoryRegion region = node.Register(memory, kind: kind);
        Assert.Null(node.Deregister(region));
        Assert.Equal((0, 0, 0), (memory.Mapped, memory.Pins, memory.Buffer.Attachments.Count));
        Assert.Equal(MemoryRegionState.Dead, region.State);
    }

    [Fact]
    public void RDMA_19_A_deregistration_that_finds_the_port_inside_waits_and_a_revoke_may_come_between()
    {
        TestNode node = new("10.77.0.1", 1);
        TestMemory memory = node.Allocate(4096);
        MemoryRegion region = node.Register(memory, kind: ImporterKind.PinnedRevocable);
        InFlightGate gate = region.Current!.Gate;
        Assert.True(gate.TryEnter());

        Fence? drain = node.Deregister(region);
        Assert.NotNull(drain);
        Assert.Equal(MemoryRegionState.Dead, region.State);
        RevokeOperation revoke = Revoke(node, memory);
        Assert.False(revoke.IsCompleted);
        Assert.Equal(1, memory.Mapped);

        gate.Exit();
        Assert.True(drain.IsSignaled);
        Assert.Equal(RetirementGrade.Retired, revoke.Proof!.Grade);
        Assert.Equal((0, 0), (memory.Mapped, memory.Pins));
        Assert.Equal(1, Assert.Single(revoke.Proof.Importers).InsideAtClose);
        Assert.Null(node.Deregister(region));
        Assert.Empty(memory.Buffer.Attachments);
    }

    [Fact]
    public void A_revoke_that_follows_a_move_whose_users_are_still_inside_kills_the_key_and_waits_for_them()
    {
        TestNode node = new("10.77.0.1", 1);
        TestMemory memory = node.Allocate(4096);
        MemoryRegion region = node.Register(memory);
        InFlightGate gate = region.Current!.Gate;
        Assert.True(gate.TryEnter());
        using (node.Host.Enter())
        {
            AcquireTicket ticket = new(node.Host, "mover");
            memory.Buffer.Reservation.TryLock(ticket);
            memory.Buffer.InvalidateMappings(ticket);
            memory.Buffer.Reservation.Unlock(ticket);
        }

        Assert.Equal(MapOutcomeKind.MustWait, node.Remap(region).Kind);
        Assert.Equal(MemoryRegionState.Invalidated, region.State);
        RevokeOperation revoke = Revoke(node, memory);
        Assert.Equal(MemoryRegionState.Dead, region.State);
        Assert.False(revoke.IsCompleted);
        gate.Exit();
        Assert.Equal(RetirementGrade.Retired, revoke.Proof!.Grade);
        Assert.Equal(1, Assert.Single(revoke.Proof.Importers).InsideAtClose);
    }

    [Fact]
    public void RDMA_20_A_map_of_a_revoked_region_is_EINVAL()
    {
        TestNode node = new("10.77.0.1", 1);
        TestMemory memory = node.Allocate(4096);
        MemoryRegion region = node.Register(memory);
        Revoke(node, memory);
        Assert.Equal(Errno.EINVAL, node.Remap(region).Errno);
    }

    [Fact]
    public void RDMA_30_An_RNR_NAK_for_a_moved_region_counts_against_the_retries_of_the_peer()
    {
        foreach (int retries in new[] { 0, 7 })
        {
            TestLink link = new();
            (QueuePair a, _) = link.Connect(at => at with { RnrRetry = retries });
            TestMemory source = link.A.Allocate(8192), target = link.B.Allocate(8192);
            MemoryRegion local = link.A.Register(source), remote = link.B.Register(target);
            source.FillPattern(0, 3000, 0x55);
            target.Move();
            a.PostSend(
                new SendWorkRequest
                {
                    WrId = 1,
                    Opcode = WorkRequestOpcode.RdmaWrite,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = remote.Iova,
                    RKey = remote.Key,
                },
                new Sge(local.Iova, 3000, local.Key));
            link.Run();
            Assert.Equal(1, link.B.ServeFaults());
            link.RunFor(TimeSpan.FromMilliseconds(5));
            WorkCompletion completion = Assert.Single(TestNode.Poll(a.SendCompletionQueue));
            Assert.Equal(
                retries == 0 ? WorkCompletionStatus.RnrRetryExceeded : WorkCompletionStatus.Success, completion.Status);
            Assert.Equal(retries == 0 ? new byte[3000] : Bytes(3000, 0x55), target.Read(0, 3000));
        }
    }

    [Fact]
    public void Another_queue_pair_of_the_port_goes_on_while_one_waits_for_a_map()
    {
        TestLink link = new();
        (QueuePair a1, _) = link.Connect();
        (QueuePair a2, _) = link.Connect();
        TestMemory source = link.A.Allocate(8192), moving = link.B.Allocate(8192), fixedMemory = link.B.Allocate(8192);
        MemoryRegion local = link.A.Register(source);
        MemoryRegion remote1 = link.B.Register(moving), remote2 = link.B.Register(fixedMemory);
        moving.Move();
        foreach ((QueuePair pair, MemoryRegion remote) in new[] { (a1, remote1), (a2, remote2) })
        {
            pair.PostSend(
                new SendWorkRequest
                {
                    Opcode = WorkRequestOpcode.RdmaWrite,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = remote.Iova,
                    RKey = remote.Key,
                },
                new Sge(local.Iova, 3000, local.Key));
        }

        link.Run();
        Assert.Empty(TestNode.Poll(a1.SendCompletionQueue));
        Assert.Single(TestNode.Poll(a2.SendCompletionQueue));
    }

    [Fact]
    public void RDMA_33_A_READ_whose_region_is_revoked_after_a_packet_ends_with_NAK_62_and_no_later_byte()
    {
        // One segment a super-packet, so that the revoke comes between two packets.
        Conversation c = new(options: o => o with { SuperPacketSegments = 1 });
        c.Memory.FillPattern(0, 3072, 0x55);
        c.SendRead(First, 0, 3072);
        byte[] buffer = new byte[65536];
        Assert.True(c.Node.Port.PollTransmit(c.Now, buffer, out Transmit transmit));
        Assert.Equal("RC_READ_RESP_FIRST a00000 1f msn=1", TestLink.Describe(buffer.AsSpan(0, transmit.LengthBytes)));
        Revoke(c.Node, c.Memory);
        c.Expect("RC_ACKNOWLEDGE a00001 62 msn=1");
        c.ExpectNothing();
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void H_12_A_region_that_is_deregistered_stops_a_READ_and_a_WRITE_under_way()
    {
        Conversation read = new(options: o => o with { SuperPacketSegments = 1 });
        read.SendRead(First, 0, 3072);
        Assert.True(read.Node.Port.PollTransmit(read.Now, new byte[65536], out _));
        Assert.Null(read.Node.Deregister(read.Region));
        read.Expect("RC_ACKNOWLEDGE a00001 62 msn=1");

        Conversation write = new();
        write.Send(
            new RawPacket(Opcode.RcWriteFirst, First)
            {
                Reth = new Reth(write.Region.Iova, write.Region.Key, 2048),
                Payload = Bytes(1024),
            });
        Assert.Null(write.Node.Deregister(write.Region));
        write.Send(new RawPacket(Opcode.RcWriteLast, First + 1) { AckRequest = true, Payload = Bytes(1024) });
        write.Expect("RC_ACKNOWLEDGE a00001 62 msn=0");
        Assert.All(write.Memory.Read(1024, 1024), b => Assert.Equal(0, b));
    }

    [Fact]
    public void A_READ_of_a_moved_region_is_delayed_not_refused()
    {
        Conversation c = new();
        c.Memory.FillPattern(0, 64, 0x55);
        c.Memory.Move();
        c.SendRead(First, 0, 64);
        c.ExpectNothing();
        Assert.Equal(1, c.Node.ServeFaults());
        Assert.True(c.Node.Port.HasDoorbell);
        byte[] answer = c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        Assert.Equal(Bytes(64, 0x55), answer[16..^4]);
    }

    [Fact]
    public void A_READ_that_waits_for_a_map_ends_when_the_region_is_revoked()
    {
        Conversation c = new();
        c.Memory.Move();
        c.SendRead(First, 0, 64);
        c.ExpectNothing();
        Revoke(c.Node, c.Memory);
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=1");
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void A_requester_whose_own_region_moved_waits_without_an_error()
    {
        Conversation c = new();
        c.Memory.FillPattern(0, 64, 0x55);
        c.Memory.Move();
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 64);
        c.ExpectNothing();
        c.ExpectNoCompletion();
        Assert.Equal(1, c.Node.ServeFaults());
        byte[] packet = c.Expect("RC_WRITE_ONLY b00000 A");
        Assert.Equal(Bytes(64, 0x55), packet[28..^4]);
        c.SendAck(Conversation.OwnFirst, msn: 1);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
    }

    [Fact]
    public void READ_data_for_a_region_that_moved_is_dropped_and_asked_for_again()
    {
        Conversation c = new();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 2048);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Send(new RawPacket(Opcode.RcReadResponseFirst, Conversation.OwnFirst) { Payload = Bytes(1024) });
        c.Memory.Move();
        c.Send(new RawPacket(Opcode.RcReadResponseLast, Conversation.OwnFirst + 1) { Payload = Bytes(1024) });
        c.ExpectNothing();
        Assert.Equal(1, c.Node.ServeFaults());
        byte[] again = c.Expect("RC_READ_REQUEST b00001 A");
        Assert.True(Reth.TryParse(again.AsSpan(Bth.Size), out Reth reth));
        Assert.Equal(new Reth(0x2000_0000 + 1024, 0x1234, 1024), reth);
        c.Send(new RawPacket(Opcode.RcReadResponseLast, Conversation.OwnFirst + 1) { Payload = Bytes(1024) });
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
    }

    [Fact]
    public void A_fault_that_the_exporter_refuses_is_an_access_error_not_an_endless_wait()
    {
        Conversation write = new();
        write.Memory.Move();
        write.SendWrite(First, 0, Bytes(64));
        write.Expect("RC_ACKNOWLEDGE a00000 2c msn=0");
        write.Memory.MapResult = Errno.ENOMEM;
        Assert.True(write.Node.Port.PollFault(out MemoryRegion? region));
        Assert.Equal(Errno.ENOMEM, write.Node.Remap(region).Errno);
        write.SendWrite(First, 0, Bytes(64));
        write.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");

        Conversation read = new();
        read.Memory.Move();
        read.SendRead(First, 0, 64);
        read.ExpectNothing();
        read.Memory.MapResult = Errno.ENOMEM;
        Assert.Equal(Errno.ENOMEM, read.Node.Remap(read.Region).Errno);
        read.Expect("RC_ACKNOWLEDGE a00000 62 msn=1");

        Conversation own = new();
        own.Memory.Move();
        own.Post(1, WorkRequestOpcode.RdmaWrite, 0, 64);
        own.ExpectNothing();
        own.Memory.MapResult = Errno.ENOMEM;
        Assert.Equal(Errno.ENOMEM, own.Node.Remap(own.Region).Errno);
        own.ExpectNothing();
        own.ExpectCompletion(1, WorkCompletionStatus.LocalProtectionError);
    }

    [Fact]
    public void After_a_refused_map_the_access_after_the_error_asks_again()
    {
        TestLink link = new();
        (QueuePair first, _) = link.Connect();
        (QueuePair second, _) = link.Connect();
        TestMemory source = link.A.Allocate(4096), target = link.B.Allocate(4096);
        MemoryRegion local = link.A.Register(source), remote = link.B.Register(target);
        source.FillPattern(0, 64, 0x55);
        SendWorkRequest request = new()
        {
            Opcode = WorkRequestOpcode.RdmaWrite,
            Flags = SendFlags.Signaled,
            RemoteAddress = remote.Iova,
            RKey = remote.Key,
        };
        target.Move();
        target.MapResult = Errno.ENOMEM;
        first.PostSend(request, new Sge(local.Iova, 64, local.Key));
        link.Run();
        Assert.True(link.B.Port.PollFault(out _));
        link.B.Remap(remote);
        link.RunFor(TimeSpan.FromMilliseconds(2));
        Assert.Equal(
            WorkCompletionStatus.RemoteAccessError, Assert.Single(TestNode.Poll(first.SendCompletionQueue)).Status);

        target.MapResult = Errno.Success;
        second.PostSend(request, new Sge(local.Iova, 64, local.Key));
        link.Run();
        Assert.Equal(1, link.B.ServeFaults());
        link.RunFor(TimeSpan.FromMilliseconds(2));
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(second.SendCompletionQueue)).Status);
        Assert.Equal(Bytes(64, 0x55), target.Read(0, 64));
    }
}
