using System.Globalization;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>
/// Eight programs that do what a seed says, and are killed when it says: at the end nothing is on any account.
/// </summary>
public sealed class RandomDeathTests : BrokerTest
{
    private const int Programs = 8;
    private const int Steps = 1200;
    private const int ChildrenMax = 2;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    public async Task Whoever_dies_whenever_nothing_is_left_and_the_host_goes_on(int seed)
    {
        ulong before = UsedBytes();
        Random random = new(seed);
        Peer[] peers = new Peer[Programs];
        List<ForeignProgram> ever = [];
        for (int i = 0; i < Programs; i++)
        {
            peers[i] = await NewAsync();
        }

        for (int step = 0; step < Steps; step++)
        {
            int at = random.Next(Programs);
            if (random.Next(25) == 0)
            {
                peers[at].Program.Kill();
                peers[at] = await NewAsync();
            }
            else
            {
                await StepAsync(random, peers[at], peers[random.Next(Programs)]);
            }
        }

        ever.ForEach(p => p.KillAll());

        await UntilAsync("the ledger is empty", () => UsedBytes() == before && Server.Store.Programs.Count == 0);
        using (Host.Context.Enter())
        {
            Assert.Empty(Server.Store.Buffers.AllLocked);
            Assert.Equal(0UL, Host.Gpus[0].Device.Quarantine.Bytes);
        }

        Assert.Empty(Host.GetViolations());
        ForeignProgram after = await StartAsync();
        int all = await after.OkAsync($"allocate 1 {(32 << 20) - (int)before} 0");
        await after.OkAsync($"map {all} 4096");
        Assert.Equal(0, await after.OkAsync("peek 0"));

        async Task<Peer> NewAsync()
        {
            ever.Add(await StartAsync());
            return new Peer(ever[^1]);
        }
    }

    private async Task StepAsync(Random random, Peer peer, Peer other)
    {
        ForeignProgram program = peer.Program;
        switch (random.Next(10))
        {
            case 0 or 1:
                Keep(peer.Buffers, await program.AskAsync(
                    $"allocate 1 {4096 * random.Next(1, 200)} {random.Next(4) / 3}"));
                break;
            case 2 when peer.Buffers.Count > 0:
                await program.AskAsync($"map {Pick(random, peer.Buffers)} 4096");
                break;
            case 3 when peer.Buffers.Count > 0:
                await program.AskAsync($"unmap {Pick(random, peer.Buffers)} {(random.Next(4) == 0 ? "lie" : "")}");
                break;
            case 4 when peer.Buffers.Count > 0:
                int closed = Pick(random, peer.Buffers);
                peer.Buffers.Remove(closed);
                await program.OkAsync($"close {closed}");
                break;
            case 5 when peer.Buffers.Count > 0:
                Keep(peer.Descriptors, await program.AskAsync($"export {Pick(random, peer.Buffers)}"));
                break;
            case 6 when peer.Descriptors.Count > 0:
                Keep(peer.Buffers, await program.AskAsync($"import {Pick(random, peer.Descriptors)}"));
                break;
            case 7 when peer.Descriptors.Count > 0:
                int dropped = Pick(random, peer.Descriptors);
                peer.Descriptors.Remove(dropped);
                await program.OkAsync($"drop {dropped}");
                break;
            case 8 when peer.Descriptors.Count > 0 && !ReferenceEquals(peer, other):
                string meeting = Path.Combine(Root, Path.GetRandomFileName());
                await program.OkAsync($"offer {Pick(random, peer.Descriptors)} {meeting}");
                Keep(other.Descriptors, await other.Program.AskAsync($"take {meeting}"));
                break;
            case 9 when program.Children.Count < ChildrenMax:
                await program.ForkAsync(); // it has everything, and the host knows nothing of it
                break;
            case 9 when random.Next(4) == 0:
                program.KillChild(program.Children[0]);
                break;
        }
    }

    // What was refused, for want of room or because it was freed, is not there.
    private static void Keep(List<int> numbers, string answer)
    {
        if (answer.StartsWith("ok ", StringComparison.Ordinal))
        {
            numbers.Add(int.Parse(answer.Split(' ')[1], CultureInfo.InvariantCulture));
        }
    }

    private static int Pick(Random random, List<int> numbers) => numbers[random.Next(numbers.Count)];

    private sealed record Peer(ForeignProgram Program)
    {
        public List<int> Buffers { get; } = [];

        public List<int> Descriptors { get; } = [];
    }
}
