using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// <see cref="RdmaDevice.ReregisterLocked"/>: the key of a region over a shared buffer names another range, another
/// domain or other rights from one packet to the next.
/// </summary>
public class BufferReregistrationTests
{
    private const int Size = 8192;
    private const AccessFlags Writable = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead;

    private readonly TestLink _link = new();
    private readonly TestMemory _before;
    private readonly TestMemory _after;
    private readonly MemoryRegion _source;
    private readonly MemoryRegion _old;
    private readonly QueuePair _pair;

    public BufferReregistrationTests()
    {
        (_before, _after) = (_link.B.Allocate(Size), _link.B.Allocate(Size));
        TestMemory source = _link.A.Allocate(Size);
        source.FillPattern(0, Size, 0x31);
        _source = _link.A.Register(source);
        _old = _link.B.Register(_before, Writable | AccessFlags.WindowBind, registration: RegistrationKind.OwnMemory);
        (_pair, _) = _link.Connect();
    }

    [Fact]
    public void The_key_leads_to_the_other_memory_at_once_and_stays_when_the_old_region_ends()
    {
        Assert.Equal(Errno.Success, Reregister(_after, out MemoryRegion? next));
        Assert.Same(next, _link.B.Device.FindRegion(_old.Key));
        Assert.Equal((_old.Key, MemoryRegionState.Valid), (next!.Key, next.State));
        Assert.Single(_link.B.Device.Regions);
        Assert.Equal(WorkCompletionStatus.Success, Write(128));
        Assert.Equal(TestMemory.Pattern(128, 0x31), _after.Read(0, 128));
        Assert.Equal(-1, _before.Read(0, Size).AsSpan().IndexOfAnyExcept((byte)0));
        Assert.Null(_link.B.Deregister(_old));
        Assert.Empty(_before.Buffer.Attachments);
        Assert.Same(next, _link.B.Device.FindRegion(_old.Key));
        Assert.Equal(WorkCompletionStatus.Success, Write(64));
        Assert.Null(_link.B.Deregister(next));
        Assert.Null(_link.B.Device.FindRegion(_old.Key));
    }

    [Fact]
    public void A_queue_pair_that_used_the_old_region_finds_the_other_once_that_has_ended()
    {
        Assert.Equal(WorkCompletionStatus.Success, Write(1024));
        Assert.Equal(Errno.Success, Reregister(_after, out _));
        Assert.Null(_link.B.Deregister(_old));
        _before.Fill(0, new byte[Size]);
        Assert.Equal(WorkCompletionStatus.Success, Write(4096));
        Assert.Equal(TestMemory.Pattern(4096, 0x31), _after.Read(0, 4096));
        Assert.Equal(-1, _before.Read(0, Size).AsSpan().IndexOfAnyExcept((byte)0));
    }

