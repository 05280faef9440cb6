using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;
using Wayleave.Host.Topology;
using Wayleave.Host.Transfers;

namespace Wayleave.Host.Control;

/// <summary>What a host does just now, as a document. Takes the host lock, more than once.</summary>
internal static class ActivityReports
{
    public static ActivityDocument Describe(WayleaveHost host)
    {
        IReadOnlyList<Lease> leases = host.Leases.List();
        IReadOnlyList<OutgoingTransfer> transfers = host.Transfers.List();
        IReadOnlyList<DeviceObject> objects = host.Objects.List();
        LinksDocument links = LinkReports.Describe(host);
        Dictionary<string, LinkDocument> linkOf = links.Links.ToDictionary(l => l.Name, StringComparer.Ordinal);
        using (host.Context.Enter())
        {
            RetirementCounts counts = host.Objects.Retirements;
            return new ActivityDocument
            {
                Host = host.Config.Name,
                UptimeUs = (long)host.Context.Now.TotalMicroseconds,
                Devices = [.. DescribeDevices(host, linkOf)],
                Holders = [.. leases.Select(Describe), .. transfers.Select(Describe)],
                Retirements = new RetirementsDocument
                {
                    Revokes = counts.Ended,
                    InProgress = counts.InProgress,
                    Grades = Enum.GetValues<RetirementGrade>()
                        .Where(g => counts.OfGrade(g) != 0)
                        .OrderDescending()
                        .ToDictionary(g => g.ToString(), counts.OfGrade),
                    ReleasedLate = counts.ReleasedLate,
                },
                Quarantine =
                [
                    .. objects.Where(o => o.State == ObjectState.Quarantined).OrderBy(o => o.Id).Select(Describe),
                ],
                StagingBytes = links.StagingBytes,
            };
        }
    }

    private static IEnumerable<DeviceActivityDocument> DescribeDevices(
        WayleaveHost host, Dictionary<string, LinkDocument> linkOf)
    {
        foreach (GpuHandle gpu in host.Gpus.Where(g => IsThere(g.Presence)))
        {
            GpuStats stats = gpu.Device.Stats;
            yield return Start(gpu.Name, "gpu", linkOf) with
            {
                MemoryTotalBytes = stats.VramTotalBytes,
                MemoryUsedBytes = stats.VramUsedBytes,
                MemoryQuarantinedBytes = stats.VramQuarantinedBytes,
                Moves = stats.Evictions + stats.Restores,
                Failure = gpu.Failure?.Message,
            };
        }

        foreach (AcceleratorHandle accelerator in host.Accelerators.Where(a => IsThere(a.Presence)))
        {
            yield return Start(accelerator.Name, "accelerator", linkOf) with
            {
                MemoryTotalBytes = accelerator.Device.MemoryBytes,
                MemoryUsedBytes = accelerator.Device.Memory.UsedBytes,
                MemoryQuarantinedBytes = accelerator.Quarantine.Bytes,
                Failure = accelerator.Failure?.Message,
            };
        }

        foreach (VfioHandle vfio in host.Vfios.Where(v => IsThere(v.Presence)))
        {
            yield return Start(vfio.Name, "vfio", linkOf) with
            {
                MemoryTotalBytes = vfio.TotalBytes,
                MemoryUsedBytes = vfio.TotalBytes - vfio.FreeBytes,
                MemoryQuarantinedBytes = vfio.Quarantine.Bytes,
            };
        }

        foreach (NvmeHandle drive in host.Nvmes.Where(d => IsThere(d.Presence)))
        {
            yield return Start(drive.Name, "nvme", linkOf) with { Failure = drive.Failure?.Message };
        }

        foreach (NicHandle nic in host.Nics.Where(n => IsThere(n.Presence)))
        {
            yield return Start(nic.Name, "rdma", linkOf) with
            {
                Faults = nic.Device.Port.Stats.Faults,
                Failure = nic.Driver.Failure?.Message,
            };
        }

        foreach (EthernetHandle ethernet in host.Ethernets.Where(e => IsThere(e.Presence)))
        {
            yield return Start(ethernet.Name, "ethernet", linkOf) with { Failure = ethernet.Failure };
        }
    }

    private static DeviceActivityDocument Start(string name, string type, Dictionary<string, LinkDocument> linkOf)
    {
        LinkDocument? link = linkOf.GetValueOrDefault(name); // none while it is pulled out
        return new DeviceActivityDocument
        {
            Name = name,
            Type = type,
            InBytes = link?.DownBytes ?? 0,
            OutBytes = link?.UpBytes ?? 0,
        };
    }

    private static bool IsThere(DevicePresence presence) => presence.State != DevicePresenceState.Gone;

    private static HolderDocument Describe(Lease lease) => new()
    {
        Kind = HoldKind.Lease,
        Id = lease.Id,
        Holder = lease.Request.Peer.Gid.ToString(),
        Device = lease.Target.Device,
        ObjectName = lease.Target.Name,
        SizeBytes = lease.Target.SizeBytes,
        Access = lease.Request.Access,
        Region = lease.Request.Region,
        Ending = lease.Ending is not null,
    };

    private static HolderDocument Describe(OutgoingTransfer transfer) => new()
    {
        Kind = HoldKind.Transfer,
        Id = transfer.Id,
        Holder = transfer.Peer?.ToString() ?? "another host",
        Device = transfer.Source.Device,
        ObjectName = transfer.Source.Name,
        SizeBytes = transfer.Source.SizeBytes,
        Ending = transfer.Completion.IsCompleted,
    };

    private static QuarantinedDocument Describe(DeviceObject o) => new()
    {
        Id = o.Id,
        Device = o.Device,
        ObjectName = o.Name,
        SizeBytes = o.SizeBytes,
        Grade = o.Proof?.Grade ?? RetirementGrade.None,
        WaitsFor =
        [
            .. o.Proof?.Importers.Where(i => i.Grade < o.Proof.RequiredGrade).Select(i => i.Importer) ?? [],
        ],
    };
}
