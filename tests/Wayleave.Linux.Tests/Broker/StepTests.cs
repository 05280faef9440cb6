using System.Globalization;
using Wayleave.Client.Wire;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>A program that is killed after each step of all that it can do, or in the middle of the next.</summary>
public sealed class StepTests : BrokerTest
{
    private const int Size = 256 << 10;
    private const int Steps = 27;

    public static TheoryData<int> AllSteps => [.. Enumerable.Range(1, Steps)];

    [Theory]
    [MemberData(nameof(AllSteps))]
    public async Task However_far_a_program_came_when_it_was_killed_nothing_is_left_and_others_go_on(int steps)
    {
        ForeignProgram other = await StartAsync();
        int theirs = await other.OkAsync($"allocate 1 {Size} 0");
        string descriptor = (await other.OkAsync($"export {theirs}")).ToString(CultureInfo.InvariantCulture);
        ForeignProgram program = Start();
        Assert.Equal(steps, await RunAsync(program, steps, other, descriptor));
        program.Kill();
        await ExpectGoneAsync(program);
        await other.OkAsync($"map {theirs} {Size}");
        await ExpectSettledAsync(other);
    }

    public static TheoryData<int> Requests =>
    [
        (int)BrokerOperation.Export, (int)BrokerOperation.Map, (int)BrokerOperation.Describe,
        (int)BrokerOperation.Revoke, (int)BrokerOperation.CreateQueuePair, (int)BrokerOperation.OpenRing,
        (int)BrokerOperation.AttachToRing, (int)BrokerOperation.Close,
    ];

    [Theory]
    [MemberData(nameof(Requests))]
    public async Task Who_is_killed_between_a_question_and_its_answer_leaves_nothing(int operation)
    {
        for (int round = 0; round < 10; round++)
        {
            ForeignProgram program = await StartAsync();
            int buffer = await program.OkAsync($"allocate 1 {Size} 0");
            int nic = await program.OkAsync("open rdma0");
            int ring = await program.OkAsync("ring 1 8");
            string numbers = (BrokerOperation)operation switch
            {
                BrokerOperation.Revoke => $"{buffer} 1000",
                BrokerOperation.CreateQueuePair => $"{nic}",
                BrokerOperation.OpenRing => "1 16",
                BrokerOperation.AttachToRing => $"{ring} {buffer}",
                _ => $"{buffer}",
            };
            for (int n = 0; n < round; n++)
            {
                await program.OkAsync($"shoot {operation} {numbers}");
            }

            await ExpectSettledAsync(program);
        }
    }

    // Until that many steps are done; how many were.
    private async Task<int> RunAsync(ForeignProgram program, int steps, ForeignProgram other, string descriptor)
    {
        int done = 0;
        int buffer = 0, handle = 0, taken = 0, file = 0, queue = 0, timeline = 0, nic = 0, ring = 0;
        string address = "", key = "";
        Func<Task>[] all =
        [
            async () => await program.OkAsync($"connect {Server.SocketPath}"),
            async () => await program.OkAsync("open gpu0"),
            async () => buffer = await program.OkAsync($"allocate 1 {Size} 0"),
            async () => await program.OkAsync($"export {buffer}"),
            async () => await program.OkAsync($"map {buffer} {Size}"),
            async () => handle = await PassAsync(other, int.Parse(descriptor, CultureInfo.InvariantCulture), program),
            async () => taken = await program.OkAsync($"import {handle}"),
            async () => file = await program.OkAsync($"map {taken} {Size} keep"),
            async () => await program.OkAsync($"importpaged {handle} {file} {Size}"),
            async () => await program.OkAsync($"copy 1 {buffer} {taken} 4096"),
            async () => queue = await program.OkAsync("queue 1"),
            async () => address = (await program.AskAsync($"bind 1 {buffer}")).Split(' ')[2],
            async () => await program.OkAsync($"fill {queue} {address} 4096 7"),
            async () => await program.OkAsync($"spin {queue}"),
            async () => timeline = await program.OkAsync("timeline"),
            async () => await program.OkAsync($"fence {timeline} 2"),
            async () => nic = await program.OkAsync("open rdma0"),
            async () => key = (await program.AskAsync($"register {nic} {buffer} {Size}")).Split(' ')[2],
            async () => await program.OkAsync($"pair {nic}"),
            async () => await program.OkAsync($"pair {nic}"),
            async () => await program.OkAsync("join"),
            async () => await program.OkAsync($"write 0 0 {key} {key} {Size}"),
            async () => ring = await program.OkAsync("ring 1 8"),
            async () => await program.OkAsync($"attach {ring} {buffer}"),
            async () => await program.OkAsync($"push 2 0 0 {Size / 2}"),
            async () => await program.OkAsync($"attachqueue {ring} {queue}"),
            async () => await program.OkAsync($"work 0 {address} 4096"),
        ];
        foreach (Func<Task> step in all.Take(steps))
        {
            await step();
            done++;
        }

        return done;
    }

    private async Task ExpectGoneAsync(ForeignProgram program) => await UntilAsync(
        "it has nothing",
        () =>
        {
            using (Host.Context.Enter())
            {
                return Server.Store.Programs.AllLocked.All(p => p.ProcessId != program.Id);
            }
        });
}
