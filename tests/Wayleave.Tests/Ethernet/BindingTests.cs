using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Accelerator;
using Xunit;

namespace Wayleave.Tests.Ethernet;

public sealed class BindingTests
{
    private const int Page = NicFixture.Page;

    private static readonly BindRequest s_revocable = new() { Queues = [2], Kind = ImporterKind.PinnedRevocable };

    [Fact]
    public void DEVM_01_A_bind_needs_queues_and_header_split()
    {
        NicFixture f = new(ready: false);
        f.Port.Steering.Change(0, RssChange.Equal(2, 128));
        GpuBuffer buffer = f.Create(4);

        Assert.Equal(Errno.EOPNOTSUPP, f.BindErrno(buffer, s_revocable with { Queues = [] }));
        Assert.Equal(Errno.EINVAL, f.BindErrno(buffer, s_revocable));
        f.Nic.SetSplit(new HeaderSplit(HeaderSplitMode.Off, 0));
        Assert.Equal(Errno.EINVAL, f.BindErrno(buffer, s_revocable));
        f.Nic.SetSplit(new HeaderSplit(HeaderSplitMode.On, 0));
        Assert.Equal(Errno.Success, f.BindErrno(buffer, s_revocable));
    }

    [Fact]
    public void DEVM_02_Channels_cannot_shrink_below_a_bound_queue()
    {
        NicFixture f = new();
        f.Nic.SetChannels(6);
        f.Bind(f.Create(4), 3);

        Assert.Equal(Errno.EINVAL, f.Nic.SetChannels(3));
        Assert.Equal(Errno.Success, f.Nic.SetChannels(4));
        Assert.Equal((4, 4), (f.Port.Queues.Count, f.Port.Steering.Channels));
        Assert.Equal(Errno.Success, f.Nic.SetChannels(8));
        Assert.NotNull(f.Port.Queues[3].Binding);
    }

    [Fact]
    public void DEVM_03_A_threshold_and_a_binding_exclude_each_other()
    {
        NicFixture f = new();
        GpuBuffer buffer = f.Create(4);
        Assert.Equal(Errno.Success, f.Nic.SetSplit(new HeaderSplit(HeaderSplitMode.On, 1)));
        Assert.Equal(Errno.EINVAL, f.BindErrno(buffer, s_revocable));
        Assert.Equal(Errno.Success, f.Nic.SetSplit(new HeaderSplit(HeaderSplitMode.On, 0)));
        MemoryBinding binding = f.Bind(buffer, s_revocable);

        Assert.Equal(Errno.EINVAL, f.Nic.SetSplit(new HeaderSplit(HeaderSplitMode.On, 1)));
        Assert.Equal(Errno.EINVAL, f.Nic.SetSplit(new HeaderSplit(HeaderSplitMode.Off, 0)));
        Assert.Equal(Errno.Success, f.Nic.SetSplit(new HeaderSplit(HeaderSplitMode.On, 0)));
        f.Nic.Unbind(binding);
        Assert.Equal(Errno.Success, f.Nic.SetSplit(new HeaderSplit(HeaderSplitMode.Off, 0)));
    }

    [Fact]
    public void DEVM_04_A_queue_has_one_binding_and_no_reader_and_its_device_no_program()
    {
        NicFixture f = new();
        GpuBuffer buffer = f.Create(4);
        Assert.Equal(Errno.Success, f.Nic.SetReader(3, new Reader()));
        Assert.Equal(Errno.EBUSY, f.BindErrno(buffer, s_revocable with { Queues = [3] }));
        Assert.Equal(Errno.Success, f.Nic.SetProgram(new PassAll()));
        Assert.Equal(Errno.EEXIST, f.BindErrno(buffer, s_revocable));
        Assert.Equal(Errno.Success, f.Nic.SetProgram(null));

        f.Bind(buffer, s_revocable);
        Assert.Equal(Errno.EEXIST, f.BindErrno(f.Create(4), s_revocable));
        Assert.Equal(Errno.EEXIST, f.BindErrno(f.Create(4), s_revocable with { Queues = [1, 1], AllowsRss = true }));
        Assert.Equal(Errno.EBUSY, f.Nic.SetReader(2, new Reader()));
        Assert.Equal(Errno.EBUSY, f.Nic.SetProgram(new PassAll()));
    }

