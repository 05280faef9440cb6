using Wayleave.Host.Broker;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>A connection ends whose uses cannot all be ended: each ends on its own.</summary>
public sealed class EndTests : BrokerTest
{
    private const int Size = 256 << 10;

    // What cannot be ended, and what stays on the account for it.
    public static TheoryData<string, BrokerAccountName[]> Failing => new()
    {
        { nameof(BrokerTimeline), [BrokerAccountName.Queues] },
        { nameof(BrokerRing), [BrokerAccountName.Queues] },
        { nameof(BrokerQueuePair), [BrokerAccountName.QueuePairs] },
        { nameof(BrokerRegion), [BrokerAccountName.Keys, BrokerAccountName.Bytes] },
        { nameof(BrokerContext), [BrokerAccountName.Queues, BrokerAccountName.Jobs, BrokerAccountName.Bytes] },
        { nameof(BrokerQueue), [BrokerAccountName.Queues] },
        { nameof(BrokerMapping), [] }, // its process is dead, which ends it too
        { nameof(BrokerBuffer), [BrokerAccountName.Buffers, BrokerAccountName.Bytes] },
    };

    [Theory]
    [MemberData(nameof(Failing))]
    public async Task What_cannot_be_ended_is_told_and_keeps_nothing_else(string kind, BrokerAccountName[] kept)
    {
        ForeignProgram program = await StartAsync();
        int buffer = await program.OkAsync($"allocate 1 {Size} 0");
        await program.OkAsync($"export {buffer}");
        await program.OkAsync($"map {buffer} {Size}");
        await program.OkAsync("timeline");
        int queue = await program.OkAsync("queue 1");
        await program.OkAsync($"bind 1 {buffer}");
        await program.OkAsync($"spin {queue}");
        int nic = await program.OkAsync("open rdma0");
        await program.OkAsync($"register {nic} {buffer} {Size}");
        await program.OkAsync($"pair {nic}");
        await program.OkAsync("ring 1 8");
        int thrown = 0;
        Server.Store.Ending = what =>
        {
            if (what.GetType().Name == kind && Interlocked.Exchange(ref thrown, 1) == 0)
            {
                throw new InvalidOperationException("injected");
            }
        };
        program.Kill();
        await UntilAsync("its connection is gone", () => AccountOf(program.Id, BrokerAccount.Connections) == 0);
        Assert.Equal(1, Server.Store.EndsFailed);
        foreach (BrokerAccount account in Enum.GetValues<BrokerAccount>())
        {
            if (!kept.Contains((BrokerAccountName)account))
            {
                await UntilAsync($"{account}", () => AccountOf(program.Id, account) == 0);
            }
        }

        await (await StartAsync()).OkAsync($"allocate 1 {Size} 0");
    }

    /// <summary><see cref="BrokerAccount"/>, for a test that is public.</summary>
    public enum BrokerAccountName
    {
        Bytes = BrokerAccount.Bytes,
        Buffers = BrokerAccount.Buffers,
        Keys = BrokerAccount.Keys,
        QueuePairs = BrokerAccount.QueuePairs,
        Queues = BrokerAccount.Queues,
        Jobs = BrokerAccount.Jobs,
    }
}
