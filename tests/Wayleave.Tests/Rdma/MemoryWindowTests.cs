using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Memory windows of both types, and who may take them back.</summary>
public class MemoryWindowTests
{
    private const uint First = Conversation.First;

    private const AccessFlags Bindable = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead
        | AccessFlags.WindowBind;

    private const AccessFlags Both = AccessFlags.RemoteWrite | AccessFlags.RemoteRead;

    private static Conversation Start(ResponderDefences? defences = null) => new(
        options: o => o with { Defences = defences ?? ResponderDefences.All },
        access: Bindable,
        registration: RegistrationKind.OwnMemory);

    private static WindowBind Part(
        Conversation c, ulong offset, ulong length, AccessFlags access = Both, uint? lkey = null) =>
        new(lkey ?? c.Region.Key, c.Region.Iova + offset, length, access);

    private static void Bind(
        Conversation c,
        MemoryWindow window,
        in WindowBind bind,
        WorkCompletionStatus status = WorkCompletionStatus.Success)
    {
        Assert.Equal(Errno.Success, c.Pair.PostBind(window, bind, 77));
        c.ExpectNothing();
        WorkCompletion completion = c.ExpectCompletion(77, status);
        Assert.Equal(WorkCompletionOpcode.BindWindow, completion.Opcode);
    }

    private static void Invalidate(Conversation c, uint key, WorkCompletionStatus status)
    {
        SendWorkRequest request = new()
        {
            WrId = 78,
            Opcode = WorkRequestOpcode.LocalInvalidate,
            Flags = SendFlags.Signaled,
            InvalidateKey = key,
        };
        Assert.Equal(Errno.Success, c.Pair.PostSend(request, []));
        c.ExpectNothing();
        Assert.Equal(WorkCompletionOpcode.LocalInvalidate, c.ExpectCompletion(78, status).Opcode);
    }

    private static RawPacket SendInvalidate(uint psn, uint key) => new(Opcode.RcSendOnlyWithInvalidate, psn)
    {
        AckRequest = true,
        InvalidateKey = key,
        Payload = [1, 2, 3, 4],
    };

