using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>
/// Regions of clients of a running host that change under their key, and that a cache keeps, as peers find them.
/// </summary>
public sealed class ReregistrationTests : IDisposable
{
    private const int Bytes = ContextPeer.Bytes;
    private const WorkCompletionStatus Well = WorkCompletionStatus.Success;
    private const WorkCompletionStatus Refused = WorkCompletionStatus.RemoteAccessError;

    private readonly ControlTestFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task A_region_gets_other_memory_other_rights_and_another_domain_under_the_same_key()
    {
        await using ServedHost served = await StartAsync("127.0.52.2");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument one = await context.AllocateAsync(Bytes, Cancellation);
        BufferHandleDocument two = await context.AllocateAsync(Bytes, Cancellation);
        RegionDocument region = await RegisterAsync(context, one.Handle);
        await using ContextPeer peer = await ContextPeer.OpenAsync("127.0.52.2", context);
        Assert.Equal(Well, peer.Transfer(BulkDirection.Write, region));

        RegionDocument moved = await context.ReregisterAsync(
            region.Id, new ReregisterRegionDocument { Flags = 1, Handle = two.Handle }, Cancellation);
        Assert.Equal((region.Rkey, two.Va!.Value, (ulong)Bytes), (moved.Rkey, moved.Va, moved.LengthBytes));
        Assert.Equal(Refused, peer.Transfer(BulkDirection.Write, region)); // at the old address
        Assert.Equal(Well, peer.Transfer(BulkDirection.Write, moved));
        await context.CloseBufferAsync(one.Handle, Cancellation); // which the region has let go of
        Assert.Equal((ulong)Bytes, CountPinnedBytes(served));

        await context.ReregisterAsync(
            region.Id, new ReregisterRegionDocument { Flags = 4, Access = LeaseAccess.Read }, Cancellation);
        Assert.Equal(Refused, peer.Transfer(BulkDirection.Write, moved));
        Assert.Equal(Well, peer.Transfer(BulkDirection.Read, moved));

        await context.ReregisterAsync(
            region.Id, new ReregisterRegionDocument { Flags = 2 | 4, Domain = 3 }, Cancellation);
        Assert.Equal(Refused, peer.Transfer(BulkDirection.Read, moved));
        Assert.Equal(Well, peer.Transfer(BulkDirection.Write, moved, domain: 3));
        await context.DeregisterAsync(region.Id, Cancellation);
        Assert.Null(served.Host.Nics[0].Device.FindRegion(region.Rkey));
        Assert.Equal(0UL, CountPinnedBytes(served));
        Assert.Empty(served.Host.GetViolations());
    }

