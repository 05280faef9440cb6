using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Perftest;
using Xunit;

namespace Wayleave.Linux.Tests.Perftest;

public sealed class PerftestPatienceTests
{
    private const int LooksMax = 1000;

    private static PerftestOptions Options { get; } = new() { Patience = TimeSpan.FromMilliseconds(20) };

    // Beside programs that take every processor a look that gives way to them lasts for milliseconds.
    [Fact]
    public void Looks_that_last_are_counted_by_their_time()
    {
        WayleaveException thrown = Assert.Throws<WayleaveException>(() => Look(new(() => false, () => 0, Options)));
        Assert.Equal(Errno.ETIMEDOUT, thrown.Errno);
    }

    [Fact]
    public void A_peer_that_gets_on_is_waited_for()
    {
        long progress = 0;
        Look(new(() => false, () => ++progress, Options));
        Assert.True(progress > 1);
    }

    [Fact]
    public void Who_is_busy_asks_nobody()
    {
        PerftestPatience patience = new(() => false, () => throw new InvalidOperationException("asked"), Options);
        Look(patience, isBusy: true);
    }

    [Fact]
    public void Nobody_is_busy_for_ever_with_a_peer_that_has_ended()
    {
        WayleaveException thrown = Assert.Throws<WayleaveException>(
            () => Look(new(() => true, () => 0, Options with { Patience = TimeSpan.FromHours(1) }), isBusy: true));
        Assert.Equal(Errno.ECONNRESET, thrown.Errno);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Who_is_interrupted_ends(bool isBusy) => Assert.Throws<OperationCanceledException>(() =>
    {
        PerftestPatience patience = new(() => false, () => 0, Options with { Patience = TimeSpan.FromHours(1) });
        for (int i = 0; i < 1 << 24; i++)
        {
            patience.Look(isBusy, new CancellationToken(canceled: true));
        }
    });

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_peer_that_takes_no_item_is_given_up()
    {
        PerftestExchange exchange = new(new FullChannel(), Options with { Server = System.Net.IPAddress.Loopback });
        WayleaveException thrown = await Assert.ThrowsAsync<WayleaveException>(
            () => exchange.GreetAsync(PathMtu.Mtu1024, TestContext.Current.CancellationToken));
        Assert.Equal((Errno.ETIMEDOUT, "the peer takes no version for 0 s"), (thrown.Errno, thrown.Reason));
    }

    private static void Look(PerftestPatience patience, bool isBusy = false)
    {
        for (int looks = 0; looks < LooksMax; looks++)
        {
            SpinWait.SpinUntil(() => false, TimeSpan.FromMilliseconds(2)); // the look
            patience.Look(isBusy, CancellationToken.None);
        }
    }

    /// <summary>Its other end reads nothing.</summary>
    private sealed class FullChannel : IPerftestChannel
    {
        public bool IsText => true;

        public Task SendAsync(ReadOnlyMemory<byte> item, CancellationToken cancellation) =>
            Task.Delay(Timeout.Infinite, cancellation);

        public Task<int> ReceiveAsync(Memory<byte> item, CancellationToken cancellation) => Task.FromResult(0);

        public Task WatchAsync(CancellationToken cancellation) => Task.CompletedTask;

        public void Abandon()
        {
        }

        public ValueTask DisposeAsync() => ValueTask.CompletedTask;
    }
}
