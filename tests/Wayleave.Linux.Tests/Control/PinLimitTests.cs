using Wayleave.Core;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>What one client of a host may pin of its own memory, whoever pins it for the client.</summary>
public sealed class PinLimitTests : IDisposable
{
    private const int Bytes = 64 << 10;

    private readonly ControlTestFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task A_client_pins_as_much_as_it_may_and_others_have_an_account_of_their_own()
    {
        await using ServedHost served = await StartAsync("127.0.48.2", Bytes, GpuUserMemory.WaitForFences);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        await using HeldContext other = await served.Client.OpenGpuAsync("gpu0", "other", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(2 * Bytes, Cancellation);
        RegionDocument half = await PinAsync(context, memory, Bytes);
        WayleaveException refused = await Assert.ThrowsAsync<WayleaveException>(() => PinAsync(context, memory, 4096));
        Assert.Equal(Errno.ENOMEM, refused.Errno);
        Assert.Contains(
            "the client has 64KiB pinned of the 64KiB that one may", refused.Message, StringComparison.Ordinal);
        await PinAsync(other, await other.AllocateAsync(Bytes, Cancellation), Bytes);

        // On demand nothing is pinned, and what is given back may be pinned again.
        await context.RegisterAsync(
            new RegisterRegionDocument { Handle = memory.Handle, Kind = ContextRegionKind.OnDemand }, Cancellation);
        await context.DeregisterAsync(half.Id, Cancellation);
        await PinAsync(context, memory, Bytes);
    }

    [Fact]
    public async Task A_client_that_may_pin_nothing_is_told_EPERM()
    {
        await using ServedHost served = await StartAsync("127.0.48.3", 0, GpuUserMemory.WaitForFences);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        WayleaveException refused = await Assert.ThrowsAsync<WayleaveException>(() => PinAsync(context, memory, 4096));
        Assert.Equal(Errno.EPERM, refused.Errno);
    }

    [Fact]
    public async Task A_GPU_that_pins_what_it_uses_does_so_on_the_same_account()
    {
        await using ServedHost served = await StartAsync("127.0.48.4", Bytes, GpuUserMemory.Pinned);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        ulong queue = (await context.CreateQueueAsync(new CreateQueueDocument { Name = "q" }, Cancellation)).Id;
        Assert.Null((await FillAsync(context, queue, memory)).Error);
        BufferHandleDocument more = await context.AllocateAsync(Bytes, Cancellation);
        foreach (Func<Task> use in (Func<Task>[])
            [() => PinAsync(context, more, 4096), () => FillAsync(context, queue, more)])
        {
            WayleaveException refused = await Assert.ThrowsAsync<WayleaveException>(use);
            Assert.Equal(Errno.ENOMEM, refused.Errno);
            Assert.Contains("pinned of the 64KiB that one may", refused.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void A_limit_below_nothing_is_no_configuration()
    {
        ConfigProblem problem = Assert.Single(Configured(-1, GpuUserMemory.WaitForFences).Validate());
        Assert.Equal("gpus[0].compute.pinned_bytes_per_client_max", problem.Where);
        Assert.Equal("-1 is less than nothing", problem.Message);
    }

    private static Task<RegionDocument> PinAsync(HeldContext context, BufferHandleDocument memory, ulong bytes) =>
        context.RegisterAsync(
            new RegisterRegionDocument
            {
                Handle = memory.Handle,
                Kind = ContextRegionKind.Pinned,
                LengthBytes = bytes,
            },
            Cancellation);

    private static async Task<JobDocument> FillAsync(HeldContext context, ulong queue, BufferHandleDocument memory)
    {
        byte[] command = new byte[GpuCommand.SizeBytes];
        new GpuCommand { Opcode = GpuOpcode.Fill, Target = memory.Address, Count = Bytes }.Write(command);
        JobDocument job = await context.SubmitAsync(
            new SubmitJobDocument { Queue = queue, Commands = command }, Cancellation);
        return await context.WaitAsync(job.Id, Cancellation);
    }

    private static HostConfig Configured(long max, GpuUserMemory mode) => ControlTestFolder.Config with
    {
        Gpus =
        [
            new GpuConfig
            {
                VramBytes = 2 << 20,
                SystemPoolBytes = 0,
                Compute = new ComputeConfig { UserMemory = mode, PinnedBytesPerClientMax = max },
            },
        ],
    };

    private Task<ServedHost> StartAsync(string address, long max, GpuUserMemory mode) => ServedHost.StartAsync(
        _folder, address, TimeProvider.System, devices: Configured(max, mode));
}
