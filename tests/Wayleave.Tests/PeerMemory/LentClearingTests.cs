using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

/// <summary>Memory of a pool that is lent in two phases: taken under the lock, cleared outside.</summary>
public sealed class LentClearingTests
{
    private const ulong Page = PeerPool.PageBytes;
    private const ulong Bytes = 16 * Page; // the first block of the clearing

    private readonly HostContext _host;
    private readonly PciFabric _fabric;
    private readonly PeerPool _pool;
    private readonly byte[] _memory;
    private readonly PciFunction _owner;
    private readonly PeerPoolLender _lender;
    private int _called;

    public LentClearingTests()
    {
        using PeerFixture f = new();
        (_host, _fabric, _pool, _memory, _owner) = (f.Host, f.Fabric, f.Add(Bytes, 0), f.Memory, f.A);
        _memory.AsSpan().Fill(0xEE);
        _lender = new PeerPoolLender(_host, _fabric, _pool)
        {
            Clearing = new LentClearing(_host, _fabric) { WorkAvailable = () => _called++ },
        };
    }

    [Fact]
    public void Nothing_is_cleared_under_the_lock_and_users_wait_until_it_is()
    {
        SharedBuffer buffer = Lend();
        Assert.Equal((1, 0xEE), (_called, _memory[0]));
        Assert.False(IsClear(buffer));

        _lender.Clearing.Drive();

        Assert.True(IsClear(buffer));
        Assert.Equal(-1, _memory.AsSpan().IndexOfAnyExcept((byte)0));
        Assert.Equal(0, Locked(() => _lender.Clearing.UnderWay));
    }

    [Fact]
    public void Without_an_edge_whoever_lends_clears_as_it_lets_go_of_the_lock()
    {
        _lender.Clearing.WorkAvailable = null;
        Assert.True(IsClear(Lend()));
        Assert.Equal(-1, _memory.AsSpan().IndexOfAnyExcept((byte)0));
    }

    [Fact]
    public void What_is_taken_back_before_it_is_clear_is_free_when_nobody_clears_it_any_more()
    {
        SharedBuffer buffer = Lend();
        Assert.True(_lender.Clearing.TryTake(out LentClearing.Work? work)); // a thread is at it
        RevokeOperation operation = Locked(() => _lender.TakeBack(buffer, new RevokePolicy()));
        Assert.Equal(0UL, Locked(() => _pool.AvailableBytes));

        Assert.True(work!.Step(out Errno errno));
        Assert.Equal((Errno.ECANCELED, 0UL), (errno, work.DoneBytes));
        _lender.Clearing.End(work, errno);

        Assert.Equal((RevokeState.Retired, Bytes), (operation.State, Locked(() => _pool.AvailableBytes)));
        Assert.Equal(0xEE, _memory[0]);
        _lender.Clearing.WorkAvailable = null;
        Assert.True(IsClear(Lend())); // whoever gets it next has it cleared
        Assert.Equal(0, _memory[0]);
    }

    [Fact]
    public void A_revoke_whose_time_is_up_keeps_what_a_thread_may_still_be_clearing()
    {
        SharedBuffer buffer = Lend();
        Assert.True(_lender.Clearing.TryTake(out LentClearing.Work? work));
        RevokeOperation operation = Locked(() => _lender.TakeBack(buffer, new RevokePolicy()));
        Locked(() =>
        {
            operation.HandleTimeout(operation.Deadline);
            return 0;
        });
        Assert.Equal((0UL, Bytes), Locked(() => (_pool.AvailableBytes, _lender.Quarantine.Bytes)));
        _lender.Clearing.End(work!, Errno.ECANCELED);
        Assert.Equal((Bytes, 0UL), Locked(() => (_pool.AvailableBytes, _lender.Quarantine.Bytes)));
    }

    [Fact]
    public void What_cannot_be_cleared_nobody_has()
    {
        SharedBuffer buffer = Lend();
        Decode(isEnabled: false);
        _lender.Clearing.Drive();
        Assert.True(IsClear(buffer)); // who waited goes on, and finds it taken back
        Assert.True(Locked(() => buffer.IsRevoked));
        Assert.Equal(Bytes, Locked(() => _pool.AvailableBytes));

        Decode(isEnabled: true);
        Assert.Equal(0xEE, _memory[0]);
        Lend();
        _lender.Clearing.Drive();
        Assert.Equal(0, _memory[0]);
    }

    [Fact]
    public void Memory_that_answers_nothing_is_not_lent()
    {
        Decode(isEnabled: false);
        Assert.Equal(Errno.EFAULT, Locked(() => _lender.TryLend("a", Bytes, out _)));
        Assert.Equal((Bytes, 0), Locked(() => (_pool.AvailableBytes, _lender.Clearing.UnderWay)));
    }

    private void Decode(bool isEnabled) => Locked(() =>
    {
        _fabric.SetMemoryDecoding(_owner, isEnabled);
        return 0;
    });

    private SharedBuffer Lend() => Locked(() =>
    {
        Assert.Equal(Errno.Success, _lender.TryLend("a", Bytes, out SharedBuffer? buffer));
        return buffer!;
    });

    private bool IsClear(SharedBuffer buffer) =>
        Locked(() => buffer.Reservation.TestSignaled(ReservationUsage.Kernel));

    private T Locked<T>(Func<T> action)
    {
        using (_host.Enter())
        {
            return action();
        }
    }
}
