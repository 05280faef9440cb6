using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// A running host whose device memory does not hold what its clients work on, and clients that die in the middle: it
/// becomes slower, nothing hangs, no byte is wrong, and in the end nothing is left.
/// </summary>
public sealed class PressureTests : EndToEndTest
{
    private const int ObjectBytes = 4 << 20;
    private const int Jobs = 40;
    private const int Copies = 6;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Transfers_and_jobs_go_on_while_their_memory_is_taken_from_each_other_and_no_byte_is_wrong()
    {
        HostProcess host = await StartAsync(vram: "24MiB", pool: "96MiB", mtu: 4096);
        string source = MakeFile("source", ObjectBytes);
        await RunWellAsync("cp", source, host.UrlOf("read"));
        foreach (string name in (string[])["sum", "one"])
        {
            await MakeAsync(host.Client, "gpu0", name, ObjectBytes);
        }

        using CancellationTokenSource enough = CancellationTokenSource.CreateLinkedTokenSource(Cancellation);
        Task<int> pressure = PressAsync(host, enough.Token);
        Task[] work = [WriteAsync(host, source), ReadAsync(host, source), ComputeAsync(host)];
        await Task.WhenAll(work);
        await enough.CancelAsync();
        Assert.True(await pressure > 0, "nothing was ever taken from anybody");

        GpuDocument gpu = await host.ReadGpuAsync();
        Assert.True(gpu.Evictions > 4, $"only {gpu.Evictions} evictions");
        Assert.Null((await host.Client.GetHostAsync(Cancellation)).Violations);
        await ExpectNothingLeftAsync(host);
    }

    [Fact]
    public async Task Clients_that_die_with_exports_mappings_rings_and_queue_pairs_alive_leave_nothing()
    {
        HostProcess host = await StartAsync(vram: "160MiB", pool: "64MiB", mtu: 256);
        string source = MakeFile("source", 48 << 20);
        await RunWellAsync("cp", source, "gpu0/read");
        byte[] ring = new byte[GpuCommand.SizeBytes];
        new GpuCommand { Opcode = GpuOpcode.Spin, Count = ulong.MaxValue }.Write(ring);
        await File.WriteAllBytesAsync(InFolder("ring"), ring, Cancellation);
        await RunWellAsync("cp", InFolder("ring"), "gpu0/ring");

        CliProcess[] clients =
        [
            // An object of its own, a lease, a queue pair; then a queue pair and memory mapped for it.
            await StopAtWorkAsync(host, leases: 1, "cp", source, host.UrlOf("written")),
            await StopAtWorkAsync(host, leases: 2, "cp", host.UrlOf("read"), InFolder("pulled")),
            Start("gpu", "run", "gpu0", "ring", "ring", "read"), // a ring, GPU mappings
            Start("gpu", "run", "gpu0", "fill", "read", "--hang"), // a job with a fence in every buffer
            Start("gpu", "run", "gpu0", "fill", "ring", "--after", "never", "--submit-timeout", "1h"),
        ];
        await UntilAsync("all five are at work", async () =>
        {
            ComputeDocument compute = await host.Client.GetComputeAsync(Cancellation);
            StatsDocument stats = await host.Client.GetStatsAsync(Cancellation);
            return stats.Leases == 2 && stats.Devices["rdma0"]["bytes_placed"] > 0
                && compute.Gpus[0].Contexts.Count(c => c.Queues.Count > 0) == 3 && compute.Points.Count == 1;
        });
        Array.ForEach(clients, c => c.Signal(CliProcess.SigKill));
        await Task.WhenAll(clients.Select(c => c.WaitAsync()));

        await UntilAsync("the host has noticed", async () =>
        {
            ComputeDocument compute = await host.Client.GetComputeAsync(Cancellation);
            StatsDocument stats = await host.Client.GetStatsAsync(Cancellation);
            return stats.Leases == 0 && compute.Points.Count == 0 && compute.Gpus.All(g => g.Contexts.Count == 0)
                && (await host.ListAsync()).Count == 2;
        });
        await ExpectNothingLeftAsync(host);
    }

    // Stopped where it is, so that it dies in mid-transfer however long the others take to begin. One that was done
    // before anybody looked begins anew.
    private async Task<CliProcess> StopAtWorkAsync(HostProcess host, int leases, params string[] arguments)
    {
        CliProcess? client = null;
        await UntilAsync($"client {leases} is at work", async () =>
        {
            if (client is null || client.HasExited)
            {
                client = Start(arguments);
            }

            if (!await IsAtWorkAsync(host, leases) || !client.TrySignal(CliProcess.SigStop))
            {
                return false;
            }

            if (await IsAtWorkAsync(host, leases))
            {
                return true;
            }

            client.Signal(CliProcess.SigKill); // stopped after its last byte, or in the place of one before it
            await client.WaitAsync();
            return false;
        });
        return client!;
    }

    private static async Task<bool> IsAtWorkAsync(HostProcess host, int leases)
    {
        StatsDocument stats = await host.Client.GetStatsAsync(Cancellation);
        return stats.Leases == leases && stats.Devices["rdma0"]["bytes_placed"] > 0;
    }

    private async Task<HostProcess> StartAsync(string vram, string pool, int mtu)
    {
        string file = InFolder("small.json");
        await File.WriteAllTextAsync(
            file,
            $$"""
            {
              "gpus": [
                { "name": "gpu0", "system_pool_bytes": "{{pool}}" },
                { "name": "gpu1", "vram_bytes": "16MiB", "system_pool_bytes": "16MiB" }
              ],
              "nics": [ { "path_mtu_bytes": {{mtu}} } ]
            }
            """,
            Cancellation);
        return await StartHostAsync("p", vram, "--config", file);
    }

