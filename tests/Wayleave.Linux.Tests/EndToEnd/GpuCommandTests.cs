using System.Buffers.Binary;
using System.Globalization;
using System.Numerics;
using System.Text.Json;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Control;
using Xunit;
using Device = Wayleave.Devices.Gpu.Compute.GpuCommand;
using Opcode = Wayleave.Devices.Gpu.Compute.GpuOpcode;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>Kernels on named objects, from the command line; gpu0 goes by page table, gpu1 parses.</summary>
public sealed class GpuCommandTests : EndToEndTest
{
    private const string Gpus = """
        {
          "gpus": [
            { "name": "gpu0", "vram_bytes": "32MiB", "compute": { "hang_limit_ms": 2000 } },
            { "name": "gpu1", "vram_bytes": "32MiB", "compute": { "mode": "parsed", "hang_limit_ms": 2000 } }
          ]
        }
        """;

    private const string Keys = "mode, queues_max, queue_slots, quantum_blocks, hang_limit_ms, stop_grace_ms, "
        + "user_memory, user_memory_bytes, user_vram_bytes, private_pages, "
        + "pinned_bytes_per_client_max";

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("gpu0")]
    [InlineData("gpu1")]
    public async Task Every_kernel_does_what_a_processor_does(string gpu)
    {
        await StartAsync();
        byte[] a = MakeWords(64 * 96, 1), b = MakeWords(96 * 32, 2);
        await PutAsync($"{gpu}/a", a);
        await PutAsync($"{gpu}/b", b);

        byte[] filled = new byte[100_000];
        filled.AsSpan().Fill(0x5A);
        Assert.Equal(
            Crc(filled), await RunKernelAsync(gpu, "fill", "f", "--value", "0x5a5a5a5a", "--create", "100000"));
        Assert.Equal(Crc(a), await RunKernelAsync(gpu, "copy", "a", "c", "--create", "24576"));
        Assert.Equal(Crc(a), await RunKernelAsync(gpu, "copy", "a", "+24576")); // memory of its own
        Assert.Equal(Crc(a), await RunKernelAsync(gpu, "checksum", "c"));

        byte[] sums = new byte[b.Length];
        byte[] gathered = new byte[b.Length];
        byte[] indices = new byte[b.Length];
        for (int i = 0; i < b.Length; i += 4)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(sums.AsSpan(i), Word(a, i) + Word(b, i));
            BinaryPrimitives.WriteUInt32LittleEndian(indices.AsSpan(i), (uint)(i * 7 / 4) % (uint)(a.Length / 4));
            BinaryPrimitives.WriteUInt32LittleEndian(gathered.AsSpan(i), Word(a, 4 * (int)Word(indices, i)));
        }

        await PutAsync($"{gpu}/indices", indices);
        Assert.Equal(Crc(sums), await RunKernelAsync(gpu, "add", "a", "b", "sums", "--create", "12288"));
        Assert.Equal(Crc(gathered), await RunKernelAsync(gpu, "gather", "a", "indices", "picked", "--create", "12288"));
        Assert.Equal(
            Crc(Multiply(a, b, 64, 96, 32)),
            await RunKernelAsync(
                gpu, "matmul", "a", "b", "product", "--create", "8192", "--rows", "64", "--inner", "96", "--columns",
                "32"));

        // What the GPU says it has written is what is there.
        string back = InFolder("back");
        Assert.Equal(0, (await RunAsync("cp", $"{gpu}/product", back)).ExitCode);
        Assert.Equal(Multiply(a, b, 64, 96, 32), await File.ReadAllBytesAsync(back, Cancellation));
    }

    [Fact]
    public async Task Work_on_one_GPU_starts_when_that_on_another_has_ended_whoever_comes_first()
    {
        HostProcess host = await StartAsync();
        Assert.Equal(0, (await RunAsync("gpu", "run", "gpu0", "fill", "x", "--create", "1MiB")).ExitCode);
        CliProcess copy = Start(
            "gpu", "run", "gpu1", "copy", "gpu0/x", "y", "--create", "1MiB", "--after", "filled", "--submit-timeout",
            "1m");
        await UntilAsync("the copy is held", async () => (await ListJobsAsync(host, "gpu1"))
            .Any(j => j.State == Wayleave.Host.Compute.ContextJobState.Held && j.Missing is ["filled"]));

        string sum = await RunKernelAsync("gpu0", "fill", "x", "--value", "77", "--signal", "filled");
        CliResult copied = await copy.WaitAsync();
        Assert.Equal((0, ""), (copied.ExitCode, copied.Error));
        Assert.EndsWith($"checksum {sum}\n", copied.Out, StringComparison.Ordinal);
        ComputeDocument compute = await host.Client.GetComputeAsync(Cancellation);
        Assert.Equal(("filled", SyncPointState.Signaled), (compute.Points[0].Name, compute.Points[0].State));
    }

    [Fact]
    public async Task The_list_says_which_engine_a_queue_is_on()
    {
        HostProcess host = await StartAsync();
        await using HeldContext context = await host.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        foreach (GpuEngineKind engine in Enum.GetValues<GpuEngineKind>())
        {
            await context.CreateQueueAsync(
                new CreateQueueDocument { Name = $"of-{engine}", Engine = engine }, Cancellation);
        }

        string[] lines = (await RunWellAsync("gpu", "ls")).Split('\n');
        int column = lines[0].IndexOf("ENGINE", StringComparison.Ordinal);
        string[] found = [.. lines.Where(l => l.Contains(" of-", StringComparison.Ordinal))
            .Select(l => $"{l.Split(' ', StringSplitOptions.RemoveEmptyEntries)[4]} {l[column..].Split(' ')[0]}")];
        Assert.Equal(["of-Compute compute", "of-Copy copy"], found);
        using JsonDocument json = JsonDocument.Parse(await RunWellAsync("gpu", "ls", "--json"));
        JsonElement queues = json.RootElement.GetProperty("gpus")[0].GetProperty("contexts")[0].GetProperty("queues");
        Assert.Equal(
            ["compute", "copy"], queues.EnumerateArray().Select(q => q.GetProperty("engine").GetString()));
    }

    [Fact]
    public async Task A_kernel_that_never_ends_is_stopped_while_other_queues_go_on()
    {
        HostProcess host = await StartAsync();
        await RunKernelAsync("gpu0", "fill", "x", "--create", "1MiB");
        CliProcess hung = Start("gpu", "run", "gpu0", "fill", "x", "--value", "9", "--hang");
        await UntilAsync("the hung job has the engine", async () => (await ListJobsAsync(host, "gpu0"))
            .Any(j => j.State == Wayleave.Host.Compute.ContextJobState.Running));

        // Beside the one that hangs, and after it.
        string other = await RunKernelAsync("gpu0", "fill", "y", "--value", "3", "--create", "1MiB");
        ExpectFailure(
            1,
            "gpu run gpu0 fill: ETIME: it had the engine for longer than 2.00 s: hung, stopped, and its queue is lost",
            await hung.WaitAsync());
        Assert.Equal(other, await RunKernelAsync("gpu0", "checksum", "y"));
        Assert.Contains("gpu0: hung and was stopped: ", await RunWellAsync("gpu", "ls"), StringComparison.Ordinal);

        // It never came to the fill, and what it held is free.
        Assert.Equal(Crc(new byte[1 << 20]), await RunKernelAsync("gpu0", "checksum", "x"));
        Assert.StartsWith("wl://", await RunWellAsync("revoke", host.UrlOf("x")), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_client_that_is_killed_leaves_no_queue_no_buffer_and_no_name_that_is_waited_for()
    {
        HostProcess host = await StartAsync();
        await RunKernelAsync("gpu0", "fill", "x", "--create", "1MiB");
        byte[] ring = new byte[64];
        new Device { Opcode = Opcode.Spin, Count = ulong.MaxValue }.Write(ring);
        await PutAsync("gpu0/ring", ring);
        CliProcess[] clients =
        [
            Start("gpu", "run", "gpu0", "ring", "ring", "x"), // for ever, and nobody would stop it
            Start("gpu", "run", "gpu0", "fill", "x", "--after", "never", "--submit-timeout", "1h", "--signal", "too"),
        ];
        await UntilAsync("both run", async () =>
        {
            ComputeDocument seen = await host.Client.GetComputeAsync(Cancellation);
            return seen.Points.Count == 2
                && seen.Gpus[0].Contexts.Any(c => c.Queues.Any(q => q is { IsRing: true, State: QueueState.Busy }));
        });
        Array.ForEach(clients, c => c.Signal(CliProcess.SigKill));

        await UntilAsync("the host has noticed", async () =>
        {
            ComputeDocument seen = await host.Client.GetComputeAsync(Cancellation);
            return seen.Gpus.All(g => g.Contexts.Count == 0) && seen.Points.Count == 0;
        });
        foreach (string name in (string[])["x", "ring"])
        {
            Assert.StartsWith(
                $"{host.UrlOf(name)}: Retired in", await RunWellAsync("revoke", host.UrlOf(name)),
                StringComparison.Ordinal);
        }

        GpuDocument gpu = await host.ReadGpuAsync();
        Assert.Equal((0UL, 0UL, 0), (gpu.VramUsedBytes, gpu.VramQuarantinedBytes, gpu.Buffers));
    }

    [Fact]
    public async Task A_ring_runs_what_a_client_has_written_and_garbage_in_it_is_contained()
    {
        await StartAsync();
        await RunKernelAsync("gpu0", "fill", "x", "--create", "4096");
        byte[] ring = new byte[4 * 64];
        for (int i = 0; i < 3; i++)
        {
            new Device { Opcode = Opcode.Nop }.Write(ring.AsSpan(64 * i));
        }

        new Device { Opcode = Opcode.Fill, Value = 1, Count = 4096, Target = 0x7000_0000_0000 }.Write(ring.AsSpan(192));
        await PutAsync("gpu0/ring", ring);
        foreach (string engine in (string[])["compute", "copy"])
        {
            Assert.StartsWith(
                "ring gpu0/ring: 3 commands in",
                await RunWellAsync(
                    "gpu", "run", "gpu0", "ring", "ring", "x", "--commands", "3", "--engine", engine),
                StringComparison.Ordinal);
        }

        await ExpectFailureAsync(
            1,
            "gpu run gpu0 ring: EFAULT after 3 commands: it reached memory that is not its own, and its queue is lost",
            "gpu", "run", "gpu0", "ring", "ring", "x", "--commands", "4");
        new Device { Opcode = Opcode.Spin, Count = 1 }.Write(ring);
        await PutAsync("gpu0/ring", ring);
        await ExpectFailureAsync(
            1,
            "gpu run gpu0 ring: EINVAL after 0 commands: it met a command that makes no sense, and its queue is lost",
            "gpu", "run", "gpu0", "ring", "ring", "--commands", "1", "--engine", "copy");
        new Random(3).NextBytes(ring);
        await PutAsync("gpu0/ring", ring);
        await ExpectFailureAsync(
            1,
            "gpu run gpu0 ring: EINVAL after 0 commands: it met a command that makes no sense, and its queue is lost",
            "gpu", "run", "gpu0", "ring", "ring", "--commands", "4");
        CliResult parsed = await RunAsync("gpu", "run", "gpu1", "ring", "gpu0/ring");
        Assert.Equal(3, parsed.ExitCode);
        Assert.Contains("gpu1, which parses them", parsed.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task What_makes_no_sense_is_refused_by_name()
    {
        HostProcess host = await StartAsync();
        await RunKernelAsync("gpu0", "fill", "x", "--create", "4096");
        await RunKernelAsync("gpu1", "fill", "x", "--create", "4096");

        // Out of range: by the page table at the touch, by the parser before anything runs.
        await ExpectFailureAsync(
            1,
            "gpu run gpu0 fill: EFAULT: it reached memory that is not its own, and its queue is lost",
            "gpu", "run", "gpu0", "fill", "x", "--offset", "4092", "--bytes", "8");
        CliResult outside = await RunAsync("gpu", "run", "gpu1", "fill", "x", "--offset", "4092", "--bytes", "8");
        Assert.Equal(1, outside.ExitCode);
        Assert.Contains("command 0: 8 bytes at 4092 are outside context", outside.Error, StringComparison.Ordinal);
        Assert.Equal(Crc(new byte[4096]), await RunKernelAsync("gpu1", "checksum", "x"));

        // A handle that is another client's number, and garbage.
        byte[] forged = new byte[64];
        new Device { Opcode = Opcode.Fill, Count = 64, TargetHandle = 2 }.Write(forged);
        string file = InFolder("commands");
        await File.WriteAllBytesAsync(file, forged, Cancellation);
        CliResult small = await RunAsync("gpu", "run", "gpu0", "fill", "small", "--create", "3");
        Assert.Equal(1, small.ExitCode);
        Assert.Contains("commands go by words of 4 bytes", small.Error, StringComparison.Ordinal);
        CliResult refused = await RunAsync("gpu", "run", "gpu1", "raw", file);
        Assert.Contains("command 0: handle 2 is not one of context", refused.Error, StringComparison.Ordinal);
        await File.WriteAllBytesAsync(file, new byte[65], Cancellation);
        refused = await RunAsync("gpu", "run", "gpu0", "raw", file);
        Assert.Contains("65 bytes are no commands of 64", refused.Error, StringComparison.Ordinal);

        // A fence that never comes.
        CliResult late = await RunAsync(
            "gpu", "run", "gpu0", "fill", "x", "--after", "godot", "--submit-timeout", "50ms");
        Assert.Equal(1, late.ExitCode);
        Assert.Contains("nobody has submitted work that signals 'godot'", late.Error, StringComparison.Ordinal);

        await ExpectFailureAsync(2, "fill takes TARGET", "gpu", "run", "gpu0", "fill", "x", "y");
        await ExpectFailureAsync(1, $"{host.Authority}: open gpu7 for compute: the host has no such GPU; it has gpu0, "
            + "gpu1", "gpu", "run", $"{host.Url}/gpu7", "fill", "x");
        await ExpectFailureAsync(
            1,
            $"{host.Authority}: find gpu0/y: there is no such object; wayleave ls shows what there is",
            "gpu", "run", $"{host.Url}/gpu0", "fill", "y");
    }

    [Fact]
    public async Task What_is_wrong_with_an_engine_is_told_with_everything_else()
    {
        string file = InFolder("bad.json");
        await File.WriteAllTextAsync(
            file,
            """
            {
              "gpus": [
                { "pin_policy": "always", "compute": { "mode": "trusted", "queues_max": 0, "colour": 1 } },
                { "compute": 7 },
                { "compute": { "hang_limit_ms": 0, "stop_grace_ms": 99999999, "queue_slots": 5000 } }
              ]
            }
            """,
            Cancellation);
        CliResult result = await RunAsync("host", "--config", file);
        Assert.Equal((2, ""), (result.ExitCode, result.Out));
        Assert.Equal(
            $$"""
            wayleave: configuration: 8 problems
              gpus[0].pin_policy: 'always' is none of where_all_reach, host_memory
              gpus[0].compute.colour: unknown key; known are {{Keys}}
              gpus[0].compute.mode: 'trusted' is none of parsed, paged
              gpus[1].compute: must be an object: { ... }
              gpus[0].compute.queues_max: 0 is out of range; allowed are 1 to 4096
              gpus[2].compute.queue_slots: 5000 is out of range; allowed are 1 to 4096
              gpus[2].compute.hang_limit_ms: 0 is out of range; allowed are 1 to 3600000
              gpus[2].compute.stop_grace_ms: 99999999 is out of range; allowed are 1 to 3600000

            """,
            result.Error);
    }

    private async Task<HostProcess> StartAsync()
    {
        string file = InFolder("gpus.json");
        await File.WriteAllTextAsync(file, Gpus, Cancellation);
        return await StartHostAsync("g", "32MiB", "--config", file);
    }

    private async Task PutAsync(string target, byte[] bytes)
    {
        string file = InFolder(Guid.NewGuid().ToString("N"));
        await File.WriteAllBytesAsync(file, bytes, Cancellation);
        Assert.Equal(0, (await RunAsync("cp", file, target)).ExitCode);
    }

    private async Task<string> RunKernelAsync(string gpu, string kernel, params string[] rest)
    {
        using JsonDocument run = JsonDocument.Parse(
            await RunWellAsync(["gpu", "run", gpu, kernel, .. rest, "--json"]));
        Assert.Equal("done", run.RootElement.GetProperty("state").GetString());
        return run.RootElement.GetProperty("checksum").GetString()!;
    }

    private static async Task<IReadOnlyList<JobDocument>> ListJobsAsync(HostProcess host, string gpu) =>
        [.. (await host.Client.GetComputeAsync(Cancellation)).Gpus.Single(g => g.Name == gpu)
            .Contexts.SelectMany(c => c.Jobs)];

    // Small integers, so that a float product of any order is exact.
    private static byte[] MakeWords(int count, int seed)
    {
        Random random = new(seed);
        byte[] bytes = new byte[4 * count];
        for (int i = 0; i < count; i++)
        {
            BinaryPrimitives.WriteSingleLittleEndian(bytes.AsSpan(4 * i), random.Next(-8, 9));
        }

        return bytes;
    }

    private static uint Word(byte[] bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at));

    private static byte[] Multiply(byte[] a, byte[] b, int rows, int inner, int columns)
    {
        byte[] product = new byte[4 * rows * columns];
        for (int at = 0; at < rows * columns; at++)
        {
            float sum = 0;
            for (int k = 0; k < inner; k++)
            {
                sum += BinaryPrimitives.ReadSingleLittleEndian(a.AsSpan(4 * ((at / columns * inner) + k)))
                    * BinaryPrimitives.ReadSingleLittleEndian(b.AsSpan(4 * ((k * columns) + (at % columns))));
            }

            BinaryPrimitives.WriteSingleLittleEndian(product.AsSpan(4 * at), sum);
        }

        return product;
    }

    private static string Crc(byte[] bytes)
    {
        uint crc = uint.MaxValue;
        for (int i = 0; i < bytes.Length; i += 4)
        {
            crc = BitOperations.Crc32C(crc, Word(bytes, i));
        }

        return string.Create(CultureInfo.InvariantCulture, $"0x{~crc:x8}");
    }
}