    [Fact]
    public void ROCE_24_RDMA_36_A_SEND_with_invalidate_ends_a_window_of_type_2()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        Bind(c, window, Part(c, 0x1000, 64));
        c.PostReceive(4, 0, 64);
        c.SendWrite(First, 0x1000, [5], window.Key);
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        c.Send(SendInvalidate(First + 1, window.Key));
        c.Expect("RC_ACKNOWLEDGE a00001 1f msn=2");
        WorkCompletion completion = c.ExpectCompletion(4, WorkCompletionStatus.Success);
        Assert.Equal(
            (WorkCompletionFlags.WithInvalidate, window.Key), (completion.Flags, completion.InvalidatedKey));
        c.SendWrite(First + 2, 0x1001, [6], window.Key);
        c.Expect("RC_ACKNOWLEDGE a00002 62 msn=2");
        Assert.Equal((5, 0), (c.Memory[0x1000], c.Memory[0x1001]));
        c.ExpectState(QueuePairState.Error);
    }

    [Theory]
    [InlineData("type 1")]
    [InlineData("region")]
    [InlineData("key 0")]
    [InlineData("free")]
    [InlineData("of another queue pair")]
    public void ROCE_25_A_SEND_that_invalidates_what_it_may_not_is_a_remote_operation_error(string what)
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(
            what == "type 1" ? MemoryWindowType.Type1 : MemoryWindowType.Type2);
        if (what == "of another queue pair")
        {
            BindElsewhere(c, window);
        }
        else if (what != "free")
        {
            Bind(c, window, Part(c, 0x1000, 64));
        }

        c.PostReceive(4, 0, 64);
        c.Send(SendInvalidate(First, what == "region" ? c.Region.Key : what == "key 0" ? 0 : window.Key));
        c.Expect("RC_ACKNOWLEDGE a00000 63 msn=0");
        c.ExpectCompletion(4, WorkCompletionStatus.RemoteInvalidRequest);
        c.ExpectState(QueuePairState.Error);
        Assert.Equal(what != "free", window.IsBound);
    }

    [Fact]
    public void ROCE_44_A_window_grants_its_own_bounds_and_not_those_of_its_region()
    {
        foreach ((ulong offset, bool isInside) in new[] { (0x1000UL, true), (0x0FFFUL, false), (0x1001UL, false) })
        {
            Conversation c = Start();
            MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
            Bind(c, window, Part(c, 0x1000, 8));
            c.SendWrite(First, offset, TestMemory.Pattern(8, 1), window.Key);
            c.Expect(isInside ? "RC_ACKNOWLEDGE a00000 1f msn=1" : "RC_ACKNOWLEDGE a00000 62 msn=0");
            Assert.Equal(isInside, c.Memory.Read(0x0FF0, 64).Any(b => b != 0));
        }
    }

    [Fact]
    public void ROCE_45_RDMA_35_A_window_of_type_2_serves_the_queue_pair_it_is_bound_to_and_no_other()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        BindElsewhere(c, window);
        c.SendWrite(First, 0x1000, [5], window.Key);
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
        c.ExpectUntouched();
    }

    [Fact]
    public void RDMA_36_A_window_of_type_2_is_bound_when_it_is_free_and_only_then()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        Bind(c, window, Part(c, 0x1000, 8));
        uint first = window.Key;
        Invalidate(c, first, WorkCompletionStatus.Success);
        Bind(c, window, Part(c, 0x2000, 8));
        Assert.Equal((first >> 8, (byte)(first + 1)), (window.Key >> 8, (byte)window.Key));
        c.SendWrite(First, 0x2000, [5], window.Key);
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        Bind(c, window, Part(c, 0x3000, 8), WorkCompletionStatus.MemoryWindowBindError);
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void RDMA_36_The_key_of_an_earlier_binding_is_dead()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        Bind(c, window, Part(c, 0x1000, 8));
        uint old = window.Key;
        Invalidate(c, old, WorkCompletionStatus.Success);
        Bind(c, window, Part(c, 0x1000, 8));
        c.SendWrite(First, 0x1000, [5], old);
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
        c.ExpectUntouched();
    }

    [Fact]
    public void RDMA_37_A_window_of_type_1_is_rebound_at_will_and_never_invalidated()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type1);
        Bind(c, window, Part(c, 0x1000, 8));
        Bind(c, window, Part(c, 0x2000, 8));
        c.SendWrite(First, 0x2000, [5], window.Key);
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        Bind(c, window, Part(c, 0, 0));
        Assert.False(window.IsBound);
        Bind(c, window, Part(c, 0x1000, 8));
        Invalidate(c, window.Key, WorkCompletionStatus.LocalQpOperationError);
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void RDMA_38_A_region_with_a_bound_window_cannot_be_deregistered()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type1);
        Bind(c, window, Part(c, 0x1000, 8));
        Assert.Equal(Errno.EINVAL, c.Node.TryDeregister(c.Region));
        c.SendWrite(First, 0x1000, [5], window.Key);
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        Bind(c, window, Part(c, 0, 0));
        Assert.Equal(Errno.Success, c.Node.TryDeregister(c.Region));
        Bind(c, window, Part(c, 0x1000, 8), WorkCompletionStatus.MemoryWindowBindError);
    }

    [Fact]
    public void RDMA_39_A_region_cannot_be_invalidated_by_a_work_request()
    {
        Conversation c = Start();
        Invalidate(c, c.Region.Key, WorkCompletionStatus.LocalQpOperationError);
        c.ExpectState(QueuePairState.Error);
        Assert.Equal(MemoryRegionState.Valid, c.Region.State);
    }

    [Theory]
    [InlineData("region without the right to bind")]
    [InlineData("write without local write")]
    [InlineData("outside")]
    [InlineData("right that windows do not have")]
    [InlineData("zero based, type 1")]
    [InlineData("no bytes, type 2")]
    [InlineData("zero based region")]
    [InlineData("unknown region")]
    [InlineData("other domain")]
    [InlineData("key of another window")]
    [InlineData("deallocated")]
    public void A_bind_that_breaks_a_rule_ends_with_a_bind_error_and_changes_nothing(string rule)
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(
            rule.Contains("type 1", StringComparison.Ordinal) ? MemoryWindowType.Type1 : MemoryWindowType.Type2,
            rule == "other domain" ? c.Node.Device.CreateProtectionDomain() : null);
        AccessFlags access = rule switch
        {
            "right that windows do not have" => AccessFlags.FlushGlobal,
            "zero based, type 1" => Both | AccessFlags.ZeroBased,
            _ => Both,
        };
        uint lkey = rule switch
        {
            "region without the right to bind" => c.Node.Register(c.Memory).Key,
            "write without local write" => c.Node.Register(
                c.Memory, AccessFlags.WindowBind, registration: RegistrationKind.OwnMemory).Key,
            "zero based region" => c.Node.Register(
                c.Memory, Bindable | AccessFlags.ZeroBased, iova: 0, registration: RegistrationKind.OwnMemory).Key,
            "unknown region" => 0x7700,
            _ => c.Region.Key,
        };
        WindowBind bind = rule == "zero based region"
            ? new WindowBind(lkey, 0, 8, Both)
            : Part(c, rule == "outside" ? (ulong)Conversation.MemoryBytes - 4 : 0, 8, access, lkey);
        bind = bind with { LengthBytes = rule == "no bytes, type 2" ? 0 : bind.LengthBytes };
        uint? key = rule == "key of another window" ? window.Key ^ 0x100 : null;
        if (rule == "deallocated")
        {
            c.Node.Device.DeallocateWindow(window);
        }

        Assert.Equal(Errno.Success, c.Pair.PostBind(window, bind, 77, key: key));
        c.ExpectNothing();
        c.ExpectCompletion(77, WorkCompletionStatus.MemoryWindowBindError);
        c.ExpectState(QueuePairState.Error);
        Assert.False(window.IsBound);
        Assert.Equal(Errno.Success, c.Node.TryDeregister(c.Region));
    }

    [Fact]
    public void A_zero_based_window_counts_from_its_first_byte()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        Bind(c, window, Part(c, 0x1000, 16, Both | AccessFlags.ZeroBased));
        c.SendWrite(First, 0, [5], window.Key, address: 3);
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        Assert.Equal(5, c.Memory[0x1003]);
        c.SendWrite(First + 1, 0, [5], window.Key, address: 16);
        c.Expect("RC_ACKNOWLEDGE a00001 62 msn=1");
    }

    [Fact]
    public void A_window_grants_no_right_that_it_was_not_bound_with()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        Bind(c, window, Part(c, 0x1000, 16, AccessFlags.RemoteRead));
        c.SendRead(First, 0x1000, 8, window.Key);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        c.SendWrite(First + 1, 0x1000, [5], window.Key);
        c.Expect("RC_ACKNOWLEDGE a00001 62 msn=1");
        c.ExpectUntouched();
    }

    [Fact]
    public void A_bind_and_an_invalidation_wait_for_what_was_posted_before()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        c.Post(1, WorkRequestOpcode.RdmaWrite, 0, 8);
        Assert.Equal(Errno.Success, c.Pair.PostBind(window, Part(c, 0x1000, 8), 2));
        c.Post(3, WorkRequestOpcode.RdmaWrite, 0, 8);
        c.Expect("RC_WRITE_ONLY b00000 A");
        c.ExpectNothing();
        Assert.False(window.IsBound);
        c.SendAck(Conversation.OwnFirst);
        c.Expect("RC_WRITE_ONLY b00001 A");
        Assert.True(window.IsBound);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        c.ExpectCompletion(2, WorkCompletionStatus.Success);
    }

    [Fact]
    public void A_window_is_free_again_when_its_queue_pair_is_reset()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        Bind(c, window, Part(c, 0x1000, 8));
        Assert.Equal(Errno.Success, c.Pair.Modify(
            new QueuePairAttributes { State = QueuePairState.Reset }, QueuePairAttributeMask.State));
        Assert.False(window.IsBound);
        Assert.Equal(Errno.Success, c.Node.TryDeregister(c.Region));
    }

    [Fact]
    public void A_deallocated_window_leads_nowhere()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type1);
        Bind(c, window, Part(c, 0x1000, 8));
        c.Node.Device.DeallocateWindow(window);
        c.SendWrite(First, 0x1000, [5], window.Key);
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
        c.ExpectUntouched();
        Assert.Equal(Errno.Success, c.Node.TryDeregister(c.Region));
    }

    [Theory]
    [InlineData("local invalidate")]
    [InlineData("deallocate")]
    public void A_WRITE_under_way_stops_when_its_window_is_taken_back(string how)
    {
        Assert.Equal("2 packets placed, NAK 62", TakeBack(how, ResponderDefences.All));
        Assert.Equal("3 packets placed", TakeBack(how, new ResponderDefences { ChecksWindowPerPacket = false }));
    }

    [Fact]
    public void A_revoked_region_is_dead_through_its_windows_too()
    {
        Conversation c = Start();
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type1);
        Bind(c, window, Part(c, 0x1000, 8));
        using (c.Node.Host.Enter())
        {
            RevokeOperation.Start(c.Memory.Buffer, new RevokePolicy());
        }

        c.SendWrite(First, 0x1000, [5], window.Key);
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
        c.ExpectUntouched();
    }

    [Theory]
    [InlineData(AccessFlags.WindowBind)]
    [InlineData(AccessFlags.FlushGlobal)]
    [InlineData(AccessFlags.OnDemand)]
    [InlineData((AccessFlags)(1 << 25))]
    public void RDMA_07_A_region_over_a_shared_buffer_takes_only_the_flags_of_one(AccessFlags flag)
    {
        TestNode node = new("10.77.0.1", 1);
        TestMemory memory = node.Allocate(4096);
        MemoryRegionRequest request = new(
            0, 4096, 0, AccessFlags.LocalWrite | flag, Core.Buffers.ImporterKind.Dynamic);
        Assert.Equal(Errno.EINVAL, node.TryRegister(memory, request, out _));
        Errno own = flag == AccessFlags.OnDemand ? Errno.EOPNOTSUPP : Errno.Success;
        Assert.Equal(
            own, node.TryRegister(memory, request with { Registration = RegistrationKind.OwnMemory }, out _));
    }

    private static string TakeBack(string how, ResponderDefences defences)
    {
        Conversation c = Start(defences);
        MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        Bind(c, window, Part(c, 0x1000, 3 * Conversation.Mtu));
        byte[] mtu = TestMemory.Pattern(Conversation.Mtu, 9);
        c.Send(new RawPacket(Opcode.RcWriteFirst, First)
        {
            Reth = new Reth(c.Region.Iova + 0x1000, window.Key, 3 * Conversation.Mtu),
            Payload = mtu,
        });
        c.Send(new RawPacket(Opcode.RcWriteMiddle, First + 1) { Payload = mtu });
        if (how == "deallocate")
        {
            c.Node.Device.DeallocateWindow(window);
        }
        else
        {
            Invalidate(c, window.Key, WorkCompletionStatus.Success);
        }

        c.Send(new RawPacket(Opcode.RcWriteLast, First + 2) { AckRequest = true, Payload = mtu });
        int placed = Enumerable.Range(0, 3).Count(
            i => c.Memory.Read(0x1000 + i * Conversation.Mtu, Conversation.Mtu).SequenceEqual(mtu));
        if (placed == 3)
        {
            return "3 packets placed";
        }

        c.Expect("RC_ACKNOWLEDGE a00002 62 msn=0");
        return $"{placed} packets placed, NAK 62";
    }

    private static void BindElsewhere(Conversation c, MemoryWindow window)
    {
        CompletionQueue completions = TestNode.CreateCompletionQueue();
        QueuePair other = c.Node.CreatePair(completions);
        new Connection
        {
            Attributes = new Connection().Attributes with
            {
                AddressVector = new AddressVector(c.PeerGid),
                DestQpNumber = 0x77,
            },
        }.Apply(other);
        Assert.Equal(Errno.Success, other.PostBind(window, Part(c, 0x1000, 64), 5));
        c.ExpectNothing();
        Assert.Equal(WorkCompletionStatus.Success, Assert.Single(TestNode.Poll(completions)).Status);
    }
}