    [Fact]
    public void DEVM_05_One_bad_queue_leaves_none_bound_and_nothing_attached()
    {
        NicFixture f = new();
        GpuBuffer buffer = f.Create(4);
        Assert.Equal(Errno.EINVAL, f.BindErrno(buffer, s_revocable with { Queues = [2, 99] }));
        f.Bind(f.Create(4), 3);
        Assert.Equal(Errno.EEXIST, f.BindErrno(buffer, s_revocable with { Queues = [2, 3] }));

        Assert.Null(f.Port.Queues[2].Binding);
        Assert.Equal((0, 0), (f.Attachments(buffer), buffer.PinCount));
        f.Bind(buffer, s_revocable);
    }

    [Fact]
    public void DEVM_06_One_buffer_on_three_queues_has_one_id_and_three_queues_report_it()
    {
        NicFixture f = new();
        f.Nic.SetChannels(5);
        MemoryBinding binding = f.Bind(f.Create(4), 2, 3, 4);

        Assert.Equal([2, 3, 4], binding.Queues);
        Assert.All((int[])[2, 3, 4], q => Assert.Equal(binding.Id, f.Port.Queues[q].Binding!.Id));
        Assert.NotEqual(0u, binding.Id);
        f.Nic.Unbind(binding);
        Assert.All(f.Port.Queues, q => Assert.Null(q.Binding));
    }

    [Fact]
    public void A_queue_that_RSS_uses_is_bound_only_if_that_is_asked_for()
    {
        NicFixture f = new();
        BindOutcome refused = f.TryBind(f.Create(4).Shared, s_revocable with { Queues = [1] }, out _);
        Assert.Equal(Errno.EINVAL, refused.Errno);
        Assert.Contains("RSS spreads flows over queue 1", refused.Explanation, StringComparison.Ordinal);
        Assert.Equal(Errno.Success, f.BindErrno(f.Create(4), s_revocable with { Queues = [1], AllowsRss = true }));
    }

    [Fact]
    public void A_table_that_comes_after_the_bind_does_not_lead_strangers_to_the_queue()
    {
        NicFixture f = new();
        FlowSteering steering = f.Port.Steering;
        MemoryBinding binding = f.Bind(f.Create(4), s_revocable);
        Assert.Equal(Errno.EBUSY, steering.Change(0, RssChange.Equal(3, 128)));
        Assert.Equal(Errno.EBUSY, steering.Change(0, new RssChange { Table = [] }));
        Assert.False(steering.IsInRss(2));
        Assert.Equal(Errno.Success, steering.Change(0, RssChange.Equal(1, 128)));
        f.Nic.Unbind(binding);
        Assert.Equal(Errno.Success, steering.Change(0, new RssChange { Table = [] }));
        f.Bind(f.Create(4), s_revocable with { AllowsRss = true });
        Assert.Equal(Errno.Success, steering.Change(0, RssChange.Equal(4, 128)));
    }

    [Fact]
    public void DEVM_23_A_static_binding_takes_no_peer_addresses_and_has_one_pin_until_it_is_released()
    {
        NicFixture f = new();
        GpuBuffer buffer = f.Create(4);
        MemoryBinding binding = f.Bind(buffer, new BindRequest { Queues = [2] });

        Attachment attachment = f.Locked(() => Assert.Single(buffer.Shared.Attachments));
        Assert.Equal((false, null, 1), (attachment.PeerToPeer, attachment.Importer, buffer.PinCount));
        Assert.Equal(GpuDomain.System, buffer.Placement.Domain); // as amdgpu: GTT for who takes no peer addresses
        Assert.Equal(PeerRoute.HostMemory, binding.Route);
        f.SteerTo(2);
        f.Receive(TestFrame.Bytes(500));
        DevmemFragment read = Assert.Single(f.Read());
        Assert.Equal(TestFrame.Bytes(500), f.BytesOf(buffer, read));

        f.Nic.Unbind(binding);
        Assert.Equal((1, 1), (buffer.PinCount, f.Attachments(buffer)));
        f.Connection().DontNeed([new TokenRange(read.Token, 1)], out _);
        Assert.Equal((0, 0), (buffer.PinCount, f.Attachments(buffer)));
        Assert.Equal(BindingState.Released, binding.State);
    }