    [Theory]
    [InlineData(ContextRegionKind.Dynamic, "127.0.52.3")]
    [InlineData(ContextRegionKind.PinnedRevocable, "127.0.52.4")]
    [InlineData(ContextRegionKind.LegacyPeer, "127.0.52.5")]
    public async Task RDMA_23_A_key_whose_object_was_taken_back_lives_again_over_memory_of_the_client(
        ContextRegionKind kind, string address)
    {
        await using ServedHost served = await StartAsync(address);
        ObjectDocument made = await served.Client.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = "x", SizeBytes = Bytes }, Cancellation);
        await served.Client.CommitObjectAsync(made.Id, null, Cancellation);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument handle = await context.OpenBufferAsync("gpu0", "x", write: true, Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        RegionDocument region = await RegisterAsync(context, handle.Handle, kind);
        await served.Client.RevokeAsync("gpu0", "x", new RevokeObjectDocument(), Cancellation);
        Assert.Equal(
            MemoryRegionState.Dead, (await context.GetRegionAsync(region.Id, Cancellation)).State);

        await ExpectAsync(Errno.EINVAL, context.ReregisterAsync(
            region.Id, new ReregisterRegionDocument { Flags = 4, Access = LeaseAccess.Read }, Cancellation));
        RegionDocument again = await context.ReregisterAsync(
            region.Id, new ReregisterRegionDocument { Flags = 1, Handle = memory.Handle }, Cancellation);
        Assert.Equal(
            (region.Rkey, ContextRegionKind.Pinned, MemoryRegionState.Valid), (again.Rkey, again.Kind, again.State));
        await using ContextPeer peer = await ContextPeer.OpenAsync(address, context);
        Assert.Equal(Well, peer.Transfer(BulkDirection.Write, again));
        await context.DeregisterAsync(region.Id, Cancellation);
        Assert.Equal(0UL, CountPinnedBytes(served));
    }

    [Fact]
    public async Task Changes_that_there_are_not_are_refused_and_the_region_is_as_it_was()
    {
        await using ServedHost served = await StartAsync("127.0.52.6");
        ObjectDocument made = await served.Client.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = "x", SizeBytes = Bytes }, Cancellation);
        await served.Client.CommitObjectAsync(made.Id, null, Cancellation);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        await using HeldContext other = await served.Client.OpenGpuAsync("gpu0", "other", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        BufferHandleDocument o = await context.OpenBufferAsync("gpu0", "x", write: true, Cancellation);
        RegionDocument read = await RegisterAsync(context, memory.Handle, access: LeaseAccess.Read);
        RegionDocument paged = await RegisterAsync(context, memory.Handle, ContextRegionKind.OnDemand);
        RegionDocument dynamic = await RegisterAsync(context, o.Handle, ContextRegionKind.Dynamic);
        ReregisterRegionDocument to = new() { Flags = 1, Handle = memory.Handle };
        (Errno Errno, HeldContext By, ulong Region, ReregisterRegionDocument Change)[] refused =
        [
            (Errno.EINVAL, context, read.Id, new() { Flags = 0 }),
            (Errno.EOPNOTSUPP, context, read.Id, new() { Flags = 8 }),
            (Errno.EOPNOTSUPP, context, read.Id, new() { Flags = uint.MaxValue }),
            (Errno.EACCES, context, read.Id, new() { Flags = 4 }),
            (Errno.EINVAL, context, read.Id, new() { Flags = 2, Domain = RegionService.DomainsMax }),
            (Errno.ENOENT, context, read.Id, to with { Handle = 4711 }),
            (Errno.EOPNOTSUPP, context, read.Id, to with { Handle = o.Handle }),
            (Errno.EINVAL, context, read.Id, to with { OffsetBytes = Bytes - 8, LengthBytes = 16 }),
            (Errno.EINVAL, context, read.Id, to with { OffsetBytes = ulong.MaxValue, LengthBytes = 2 }),
            (Errno.EOPNOTSUPP, context, paged.Id, new() { Flags = 4, Access = LeaseAccess.Read }),
            (Errno.EOPNOTSUPP, context, paged.Id, to),
            (Errno.EOPNOTSUPP, context, dynamic.Id, new() { Flags = 2, Domain = 1 }),
            (Errno.ENOENT, other, read.Id, to),
            (Errno.ENOENT, context, 4711, to),
        ];
        foreach ((Errno errno, HeldContext by, ulong region, ReregisterRegionDocument change) in refused)
        {
            await ExpectAsync(errno, by.ReregisterAsync(region, change, Cancellation));
        }

        await using ContextPeer peer = await ContextPeer.OpenAsync("127.0.52.6", context);
        Assert.Equal(Well, peer.Transfer(BulkDirection.Read, read));
        Assert.Equal(Refused, peer.Transfer(BulkDirection.Write, read));
        Assert.Equal(Well, peer.Transfer(BulkDirection.Write, paged));
        Assert.Equal(Well, peer.Transfer(BulkDirection.Write, dynamic));

        // RDMA-24: the domain that it is in is no change.
        await context.ReregisterAsync(dynamic.Id, new ReregisterRegionDocument { Flags = 2 }, Cancellation);
    }

    [Fact]
    public async Task A_cached_region_is_found_again_until_its_memory_is_elsewhere()
    {
        await using ServedHost served = await StartAsync("127.0.52.7");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        RegionDocument first = await RegisterAsync(context, memory.Handle, isCached: true);
        Assert.Equal(RegionOrigin.Made, first.Cache);
        RegionDocument beside = await RegisterAsync(context, memory.Handle, isCached: true);
        Assert.Equal((RegionOrigin.Found, first.Rkey), (beside.Cache, beside.Rkey));
        RegionDocument reader = await RegisterAsync(context, memory.Handle, access: LeaseAccess.Read, isCached: true);
        Assert.Equal(RegionOrigin.Made, reader.Cache);
        await using ContextPeer peer = await ContextPeer.OpenAsync("127.0.52.7", context);
        await context.DeregisterAsync(first.Id, Cancellation);
        Assert.Equal(Well, peer.Transfer(BulkDirection.Write, beside));
        await context.DeregisterAsync(beside.Id, Cancellation);
        await context.DeregisterAsync(reader.Id, Cancellation);

        // Nobody uses them; the cache has them, the key is alive, and the pages are pinned once for each.
        Assert.Equal(Well, peer.Transfer(BulkDirection.Write, beside));
        Assert.Equal(2UL * Bytes, CountPinnedBytes(served));
        RegionDocument again = await RegisterAsync(context, memory.Handle, isCached: true);
        Assert.Equal((RegionOrigin.Found, first.Rkey), (again.Cache, again.Rkey));
        await context.DeregisterAsync(again.Id, Cancellation);
        await ExpectAsync(Errno.ENOENT, context.DeregisterAsync(again.Id, Cancellation));

        // With the memory goes the key, without a further call; and a later buffer meets no old entry.
        await context.CloseBufferAsync(memory.Handle, Cancellation);
        Assert.Equal(Refused, peer.Transfer(BulkDirection.Write, first));
        Assert.Equal(0UL, CountPinnedBytes(served));
        BufferHandleDocument later = await context.AllocateAsync(Bytes, Cancellation);
        Assert.Equal(memory.Va, later.Va);
        RegionDocument other = await RegisterAsync(context, later.Handle, isCached: true);
        Assert.Equal(RegionOrigin.Made, other.Cache);
        await peer.FillAsync(0x11);
        Assert.Equal(Well, peer.Transfer(BulkDirection.Write, other));
        await context.DisposeAsync();
        await UntilEmptyAsync(served);
    }

    [Fact]
    public async Task What_a_cache_keeps_makes_room_for_what_the_client_pins()
    {
        await using ServedHost served = await StartAsync("127.0.52.8", pinnedMax: 2 * Bytes);
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(4 * Bytes, Cancellation);
        RegionDocument kept = await RegisterAsync(context, memory.Handle, isCached: true, bytes: Bytes);
        await context.DeregisterAsync(kept.Id, Cancellation);
        RegionDocument plain = await RegisterAsync(context, memory.Handle, bytes: 2 * Bytes);
        Assert.Null(served.Host.Nics[0].Device.FindRegion(kept.Rkey));
        await ExpectAsync(Errno.ENOMEM, RegisterAsync(context, memory.Handle, isCached: true, bytes: Bytes));
        await context.DeregisterAsync(plain.Id, Cancellation);

        // Another cache of the client, and a change of memory.
        RegionDocument write = await RegisterAsync(
            context, memory.Handle, access: LeaseAccess.Write, isCached: true, bytes: 2 * Bytes);
        await context.DeregisterAsync(write.Id, Cancellation);
        RegionDocument read = await RegisterAsync(
            context, memory.Handle, access: LeaseAccess.Read, isCached: true, bytes: Bytes);
        Assert.Null(served.Host.Nics[0].Device.FindRegion(write.Rkey));
        await context.DeregisterAsync(read.Id, Cancellation);
        RegionDocument own = await RegisterAsync(context, memory.Handle, bytes: Bytes);
        await context.ReregisterAsync(
            own.Id,
            new ReregisterRegionDocument { Flags = 1, Handle = memory.Handle, LengthBytes = Bytes },
            Cancellation);
        Assert.Null(served.Host.Nics[0].Device.FindRegion(read.Rkey));
    }

    [Fact]
    public async Task What_no_cache_can_keep_is_refused_by_name()
    {
        await using ServedHost served = await StartAsync(
            "127.0.52.9", new NicConfig { PinnedMemory = PinnedMemoryPolicy.Refuse });
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        await ExpectAsync(
            Errno.EINVAL, RegisterAsync(context, memory.Handle, ContextRegionKind.OnDemand, isCached: true));
        await ExpectAsync(Errno.EOPNOTSUPP, RegisterAsync(context, memory.Handle, isCached: true));
    }

    [Fact]
    public async Task A_cached_region_is_not_changed_for_others_of_the_client_may_use_it()
    {
        await using ServedHost served = await StartAsync("127.0.52.10");
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        BufferHandleDocument memory = await context.AllocateAsync(Bytes, Cancellation);
        RegionDocument region = await RegisterAsync(context, memory.Handle, isCached: true);
        await ExpectAsync(Errno.EOPNOTSUPP, context.ReregisterAsync(
            region.Id, new ReregisterRegionDocument { Flags = 4, Access = LeaseAccess.Read }, Cancellation));

        // A NIC that is pulled out takes what its cache keeps along.
        await context.DeregisterAsync(region.Id, Cancellation);
        Assert.Equal((ulong)Bytes, CountPinnedBytes(served));
        await served.Client.UnplugAsync("rdma0", new UnplugDeviceDocument { Surprise = true }, Cancellation);
        Assert.Equal(0UL, CountPinnedBytes(served));
    }

    private Task<ServedHost> StartAsync(string address, NicConfig? nic = null, long? pinnedMax = null) =>
        ServedHost.StartAsync(
            _folder,
            address,
            TimeProvider.System,
            devices: ControlTestFolder.Config with
            {
                Nics = [nic ?? new NicConfig()],
                Gpus =
                [
                    new GpuConfig
                    {
                        VramBytes = 16 << 20,
                        SystemPoolBytes = 16 << 20,
                        Compute = new ComputeConfig
                        {
                            UserMemoryBytes = 512 << 10,
                            PinnedBytesPerClientMax = pinnedMax,
                        },
                    },
                ],
            });

    private static Task<RegionDocument> RegisterAsync(
        HeldContext context,
        uint handle,
        ContextRegionKind kind = ContextRegionKind.Pinned,
        LeaseAccess access = LeaseAccess.ReadWrite,
        bool isCached = false,
        ulong? bytes = null) =>
        context.RegisterAsync(
            new RegisterRegionDocument
            {
                Handle = handle,
                Kind = kind,
                Access = access,
                Cached = isCached,
                LengthBytes = bytes,
            },
            Cancellation);

    // Of all clients; a page that two regions have counts twice.
    private static ulong CountPinnedBytes(ServedHost served)
    {
        IReadOnlyList<ComputeContext> contexts = served.Host.Compute.List();
        using (served.Host.Context.Enter())
        {
            return (ulong)contexts.Sum(c => c.Memory?.Space.Pins.Pages ?? 0) * PageFrame.SizeBytes;
        }
    }

    private static async Task ExpectAsync(Errno errno, Task refused) =>
        Assert.Equal(errno, (await Assert.ThrowsAsync<WayleaveException>(() => refused)).Errno);

    private static async Task UntilEmptyAsync(ServedHost served)
    {
        while ((await served.Client.GetComputeAsync(Cancellation)).Gpus[0].Contexts.Count > 0)
        {
            await Task.Yield();
        }

        using (served.Host.Context.Enter())
        {
            Assert.Equal(served.Host.Gpus[0].UserMemory.PageCount, served.Host.Gpus[0].UserMemory.FreePages);
        }

        Assert.Empty(served.Host.GetViolations());
    }
}
