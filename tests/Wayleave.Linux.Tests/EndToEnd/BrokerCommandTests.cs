using System.Text.Json;
using Wayleave.Client;
using Wayleave.Linux.Tests.Broker;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// Programs that share a host's buffers, as the command line shows them, and a GPU that is pulled out.
/// </summary>
public sealed class BrokerCommandTests : EndToEndTest
{
    private const int Size = 1 << 20;

    private string Socket => Path.Combine(Root, "wayleave", "b.broker.sock");

    [Fact]
    public async Task Buffers_are_listed_with_the_processes_that_hold_them()
    {
        await StartHostAsync();
        using ForeignProgram program = ForeignProgram.Start();
        await program.OkAsync($"connect {Socket}");
        await program.OkAsync("open gpu0");
        int buffer = await program.OkAsync($"allocate 1 {Size} 0");
        await program.OkAsync($"map {buffer} {Size}");
        await program.OkAsync($"export {buffer}");

        string list = await RunWellAsync("buffers");
        Assert.Contains($"  allocated by process {program.Id}\n", list, StringComparison.Ordinal);
        Assert.Contains($"  open in process {program.Id}\n", list, StringComparison.Ordinal);
        Assert.Contains($"  descriptor in process {program.Id}\n", list, StringComparison.Ordinal);
        Assert.Contains($"  mapped by process {program.Id}\n", list, StringComparison.Ordinal);
        using JsonDocument json = JsonDocument.Parse(await RunWellAsync("buffers", "--json"));
        JsonElement found = Assert.Single(json.RootElement.GetProperty("buffers").EnumerateArray());
        Assert.Equal(program.Id, found.GetProperty("holders").GetProperty("owner").GetInt32());
        Assert.StartsWith("BUFFER  NAME  FENCE\n", await RunWellAsync("fences"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_GPU_whose_memory_a_process_maps_does_not_leave_in_order_until_the_process_has()
    {
        HostProcess host = await StartHostAsync();
        using ForeignProgram program = await MapAsync();
        await ExpectFailureAsync(
            1,
            $"{host.Authority}: unplug gpu0: not yet let go: c: UserCannotStop (process {program.Id}); "
                + "unplug it again when they have, or pull it out all the same: --surprise",
            "unplug", "gpu0", host.Url, "--timeout", "200ms");
        Assert.Equal((ulong)Size, (await host.ReadGpuAsync()).VramQuarantinedBytes);

        program.Kill();
        await UntilAsync("the memory is back", async () => (await host.ReadGpuAsync()).VramQuarantinedBytes == 0);
        Assert.StartsWith(
            "gpu0: pulled out in ", await RunWellAsync("unplug", "gpu0", host.Url), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_GPU_that_is_pulled_out_by_surprise_leaves_the_memory_to_who_maps_it_and_says_who()
    {
        HostProcess host = await StartHostAsync();
        using ForeignProgram program = await MapAsync();
        await program.OkAsync("poke 100 42");
        CliResult gone = await RunAsync("unplug", "gpu0", host.Url, "--surprise", "--timeout", "200ms");
        Assert.Equal(1, gone.ExitCode);
        Assert.Equal(
            $"wayleave: unplug gpu0: not let go yet, kept in quarantine: c: UserCannotStop (process {program.Id})\n",
            gone.Error);
        Assert.Equal(42, await program.OkAsync("peek 100")); // it is nobody else's
        Assert.StartsWith("error 19 ", await program.AskAsync($"map 2 {Size}"), StringComparison.Ordinal);
        using JsonDocument json = JsonDocument.Parse(await RunWellAsync("buffers", "--json"));
        Assert.True(Assert.Single(json.RootElement.GetProperty("buffers").EnumerateArray())
            .GetProperty("revoked").GetBoolean());
        program.Kill();
        await UntilAsync("the quarantine is empty", async () =>
            (await host.Client.GetBuffersAsync(TestContext.Current.CancellationToken)).Buffers.Count == 0);
    }

    [Fact]
    public async Task What_a_program_writes_into_fresh_memory_is_not_cleared_away_behind_it()
    {
        await StartHostAsync();
        using BrokerClient client = BrokerClient.Connect(Socket, "test");
        using ClientBuffer buffer = client.OpenDevice("gpu0").Allocate("large", 48 << 20);
        using ClientMapping mapping = buffer.Map();
        mapping.Memory.Span[^1] = 42;

        // The engine clears in the order of the requests: this is behind whatever it still had to do for the first.
        await RunWellAsync("cp", MakeFile("small", 4096), "gpu0/behind");
        Assert.Equal(42, mapping.Memory.Span[^1]);
    }

    [Fact]
    public async Task A_client_of_a_host_that_was_killed_is_told_so_and_opens_the_next_one()
    {
        HostProcess host = await StartHostAsync();
        using BrokerClient client = BrokerClient.Connect(Socket, "test");
        using ClientBuffer buffer = client.OpenDevice("gpu0").Allocate("kept", Size);
        using ClientMapping mapping = buffer.Map();
        mapping.Memory.Span[9] = 9;
        host.Process.Signal(CliProcess.SigKill);
        await host.Process.WaitAsync();
        Assert.Equal(
            Core.Errno.ECONNRESET, Assert.Throws<BrokerException>(buffer.Describe).Errno);
        Assert.Equal(9, mapping.Memory.Span[9]);

        await StartHostAsync(); // a socket that a killed host left is in nobody's way
        using BrokerClient next = BrokerClient.Connect(Socket, "test");
        using ClientBuffer fresh = next.OpenDevice("gpu0").Allocate("fresh", Size);
        using ClientMapping zeros = fresh.Map();
        Assert.Equal(0, zeros.Memory.Span[9]);
    }

    [Fact]
    public async Task A_host_that_is_asked_to_stop_ends_in_order_with_programs_in_the_middle_of_everything()
    {
        CliProcess.SkipWhenIgnored(CliProcess.SigTerm);
        HostProcess host = await StartHostAsync();
        using ForeignProgram program = await MapAsync();
        int queue = await program.OkAsync("queue 1");
        int endless = await program.OkAsync($"spin {queue}");
        int ring = await program.OkAsync("ring 1 8");
        await program.OkAsync($"attach {ring} 2");
        int nic = await program.OkAsync("open rdma0");
        string key = (await program.AskAsync($"register {nic} 2 {Size}")).Split(' ')[2];
        await program.OkAsync($"pair {nic}");
        await program.OkAsync($"pair {nic}");
        await program.OkAsync("join");
        for (int n = 0; n < 4; n++)
        {
            await program.OkAsync($"write 0 0 {key} {key} {Size / 2}");
            await program.OkAsync($"push 2 0 0 {Size / 2}");
        }

        Task<int> waiting = program.OkAsync($"wait {endless} -1");
        host.Process.Signal(CliProcess.SigTerm);
        Assert.Equal(0, (await host.Process.WaitAsync()).ExitCode);
        Assert.Equal(1, await waiting);
        Assert.Contains(
            (Core.Errno)await program.OkAsync($"status {endless}"),
            new[] { Core.Errno.ECANCELED, Core.Errno.ECONNRESET });
        Assert.EndsWith(" gone", await program.AskAsync("open gpu0"), StringComparison.Ordinal);
        Assert.False(File.Exists(Socket));
        await program.OkAsync("poke 9 9"); // what it maps stays its own
        Assert.Equal(9, await program.OkAsync("peek 9"));

        await StartHostAsync();
        await program.OkAsync($"connect {Socket}");
        await program.OkAsync("open gpu0");
    }

    [Fact]
    public async Task Who_waits_for_a_host_that_is_killed_is_told_by_every_fence_in_every_process()
    {
        HostProcess host = await StartHostAsync();
        using ForeignProgram program = await ConnectAsync();
        int fence = await program.OkAsync($"fence {await program.OkAsync("timeline")} 1");
        using BrokerClient client = BrokerClient.Connect(Socket, "test");
        using ClientTimeline timeline = client.OpenTimeline("mine");
        using ClientFence own = timeline.MakeFence(1), done = timeline.MakeFence(0);
        Task<int> waiting = program.OkAsync($"wait {fence} -1");
        host.Process.Signal(CliProcess.SigKill);
        await host.Process.WaitAsync();
        Assert.Equal(1, await waiting);
        Assert.Equal((int)Core.Errno.ECONNRESET, await program.OkAsync($"status {fence}"));
        Assert.True(own.Wait(Timeout.InfiniteTimeSpan));
        Assert.True(own.TryGetResult(out Core.Errno error, out _));
        Assert.Equal(Core.Errno.ECONNRESET, error);
        Assert.True(done.TryGetResult(out error, out _));
        Assert.Equal(Core.Errno.Success, error); // it had signalled before

        // The next host knows nothing of it.
        await StartHostAsync();
        using BrokerClient next = BrokerClient.Connect(Socket, "test");
        Assert.Equal(Core.Errno.EBADF, Assert.Throws<BrokerException>(() => next.Describe(own)).Errno);
    }

    [Fact]
    public async Task Fences_and_top_show_programs_and_what_they_have()
    {
        HostProcess host = await StartHostAsync();
        using ForeignProgram program = await MapAsync();
        int nic = await program.OkAsync("open rdma0");
        await program.OkAsync($"register {nic} 2 {Size}");
        await program.OkAsync("queue 1");
        await program.OkAsync($"fence {await program.OkAsync("timeline")} 1");
        string fences = await RunWellAsync("fences");
        Assert.Contains($" (pending), given to process {program.Id}\n", fences, StringComparison.Ordinal);
        Assert.Contains($"  descriptor in process {program.Id}\n", fences, StringComparison.Ordinal);
        string top = await RunWellAsync("top", "-n", "1");
        Assert.Matches($@"\nprogram\.c +{program.Id} +\d+ +1\.00 MiB +0 B +1 +1 +1 +1 +0 +live\n", top);
        Assert.Matches($@"\nprocess {program.Id} +mapping +\d+ +gpu0/c +1\.00 MiB ", top);
        Assert.Matches($@"\nprocess {program.Id} +key +\d+ +gpu0/c +1\.00 MiB +- +dynamic ", top);
        Assert.Matches($@"\nprocess-{program.Id} +compute +\d+ +gpu0 ", top);
        using JsonDocument json = JsonDocument.Parse(await RunWellAsync("top", "-n", "1", "--json"));
        JsonElement one = Assert.Single(json.RootElement.GetProperty("programs").EnumerateArray());
        Assert.Equal(1, one.GetProperty("accounts").GetProperty("keys").GetInt32());
        Assert.False(one.GetProperty("accounts").TryGetProperty("queue_pairs", out _));

        // A NIC leaves with what programs have of it; they may still give their numbers back.
        Assert.StartsWith(
            "rdma0: pulled out in ", await RunWellAsync("unplug", "rdma0", host.Url), StringComparison.Ordinal);
        await program.OkAsync("close 4");
        await program.RefusedAsync(Core.Errno.ENODEV, $"register {nic} 2 {Size}");
    }

    private async Task<ForeignProgram> ConnectAsync()
    {
        ForeignProgram program = ForeignProgram.Start();
        await program.OkAsync($"connect {Socket}");
        await program.OkAsync("open gpu0");
        return program;
    }

    private async Task<ForeignProgram> MapAsync()
    {
        ForeignProgram program = await ConnectAsync();
        int buffer = await program.OkAsync($"allocate 1 {Size} 0");
        await program.OkAsync($"map {buffer} {Size}");
        return program;
    }
}