    [Fact]
    public void DEVM_24_What_exporters_refuse_a_static_importer_a_bind_is_refused_with()
    {
        NicFixture f = new();
        GpuBuffer revocable = f.Create(4, storage: StorageKind.Revocable); // as VFIO: only who can be made to stop
        BindOutcome outcome = f.TryBind(revocable.Shared, new BindRequest { Queues = [2] }, out MemoryBinding? none);
        Assert.Equal((Errno.EOPNOTSUPP, null), (outcome.Errno, none));
        Assert.Contains("does not let nic0 attach", outcome.Explanation, StringComparison.Ordinal);
        Assert.Equal(Errno.Success, f.BindErrno(revocable, s_revocable));
    }

    [Fact]
    public void DEVM_24_An_accelerator_lets_a_static_binding_attach_and_refuses_the_map_and_takes_payload_otherwise()
    {
        PciFunction function = new("0000:0a:00.0", "nic0");
        AcceleratorFixture a = new(importer: function);
        SharedBuffer range = a.Export(a.Map(a.Allocate(4)), 4 * AcceleratorFixture.Page);
        a.Run();
        NicDevice nic = new(a.Host, a.Fabric, function, new NicOptions { Address = TestFrame.Ours });
        Assert.True(nic.Port.TryEnter());
        nic.SetSplit(new HeaderSplit(HeaderSplitMode.On, 0));
        nic.Port.Steering.Change(0, RssChange.Equal(2, 128));
        BindOutcome Bind(BindRequest request, out MemoryBinding? made)
        {
            AcquireTicket ticket = a.Locked(() => new AcquireTicket(a.Host, "bind"));
            a.Locked(() => range.Reservation.TryLock(ticket));
            BindOutcome outcome = nic.BindLocked(ticket, range, request, out made);
            a.Locked(() => range.Reservation.Unlock(ticket));
            return outcome;
        }

        BindOutcome refused = Bind(new BindRequest { Queues = [2] }, out _);
        Assert.Equal(Errno.EPERM, refused.Errno);
        Assert.Contains("cannot be mapped for nic0", refused.Explanation, StringComparison.Ordinal);
        Assert.Empty(a.Locked(() => range.Attachments));

        Assert.Equal(Errno.Success, Bind(s_revocable, out MemoryBinding? binding).Errno);
        Assert.Equal(PeerRoute.BusAddress, binding!.Route);
        nic.Port.Steering.InsertRule(FlowRule.ForPort(FlowType.TcpIPv4, 5201, 2), out _);
        byte[] payload = TestFrame.Bytes(1000);
        Assert.Equal(FrameDrop.None, nic.Port.HandleFrame(new TestFrame { Payload = payload }.Tcp(), default, default));
        Assert.True(nic.Port.PollReceive(out ReceivedFrame? frame));
        Assert.True(frame.Payload[0].IsDevice);
        Assert.True(a.Memory.AsSpan().IndexOf(payload) >= 0, "the payload is not in the accelerator's memory");
        nic.Port.Recycle(frame);
        nic.Unbind(binding);
        Assert.Equal(BindingState.Released, binding.State);
    }

    [Fact]
    public void Without_a_route_to_the_owner_a_revocable_bind_says_why_and_a_static_one_gets_host_memory()
    {
        NicFixture f = new(bridge: new HostBridge(0, 0));
        f.Locked(() => f.Fabric.SetAcs(f.GpuFunction.Upstream!, AcsControl.AnyRedirect));
        GpuBuffer buffer = f.Create(4);
        BindOutcome refused =
            f.TryBind(buffer.Shared, s_revocable with { Provider = f.GpuFunction }, out _);
        Assert.Equal((Errno.EREMOTEIO, 0), (refused.Errno, f.Attachments(buffer)));
        Assert.Contains("ACS redirect", refused.Explanation, StringComparison.Ordinal);
    }