    [Fact]
    public void Rights_that_were_taken_away_are_refused_although_the_queue_pair_used_the_key_before()
    {
        Assert.Equal(WorkCompletionStatus.Success, Write(64));
        Assert.Equal(Errno.Success, Reregister(_after, out _, AccessFlags.LocalWrite | AccessFlags.RemoteRead));
        Assert.Null(_link.B.Deregister(_old));
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, Write(64));
        Assert.Equal(-1, _after.Read(0, Size).AsSpan().IndexOfAnyExcept((byte)0));
    }

    [Fact]
    public void Another_domain_takes_the_key_from_the_queue_pairs_of_the_old_one()
    {
        ProtectionDomain other = _link.B.Device.CreateProtectionDomain();
        Assert.Equal(Errno.Success, Reregister(_after, out MemoryRegion? next, Writable, other));
        Assert.Same(other, next!.Domain);
        Assert.Null(_link.B.Deregister(_old));
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, Write(64));
    }

    [Fact]
    public void A_region_with_a_bound_window_is_busy_and_stays_as_it_is()
    {
        MemoryWindow window = _link.B.AllocateWindow(MemoryWindowType.Type1);
        QueuePair local = _link.Connect().B;
        Assert.Equal(
            Errno.Success,
            local.PostBind(window, new WindowBind(_old.Key, _old.Iova, 64, AccessFlags.RemoteRead), wrId: 1));
        _link.Run();
        Assert.Equal(Errno.EBUSY, Reregister(_after, out MemoryRegion? next));
        Assert.Null(next);
        Assert.Empty(_after.Buffer.Attachments);
        Assert.Equal((0, 0), (_after.Pins, _after.Mapped));
        Assert.Same(_old, _link.B.Device.FindRegion(_old.Key));
        Assert.Equal(WorkCompletionStatus.Success, Write(64));
        _link.B.Device.DeallocateWindow(window);
        Assert.Equal(Errno.Success, Reregister(_after, out _));
    }

    [Theory]
    [InlineData(0ul, AccessFlags.RemoteWrite, Errno.EINVAL)] // nobody here may write
    [InlineData(4096ul, Writable, Errno.EINVAL)] // beyond the end
    [InlineData(0ul, AccessFlags.LocalWrite | AccessFlags.FlushPersistent, Errno.EOPNOTSUPP)]
    public void What_cannot_be_registered_leaves_the_old_region_as_it_was(
        ulong offset, AccessFlags access, Errno expected)
    {
        Assert.Equal(expected, Reregister(_after, out MemoryRegion? next, access, offset: offset));
        Assert.Null(next);
        Assert.Empty(_after.Buffer.Attachments);
        Assert.Same(_old, _link.B.Device.FindRegion(_old.Key));
        Assert.Equal(WorkCompletionStatus.Success, Write(64));
    }

    [Fact]
    public void A_refusal_of_the_exporter_leaves_the_old_region_as_it_was()
    {
        _after.MapResult = Errno.ENOMEM;
        Assert.Equal(Errno.ENOMEM, Reregister(_after, out MemoryRegion? next));
        Assert.Null(next);
        Assert.Empty(_after.Buffer.Attachments);
        Assert.Equal(WorkCompletionStatus.Success, Write(64));
    }

    [Fact]
    public void A_region_that_has_ended_has_no_key_to_give()
    {
        Assert.Null(_link.B.Deregister(_old));
        Assert.Equal(Errno.EINVAL, Reregister(_after, out MemoryRegion? next));
        Assert.Null(next);
        Assert.Empty(_link.B.Device.Regions);
        Assert.Empty(_after.Buffer.Attachments);
    }

    private Errno Reregister(
        TestMemory memory,
        out MemoryRegion? region,
        AccessFlags access = Writable,
        ProtectionDomain? domain = null,
        ulong offset = 0)
    {
        TestNode node = _link.B;
        using (node.Host.Enter())
        {
            AcquireTicket ticket = new(node.Host, "reregister");
            Assert.Equal(LockOutcomeKind.Acquired, memory.Buffer.Reservation.TryLock(ticket).Kind);
            MemoryRegionRequest request = new(
                offset,
                memory.Buffer.SizeBytes,
                _old.Iova,
                access,
                ImporterKind.Dynamic,
                Registration: RegistrationKind.OwnMemory);
            Errno errno = node.Device.ReregisterLocked(
                ticket, _old, domain ?? node.Domain, memory.Buffer, request, out region, out Fence? wait);
            memory.Buffer.Reservation.Unlock(ticket);
            Assert.Null(wait);
            return errno;
        }
    }

    private WorkCompletionStatus Write(uint length)
    {
        SendWorkRequest write = new() { Flags = SendFlags.Signaled, RemoteAddress = _old.Iova, RKey = _old.Key };
        Assert.Equal(Errno.Success, _pair.PostSend(write, new Sge(_source.Iova, length, _source.Key)));
        _link.Run();
        return Assert.Single(TestNode.Poll(_pair.SendCompletionQueue)).Status;
    }
}
