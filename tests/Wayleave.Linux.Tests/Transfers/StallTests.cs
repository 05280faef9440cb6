using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Transfers;

/// <summary>A peer that answers, but never takes a byte.</summary>
public sealed class StallTests
{
    private static readonly TimeSpan s_limit = TimeSpan.FromMilliseconds(200);

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Theory(Timeout = Patience.TestMs)]
    [InlineData(BulkDirection.Write)]
    [InlineData(BulkDirection.Read)]
    public async Task A_peer_that_answers_RNR_for_ever_ends_the_transfer_with_its_name_and_region(
        BulkDirection direction)
    {
        await using TransferPair pair = await TransferPair.StartAsync("127.0.71.1", "127.0.71.2");
        using IDisposable held = pair.HoldLent();
        BulkTransfer transfer = pair.NewTransfer(s_limit);
        TransferStalledException e = Assert.Throws<TransferStalledException>(
            () => transfer.Run(direction, pair.Range, Cancellation));
        Assert.Equal(Errno.ETIMEDOUT, e.Errno);
        string region = $"its region under key 0x{pair.Lease.Region.Key:x8} moved for 0.2 s; its memory is not ready";
        Assert.Equal(
            $"transfer with 127.0.71.1: no byte of {region}; "
            + "let its owner restore the object, or wait longer: --stall-timeout",
            e.Message);
        Assert.Equal(QueuePairState.Error, pair.Connection.QueuePair.State);
        Assert.Equal(0, pair.Connection.Completions.Poll(new WorkCompletion[1]));
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task Without_a_limit_the_transfer_waits_until_the_memory_is_back()
    {
        await using TransferPair pair = await TransferPair.StartAsync("127.0.71.3", "127.0.71.4");
        IDisposable held = pair.HoldLent();
        BulkTransfer transfer = pair.NewTransfer(Timeout.InfiniteTimeSpan);
        Task<WorkCompletionStatus> running =
            Task.Run(() => transfer.Run(BulkDirection.Write, pair.Range, Cancellation), Cancellation);

        // More probes than any retry counter holds.
        long before = pair.User.Nics[0].Device.Port.Stats.RnrNaksReceived;
        while (pair.User.Nics[0].Device.Port.Stats.RnrNaksReceived - before < 20)
        {
            Assert.False(running.IsCompleted);
            await Task.Yield();
        }

        held.Dispose();
        Assert.Equal(WorkCompletionStatus.Success, await running);
    }

    [Fact]
    public void A_watch_counts_only_time_in_which_something_is_in_flight_and_nothing_is_answered()
    {
        StallWatch watch = new(TimeSpan.FromSeconds(3));
        Assert.False(watch.Observe(7, 1, At(0)));
        Assert.False(watch.Observe(7, 1, At(2)));
        Assert.False(watch.Observe(8, 1, At(3))); // an answer
        Assert.False(watch.Observe(8, 1, At(5)));
        Assert.False(watch.Observe(8, 0, At(9))); // the caller holds the next request back
        Assert.False(watch.Observe(8, 1, At(10)));
        Assert.False(watch.Observe(8, 2, At(12)));
        Assert.True(watch.Observe(8, 2, At(13)));

        StallWatch endless = new(Timeout.InfiniteTimeSpan);
        Assert.False(endless.Observe(7, 1, At(0)));
        Assert.False(endless.Observe(7, 1, TimeSpan.MaxValue));
    }

    private static TimeSpan At(int seconds) => TimeSpan.FromSeconds(seconds);
}
