using Wayleave.Host;
using Wayleave.Host.Broker;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Wayleave.Linux.Tests.Control;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>What a host has given out, counted; the same before and after.</summary>
internal sealed record DeathLedger(
    ulong VramFree,
    ulong SystemFree,
    ulong Quarantined,
    long FreePages,
    long Swapped,
    int Contexts,
    int PendingPoints,
    int Objects,
    int Leases,
    int Resources,
    int Buffers,
    int Attachments,
    int Transfers,
    int Programs,
    int Shared,
    int SharedAttachments,
    int Descriptors,
    int Keys,
    string Accounts)
{
    public static async Task<DeathLedger> TakeAsync(ServedHost served, BrokerStore store)
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        WayleaveHost host = served.Host;
        ComputeDocument compute = await served.Client.GetComputeAsync(cancellation);
        StatsDocument stats = await served.Client.GetStatsAsync(cancellation);
        ResourcesDocument resources = await served.Client.GetResourcesAsync(cancellation);
        BuffersDocument buffers = await served.Client.GetBuffersAsync(cancellation);
        IReadOnlyList<DeviceObject> objects = host.Objects.List();
        int transfers = host.Transfers.List().Count;
        using (host.Context.Enter())
        {
            GpuHandle gpu = host.Gpus[0];
            return new DeathLedger(
                gpu.Device.Stats.VramFreeBytes,
                gpu.Device.Stats.SystemFreeBytes,
                gpu.Device.Quarantine.Bytes,
                gpu.UserMemory.FreePages,
                gpu.UserMemory.SwapUsed,
                compute.Gpus.Sum(g => g.Contexts.Count),
                compute.Points.Count(p => p.State != SyncPointState.Signaled),
                stats.Objects,
                stats.Leases,
                resources.Providers.Sum(p => p.Resources.Count),
                buffers.Buffers.Count,
                objects.Sum(o => o.Buffer.Attachments.Count),
                transfers,
                store.Programs.AllLocked.Count,
                store.Buffers.AllLocked.Count,
                store.Buffers.AllLocked.Sum(b => b.Shared.Attachments.Count),
                store.Handles.AllLocked.Count(),
                store.Regions.AllLocked.Count,
                AccountsOf(store));
        }
    }

    // Of all programs together: what is on the account of one that is dead is counted too.
    private static string AccountsOf(BrokerStore store) => string.Join(
        ", ",
        Enum.GetValues<BrokerAccount>().Select(a => $"{store.Programs.AllLocked.Sum(p => p.Ledger[a])} {a}"));
}