    [Fact]
    public void DEVM_29_A_buffer_that_is_not_whole_pages_is_bound_neither_way()
    {
        NicFixture f = new();
        GpuBuffer? odd = null;
        f.Locked(() => f.Gpu.TryCreate(new GpuBufferInfo("odd", 4097, StorageKind.Movable), out odd));
        f.Gpu.CopyEngine.Drive(int.MaxValue);
        Assert.Equal(Errno.EINVAL, f.BindErrno(odd!, s_revocable));
        Assert.Equal(Errno.EINVAL, f.BindTransmit(odd!).Errno);
    }

    [Fact]
    public void DEVM_19_An_unbind_with_tokens_outstanding_keeps_the_memory_and_the_queue_goes_on_in_host_memory()
    {
        NicFixture f = new();
        f.SteerTo(2);
        GpuBuffer buffer = f.Create(4);
        MemoryBinding binding = f.Bind(buffer, new BindRequest { Queues = [2] });
        f.Receive(TestFrame.Bytes(100));
        f.Receive(TestFrame.Bytes(100, seed: 2));
        DevmemFragment first = Assert.Single(f.Read());

        f.Nic.Unbind(binding);
        f.Receive(TestFrame.Bytes(100, seed: 3));
        Assert.Equal(0, f.Port.Queues[2].Stats.FallbackBytes);
        Assert.Equal(100, f.Port.Queues[2].Stats.HostBytes);
        Assert.Equal((BindingState.Unbound, 1), (binding.State, f.Attachments(buffer)));

        RevokeOperation revoke = f.Free(buffer);
        Assert.NotEqual(RevokeState.Retired, revoke.State);
        Assert.Equal(TestFrame.Bytes(100), f.BytesOf(buffer, first)[..100]);
        f.Connection().DontNeed([new TokenRange(first.Token, 1)], out int freed);
        Assert.Equal((1, BindingState.Released), (freed, binding.State));
        Assert.Equal(RevokeState.Retired, revoke.State);
    }

    [Fact]
    public void DEVM_20_differs_no_process_dies_its_binding_and_its_reader_are_closed()
    {
        NicFixture f = new();
        f.SteerTo(2);
        GpuBuffer buffer = f.Create(4);
        MemoryBinding binding = f.Bind(buffer, new BindRequest { Queues = [2] });
        f.Receive(TestFrame.Bytes(1400));
        f.Read();
        f.Receive(TestFrame.Bytes(100));

        f.Nic.Unbind(binding); // the binder's process is gone
        Assert.Equal(BindingState.Unbound, binding.State);
        f.Connection().Close(); // and with it the socket
        Assert.Equal((BindingState.Released, 0), (binding.State, f.Attachments(buffer)));
    }

    [Fact]
    public void DEVM_22_A_device_that_goes_away_releases_everything_once()
    {
        NicFixture f = new();
        f.SteerTo(2);
        GpuBuffer held = f.Create(4), idle = f.Create(4);
        MemoryBinding binding = f.Bind(held, 2), other = f.Bind(idle, 3);
        f.Receive(TestFrame.Bytes(100));
        f.Read();

        f.Nic.Remove();
        Assert.Equal((BindingState.Unbound, BindingState.Released), (binding.State, other.State));
        Assert.Equal(Errno.ENODEV, f.BindErrno(idle, s_revocable));
        f.Connection().Close();
        f.Nic.Unbind(binding);
        Assert.Equal((BindingState.Released, 0), (binding.State, f.Attachments(held)));
    }

