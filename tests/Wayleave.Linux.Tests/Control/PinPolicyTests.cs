using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>Where a GPU of a running host lets a buffer be that a NIC pins: today's policy, and that of 2021.</summary>
public sealed class PinPolicyTests : IDisposable
{
    private const int Bytes = ContextPeer.Bytes;

    private readonly ControlTestFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(GpuPinPolicy.WhereAllReach, ObjectPlace.Vram, "127.0.54.2")]
    [InlineData(GpuPinPolicy.HostMemory, ObjectPlace.System, "127.0.54.3")]
    public async Task EXP_16_EXP_17_A_pinned_object_is_where_the_host_was_told_and_a_peer_writes_there(
        GpuPinPolicy policy, ObjectPlace place, string address)
    {
        await using ServedHost served = await ServedHost.StartAsync(
            _folder,
            address,
            TimeProvider.System,
            devices: ControlTestFolder.Config with
            {
                Gpus = [new GpuConfig { VramBytes = 16 << 20, SystemPoolBytes = 16 << 20, PinPolicy = policy }],
            });
        Assert.Equal(policy, (await served.Client.GetComputeAsync(Cancellation)).Gpus[0].PinPolicy);
        ObjectDocument made = await served.Client.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = "x", SizeBytes = Bytes }, Cancellation);
        await served.Client.CommitObjectAsync(made.Id, null, Cancellation);
        Assert.Equal(ObjectPlace.Vram, await PlaceAsync(served));
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument handle = await context.OpenBufferAsync("gpu0", "x", write: true, Cancellation);
        RegionDocument region = await context.RegisterAsync(
            new RegisterRegionDocument { Handle = handle.Handle, Kind = ContextRegionKind.PinnedRevocable },
            Cancellation);
        Assert.Equal(place, await PlaceAsync(served));

        await using ContextPeer peer = await ContextPeer.OpenAsync(address, context);
        await peer.FillAsync(0x42);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
        await served.Host.Objects.ForEachPieceAsync(
            served.Host.Objects.Find("gpu0", "x")!,
            (_, bytes) => Assert.Equal(-1, bytes.IndexOfAnyExcept((byte)0x42)),
            Cancellation);
        ProofDocument proof = await served.Client.RevokeAsync("gpu0", "x", new RevokeObjectDocument(), Cancellation);
        Assert.Equal(RetirementGrade.Retired, proof.Grade);
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, peer.Transfer(BulkDirection.Write, region));
    }

    [Fact]
    public void Pins_that_would_have_nowhere_to_go_are_no_configuration()
    {
        GpuConfig gpu = new() { SystemPoolBytes = 0, PinPolicy = GpuPinPolicy.HostMemory };
        ConfigProblem problem = Assert.Single((ControlTestFolder.Config with { Gpus = [gpu] }).Validate());
        Assert.Equal("gpus[0].pin_policy", problem.Where);
    }

    private static async Task<ObjectPlace> PlaceAsync(ServedHost served) =>
        (await served.Client.GetObjectAsync("gpu0", "x", Cancellation)).Placement;
}
