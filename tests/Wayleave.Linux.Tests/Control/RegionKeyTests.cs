using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>
/// The table of docs/devices.md that says what becomes of a key, cell by cell against a running host and a peer that
/// writes.
/// </summary>
public sealed class RegionKeyTests : IDisposable
{
    private const int Bytes = ContextPeer.Bytes;
    private const int UserMemoryBytes = 256 << 10;

    private readonly ControlTestFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("`pinned`, own memory", ContextRegionKind.Pinned, false, "127.0.49.2")]
    [InlineData("`on_demand`", ContextRegionKind.OnDemand, false, "127.0.49.3")]
    [InlineData("`implicit`", ContextRegionKind.Implicit, false, "127.0.49.4")]
    [InlineData("`dynamic`", ContextRegionKind.Dynamic, true, "127.0.49.5")]
    [InlineData("`pinned_revocable`", ContextRegionKind.PinnedRevocable, true, "127.0.49.6")]
    [InlineData("`legacy_peer`", ContextRegionKind.LegacyPeer, true, "127.0.49.7")]
    [InlineData("`pinned`, an object", ContextRegionKind.Pinned, true, "127.0.49.8")]
    public async Task The_table_says_what_each_does_to_the_key(
        string row, ContextRegionKind kind, bool isObject, string address)
    {
        await using ServedHost served = await StartAsync(address);
        string table = File.ReadAllText(Path.Combine(Root(), "docs", "devices.md"));
        string line = table.Split('\n').Last(l => l.StartsWith($"| {row} | ", StringComparison.Ordinal));
        string[] said = [.. line.Split('|').Skip(2).SkipLast(1).Select(c => c.Trim())];
        Func<Key, Task>?[] events =
        [
            isObject ? MoveAsync : null,
            isObject ? TakeBackAsync : null,
            isObject ? null : ReclaimAsync,
            CloseAsync,
            DeregisterAsync,
        ];
        List<string> found = [];
        foreach (Func<Key, Task>? happen in events)
        {
            found.Add(happen is null ? "-" : await OutcomeAsync(served, kind, isObject, address, happen));
        }

        Assert.Equal(said, found);
    }

    // What a peer finds that wrote before, and writes again.
    private static async Task<string> OutcomeAsync(
        ServedHost served, ContextRegionKind kind, bool isObject, string address, Func<Key, Task> happen)
    {
        await using HeldContext context = await served.Client.OpenGpuAsync("gpu0", "c", Cancellation);
        string name = Path.GetRandomFileName();
        if (isObject)
        {
            ObjectDocument made = await served.Client.CreateObjectAsync(
                new CreateObjectDocument { Device = "gpu0", Name = name, SizeBytes = Bytes }, Cancellation);
            await served.Client.CommitObjectAsync(made.Id, null, Cancellation);
        }

        uint handle = isObject
            ? (await context.OpenBufferAsync("gpu0", name, write: true, Cancellation)).Handle
            : (await context.AllocateAsync(Bytes, Cancellation)).Handle;
        RegionDocument region = await context.RegisterAsync(
            new RegisterRegionDocument { Handle = handle, Kind = kind }, Cancellation);
        await using ContextPeer peer = await ContextPeer.OpenAsync(address, context);
        Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
        try
        {
            await happen(new Key(served, context, region, name, handle));
        }
        catch (WayleaveException e) when (e.Errno == Errno.EBUSY)
        {
            Assert.Equal(WorkCompletionStatus.Success, peer.Transfer(BulkDirection.Write, region));
            return "EBUSY";
        }

        MemoryRegion? there = served.Host.Nics[0].Device.FindRegion(region.Rkey);
        if (there is null)
        {
            Assert.Equal(WorkCompletionStatus.RemoteAccessError, peer.Transfer(BulkDirection.Write, region));
            return "free";
        }

        long faults = served.Host.Nics[0].Device.Port.Stats.Faults;
        WorkCompletionStatus status = peer.Transfer(BulkDirection.Write, region);
        bool hasFaulted = served.Host.Nics[0].Device.Port.Stats.Faults > faults;
        return (status, there.State, hasFaulted) switch
        {
            (WorkCompletionStatus.Success, MemoryRegionState.Valid, false) => "stays",
            (WorkCompletionStatus.Success, MemoryRegionState.Valid, true) => "faults",
            (WorkCompletionStatus.RemoteAccessError, MemoryRegionState.Dead, _) => "dead",
            (WorkCompletionStatus.RemoteAccessError, MemoryRegionState.Valid, _) => "hole",
            _ => $"{status} {there.State}",
        };
    }

    private static async Task MoveAsync(Key key) => await key.Served.Client.EvictAsync("gpu0", key.Name, Cancellation);

    private static async Task TakeBackAsync(Key key)
    {
        RevokeObjectDocument soon = new() { TimeoutMs = 50 };
        await key.Served.Client.RevokeAsync("gpu0", key.Name, soon, Cancellation);
    }

    // Somebody else touches as many pages as can be had.
    private static async Task ReclaimAsync(Key key)
    {
        await using HeldContext other = await key.Served.Client.OpenGpuAsync("gpu0", "other", Cancellation);
        ulong wanted = UserMemoryBytes - Bytes;
        for (int turn = 0; turn < 2; turn++)
        {
            BufferHandleDocument memory = await other.AllocateAsync(wanted, Cancellation);
            RegionDocument region = await other.RegisterAsync(
                new RegisterRegionDocument { Handle = memory.Handle, Kind = ContextRegionKind.OnDemand }, Cancellation);
            PrefetchDocument all = new() { Va = region.Va, LengthBytes = (uint)wanted, Write = true };
            await other.PrefetchAsync(region.Id, all, Cancellation);
        }
    }

    private static Task CloseAsync(Key key) => key.Context.CloseBufferAsync(key.Handle, Cancellation);

    private static async Task DeregisterAsync(Key key) =>
        await key.Context.DeregisterAsync(key.Region.Id, Cancellation);

    private static string Root()
    {
        string folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "Wayleave.slnx")))
        {
            folder = Path.GetDirectoryName(folder)!;
        }

        return folder;
    }

    private Task<ServedHost> StartAsync(string address) => ServedHost.StartAsync(
        _folder,
        address,
        TimeProvider.System,
        devices: ControlTestFolder.Config with
        {
            Gpus =
            [
                new GpuConfig
                {
                    VramBytes = 8 << 20,
                    SystemPoolBytes = 8 << 20,
                    Compute = new ComputeConfig { UserMemoryBytes = UserMemoryBytes },
                },
            ],
        });

    /// <summary>A region, and what it is over.</summary>
    private sealed record Key(
        ServedHost Served, HeldContext Context, RegionDocument Region, string Name, uint Handle);
}