    [Fact]
    public void Two_owners_have_two_bindings_and_each_gets_the_payload_of_its_own_connections()
    {
        NicFixture f = new();
        GpuBuffer first = f.Create(4, "a"), second = f.Create(4, "b");
        f.Bind(first, 2);
        f.Bind(second, 3);
        f.SteerTo(2, port: 1001);
        f.SteerTo(3, port: 1002);

        f.Receive(new TestFrame { ToPort = 1001, FromPort = 1, Payload = TestFrame.Bytes(700, 5) });
        f.Receive(new TestFrame { ToPort = 1002, FromPort = 2, Payload = TestFrame.Bytes(900, 6) });
        f.Receive(new TestFrame { ToPort = 1003, FromPort = 3, Payload = TestFrame.Bytes(300, 7) });
        Assert.Equal(TestFrame.Bytes(700, 5), f.BytesOf(first, f.Read(1)));
        Assert.Equal(TestFrame.Bytes(900, 6), f.BytesOf(second, f.Read(2)));
        Assert.Empty(f.Read(3));
        Assert.All(f.BytesOf(first)[700..], b => Assert.Equal(0, b));
        Assert.All(f.BytesOf(second)[900..], b => Assert.Equal(0, b));
    }

    [Fact]
    public void A_revoke_stops_the_NIC_at_once_with_a_full_proof_and_resets_who_had_unread_payload()
    {
        NicFixture f = new();
        f.SteerTo(2);
        GpuBuffer buffer = f.Create(4);
        MemoryBinding binding = f.Bind(buffer, s_revocable);
        f.Receive(TestFrame.Bytes(100), from: 1);
        f.Receive(TestFrame.Bytes(200), from: 2);
        uint token = Assert.Single(f.Read(1)).Token;

        RevokeOperation revoke = f.Free(buffer);
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof!.Grade));
        Assert.True(f.Port.HasDoorbell);
        f.Port.Deliver(f, 1, f.Host.Now);
        Assert.Equal([binding], f.Revoked);
        Assert.Equal(1, binding.ConnectionsReset);
        Assert.Equal(0, f.Connection(2).UnreadBytes);
        Assert.Equal(Errno.ENODEV, f.Connection(1).DontNeed([new TokenRange(token, 1)], out _));

        f.Receive(TestFrame.Bytes(300), from: 3); // goes to host memory, and is counted
        Assert.Equal(300, binding.BytesAfterRevoke);
        Assert.Equal(DevmemFragmentKind.Linear, Assert.Single(f.Read(3)).Kind);
        Assert.Equal(BindingState.Revoked, binding.State);
        f.Nic.Unbind(binding);
        Assert.Equal((BindingState.Released, 0), (binding.State, f.Attachments(buffer)));
    }

    [Fact]
    public void The_owner_of_memory_that_is_bound_statically_waits_and_the_quarantine_says_for_whom()
    {
        NicFixture f = new();
        f.SteerTo(2);
        GpuBuffer buffer = f.Create(4);
        MemoryBinding binding = f.Bind(buffer, new BindRequest { Queues = [2] });

        RevokeOperation revoke = f.Free(buffer);
        Assert.NotEqual(RevokeState.Retired, revoke.State);
        f.Receive(TestFrame.Bytes(100)); // nobody can make it stop
        Assert.Equal(100, binding.BytesPlaced);
        f.Nic.Unbind(binding);
        Assert.NotEqual(RevokeState.Retired, revoke.State);
        f.Connection().Close();
        Assert.Equal(RevokeState.Retired, revoke.State);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Memory_does_not_go_back_under_a_token_unless_nobody_waits_for_tokens(bool keeps)
    {
        NicDefences defences = NicDefences.All with { KeepsMemoryForTokens = keeps };
        NicFixture f = new(new NicOptions { Defences = defences });
        f.SteerTo(2);
        GpuBuffer buffer = f.Create(4);
        MemoryBinding binding = f.Bind(buffer, new BindRequest { Queues = [2] });
        f.Receive(TestFrame.Bytes(100));
        f.Read();

        f.Nic.Unbind(binding);
        RevokeOperation revoke = f.Free(buffer);
        Assert.Equal(keeps, revoke.State != RevokeState.Retired);
    }

    private sealed class PassAll : IFrameProgram
    {
        public FrameVerdict Handle(ReadOnlySpan<byte> frame, int queue) => FrameVerdict.Pass;
    }

    private sealed class Reader : IFrameReader
    {
        public void Handle(ReadOnlySpan<byte> frame, TimeSpan now)
        {
        }
    }
}
