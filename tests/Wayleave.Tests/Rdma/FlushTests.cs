using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>FLUSH, both sides.</summary>
public class FlushTests
{
    private const uint First = Conversation.First;

    private const AccessFlags Rights =
        AccessFlags.RemoteWrite | AccessFlags.FlushGlobal | AccessFlags.FlushPersistent;

    private static Conversation Start(
        AccessFlags pair = Rights,
        AccessFlags region = Rights,
        Func<RdmaDeviceOptions, RdmaDeviceOptions>? options = null) => new(
        a => a with { AccessFlags = pair },
        options: options ?? (o => o with { Persist = _ => Errno.Success }),
        access: AccessFlags.LocalWrite | region,
        registration: RegistrationKind.OwnMemory);

    private static RawPacket Flush(
        Conversation c, uint psn, FlushPlacement placement, int selectivity = 0, ulong offset = 0, uint length = 64) =>
        new(Opcode.RcFlush, psn)
        {
            AckRequest = true,
            Feth = Feth.Of((int)placement, selectivity),
            Reth = new Reth(c.Region.Iova + offset, c.Region.Key, length),
        };

    [Theory]
    [InlineData(FlushPlacement.Global, 0)]
    [InlineData(FlushPlacement.Persistent, 0)]
    [InlineData(FlushPlacement.Global | FlushPlacement.Persistent, 0)]
    [InlineData(FlushPlacement.Global, 1)]
    [InlineData(FlushPlacement.Persistent, 1)]
    public void ROCE_21_A_FLUSH_is_answered_like_a_READ_of_nothing(FlushPlacement placement, int selectivity)
    {
        Conversation c = Start();
        c.SendWrite(First, 0, [1, 2, 3, 4]);
        c.Send(Flush(c, First + 1, placement, selectivity));
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        byte[] answer = c.Expect("RC_READ_RESP_ONLY a00001 1f msn=2");
        Assert.Equal(Bth.Size + Aeth.Size + PacketView.IcrcSize, answer.Length);
        c.Send(Flush(c, First + 1, placement, selectivity));
        c.Expect("RC_READ_RESP_ONLY a00001 1f msn=2");
    }

    [Theory]
    [InlineData(0, 64)]
    [InlineData(1, Conversation.MemoryBytes)]
    public void ROCE_21_What_is_made_persistent_is_the_range_or_the_whole_region(int selectivity, int bytes)
    {
        int persisted = 0;
        Conversation c = Start(options: o => o with
        {
            Persist = block =>
            {
                persisted += block.Length;
                return Errno.Success;
            },
        });
        c.Send(Flush(c, First, FlushPlacement.Persistent, selectivity));
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        Assert.Equal(bytes, persisted);
    }

    [Fact]
    public void A_FLUSH_that_the_memory_cannot_do_is_a_remote_operation_error()
    {
        Conversation c = Start(options: o => o with { Persist = _ => Errno.EIO });
        c.Send(Flush(c, First, FlushPlacement.Persistent));
        c.Expect("RC_ACKNOWLEDGE a00000 63 msn=0");
        c.ExpectState(QueuePairState.Error);
    }

    [Theory]
    [InlineData(FlushPlacement.Global)]
    [InlineData(FlushPlacement.Persistent)]
    public void ROCE_21_A_FLUSH_without_the_right_of_the_queue_pair_is_an_invalid_request(FlushPlacement placement)
    {
        AccessFlags other = placement == FlushPlacement.Global
            ? AccessFlags.FlushPersistent
            : AccessFlags.FlushGlobal;
        Conversation c = Start(pair: AccessFlags.RemoteWrite | other);
        c.Send(Flush(c, First, placement));
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
        c.ExpectState(QueuePairState.Error);
    }

    [Theory]
    [InlineData(FlushPlacement.None, 0)]
    [InlineData((FlushPlacement)4, 0)]
    [InlineData(FlushPlacement.Global, 2)]
    [InlineData(FlushPlacement.Global, 3)]
    public void A_FLUSH_with_a_reserved_value_is_an_invalid_request(FlushPlacement placement, int selectivity)
    {
        Conversation c = Start();
        c.Send(Flush(c, First, placement, selectivity));
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
    }