    private async Task WriteAsync(HostProcess host, string source)
    {
        for (int i = 0; i < Copies; i++)
        {
            await RunWellAsync("cp", source, host.UrlOf("written"));
            Assert.Equal(
                Sha256(source), (await host.Client.GetSha256Async("gpu0", "written", Cancellation)).Sha256);
        }
    }

    private async Task ReadAsync(HostProcess host, string source)
    {
        for (int i = 0; i < Copies; i++)
        {
            string back = InFolder($"back{i}");
            await RunWellAsync("cp", host.UrlOf("read"), back);
            Assert.Equal(Sha256(source), Sha256(back));
        }
    }

    // sum := one; then sum += one by turns on two GPUs, each job behind the one before by name.
    private static async Task ComputeAsync(HostProcess host)
    {
        HeldContext[] contexts =
        [
            await host.Client.OpenGpuAsync("gpu0", "a", Cancellation),
            await host.Client.OpenGpuAsync("gpu1", "b", Cancellation),
        ];
        List<(ulong Queue, ulong Sum, ulong One)> at = [];
        foreach (HeldContext context in contexts)
        {
            BufferHandleDocument sum = await context.OpenBufferAsync("gpu0", "sum", write: true, Cancellation);
            BufferHandleDocument one = await context.OpenBufferAsync("gpu0", "one", write: true, Cancellation);
            QueueDocument queue = await context.CreateQueueAsync(
                new CreateQueueDocument { Name = "add" }, Cancellation);
            at.Add((queue.Id, sum.Address, one.Address));
        }

        GpuCommand fill = new() { Opcode = GpuOpcode.Fill, Value = 1, Target = at[0].One, Count = ObjectBytes };
        await RunAsync(contexts[0], at[0].Queue, fill, [], "step-0");
        for (int i = 1; i <= Jobs; i++)
        {
            (ulong queue, ulong sum, ulong one) = at[i % 2];
            GpuCommand add = new()
            {
                Opcode = GpuOpcode.Add,
                Target = sum,
                A = sum,
                B = one,
                Count = ObjectBytes / 4,
            };
            await RunAsync(contexts[i % 2], queue, add, [$"step-{i - 1}"], $"step-{i}");
        }

        foreach (HeldContext context in contexts)
        {
            await context.DisposeAsync();
        }
    }

    private static async Task RunAsync(
        HeldContext context, ulong queue, GpuCommand command, string[] after, string signal)
    {
        byte[] bytes = new byte[GpuCommand.SizeBytes];
        command.Write(bytes);
        SubmitJobDocument submit = new() { Queue = queue, Commands = bytes, After = after, Signal = signal };
        JobDocument job = await context.SubmitAsync(submit, Cancellation);
        job = await context.WaitAsync(job.Id, Cancellation);
        Assert.Equal((ContextJobState.Done, null), (job.State, job.Error));
    }

    // What others work on goes to system memory and back, and new objects push the least recently used ones out.
    private static async Task<int> PressAsync(HostProcess host, CancellationToken enough)
    {
        int moves = 0;
        for (int i = 0; !enough.IsCancellationRequested; i++)
        {
            string name = ((string[])["sum", "read", "one"])[i % 3];
            try
            {
                await host.Client.EvictAsync("gpu0", name, Cancellation);
                await MakeAsync(host.Client, "gpu0", "ballast", 3 * ObjectBytes);
                moves += (await host.Client.GetObjectAsync("gpu0", name, Cancellation)).Moves;
                await host.Client.RestoreAsync("gpu0", name, Cancellation);
            }
            catch (WayleaveException e) when (e.Errno is Errno.ENOSPC or Errno.EBUSY or Errno.EAGAIN)
            {
                await Task.Yield(); // others have it all just now, and may
            }
        }

        return moves;
    }

    private static async Task MakeAsync(ControlClient client, string device, string name, ulong sizeBytes)
    {
        ObjectDocument made = await client.CreateObjectAsync(
            new CreateObjectDocument { Device = device, Name = name, SizeBytes = sizeBytes }, Cancellation);
        await client.CommitObjectAsync(made.Id, null, Cancellation);
    }

    private async Task ExpectNothingLeftAsync(HostProcess host)
    {
        if ((await host.ListAsync()).Any(o => o.Name == "sum"))
        {
            await RunWellAsync("cp", host.UrlOf("sum"), InFolder("sum"));
            byte[] sum = await File.ReadAllBytesAsync(InFolder("sum"), Cancellation);
            Assert.Equal(-1, MemoryMarshal.Cast<byte, uint>(sum).IndexOfAnyExcept((uint)Jobs));
        }

        foreach (ObjectDocument o in await host.ListAsync())
        {
            Assert.StartsWith(
                $"{host.UrlOf(o.Name)}: Retired in", await RunWellAsync("revoke", host.UrlOf(o.Name)),
                StringComparison.Ordinal);
        }

        StatsDocument stats = await host.Client.GetStatsAsync(Cancellation);
        ComputeDocument compute = await host.Client.GetComputeAsync(Cancellation);
        Assert.Equal((0, 0), (stats.Objects, stats.Leases));
        Assert.All(compute.Gpus, g => Assert.Empty(g.Contexts));
        Assert.All((await host.Client.GetDevicesAsync(Cancellation)).Gpus, g => Assert.Equal(
            (0UL, 0UL, 0UL, 0, null),
            (g.VramUsedBytes, g.VramQuarantinedBytes, g.SystemUsedBytes, g.Buffers, g.Failure)));
    }
}