    [Theory]
    [InlineData("right")]
    [InlineData("range")]
    [InlineData("key")]
    public void A_FLUSH_of_what_is_not_granted_is_an_access_error(string what)
    {
        Conversation c = Start(region: what == "right" ? AccessFlags.RemoteWrite : Rights);
        RawPacket flush = Flush(
            c, First, FlushPlacement.Global, offset: what == "range" ? (ulong)Conversation.MemoryBytes : 0);
        c.Send(what == "key" ? flush with { Reth = flush.Reth with { RKey = 0x7700 } } : flush);
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void Persistence_that_the_device_does_not_have_cannot_be_granted()
    {
        TestNode node = new("10.77.0.1", 1);
        MemoryRegionRequest request = new(
            0,
            4096,
            0,
            AccessFlags.LocalWrite | AccessFlags.FlushPersistent,
            Core.Buffers.ImporterKind.Dynamic,
            Registration: RegistrationKind.OwnMemory);
        Assert.Equal(Errno.EOPNOTSUPP, node.TryRegister(node.Allocate(4096), request, out _));
    }

    [Theory]
    [InlineData(IcrcMode.Full, 0)]
    [InlineData(IcrcMode.SolveIdentification, 0xBEEF)]
    public void ROCE_21_A_FLUSH_of_rxe_is_taken_with_the_checksum_of_rxe_only(IcrcMode mode, ushort identification)
    {
        Conversation c = new(
            a => a with
            {
                AccessFlags = Rights,
                Profile = PeerProfile.Rxe,
                AddressVector = a.AddressVector with { Icrc = mode },
            },
            access: AccessFlags.LocalWrite | AccessFlags.FlushGlobal,
            registration: RegistrationKind.OwnMemory);
        IcrcFlow flow = new(c.PeerGid, c.Node.Gid, 4791, 4791);
        byte[] packet = (Flush(c, First, FlushPlacement.Global) with { DestQp = c.Pair.QpNumber })
            .Build(flow, identification);
        c.SendBytes(packet);
        c.ExpectNothing();
        Assert.Equal(1, c.Node.Port.Stats.Drops(DropReason.BadIcrc));
        Icrc.SealFlushForRxe(flow, identification, packet);
        c.SendBytes(packet);
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
    }

    [Fact]
    public void A_requester_flushes_for_rxe_with_the_checksum_of_rxe()
    {
        Conversation c = new(a => a with { Profile = PeerProfile.Rxe });
        Assert.Equal(Errno.Success, c.Pair.PostSend(
            new SendWorkRequest { Opcode = WorkRequestOpcode.Flush, FlushPlacement = FlushPlacement.Global }, []));
        byte[] sent = c.Expect("RC_FLUSH b00000 A");
        Assert.True(Icrc.VerifyFlushFromRxe(new IcrcFlow(c.Node.Gid, c.PeerGid, 4791, 4791), 0, sent));
    }

    [Fact]
    public void A_requester_flushes_what_it_wrote_in_one_PSN()
    {
        Conversation c = Start();
        Assert.Equal(Errno.Success, c.Pair.PostSend(
            new SendWorkRequest
            {
                WrId = 9,
                Opcode = WorkRequestOpcode.Flush,
                Flags = SendFlags.Signaled,
                RemoteAddress = 0x2000_0000,
                RKey = 0x1234,
                FlushBytes = 1 << 20,
                FlushPlacement = FlushPlacement.Global,
                FlushSelectivity = FlushSelectivity.MemoryRegion,
            },
            []));
        c.Post(10, WorkRequestOpcode.RdmaWrite, 0, 4);
        byte[] sent = c.Expect("RC_FLUSH b00000 A");
        Assert.Equal(DropReason.None, PacketView.TryParse(sent, out PacketView view));
        Assert.Equal(new Feth(0x11), view.Feth);
        Assert.Equal(new Reth(0x2000_0000, 0x1234, 1 << 20), view.Reth);
        c.Expect("RC_WRITE_ONLY b00001 A");
        c.Send(new RawPacket(Opcode.RcReadResponseOnly, Conversation.OwnFirst));
        Assert.Equal(WorkCompletionOpcode.Flush, c.ExpectCompletion(9, WorkCompletionStatus.Success).Opcode);
    }
}
