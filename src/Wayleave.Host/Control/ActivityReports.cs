using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Broker;
using Wayleave.Host.Compute;
using Wayleave.Host.Ethernet;
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
        IReadOnlyList<ComputeContext> contexts = host.Compute.List();
        HolderDocument[] network = [.. host.NetNics.SelectMany(e => e.Operations).Select(Describe)];
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
                Holders =
                [
                    .. leases.Select(Describe),
                    .. transfers.Select(Describe),
                    .. contexts.SelectMany(Describe),
                    .. network,
                    .. DescribeShared(host),
                ],
                Programs = [.. (host.Broker?.Programs.AllLocked ?? []).Select(Describe)],
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
                    .. (host.Broker?.Buffers.AllLocked ?? []).Where(b => b.IsQuarantined).Select(Describe),
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

    // One for each object that its commands may use; for a context that has none, one that says so.
    private static IEnumerable<HolderDocument> Describe(ComputeContext context)
    {
        HolderDocument whole = new()
        {
            Kind = HoldKind.Compute,
            Id = context.Id,
            Holder = context.Name,
            Device = context.Gpu.Name,
            ObjectName = "",
            SizeBytes = 0,
            Ending = context.Ended is not null,
        };
        HolderDocument[] objects =
        [
            .. context.Buffers.Select(b => b.Target).OfType<DeviceObject>().Select(o =>
                whole with { Device = o.Device, ObjectName = o.Name, SizeBytes = o.SizeBytes }),
        ];
        return objects.Length == 0 ? [whole] : objects;
    }

    private static HolderDocument Describe(NetOperation operation) => new()
    {
        Kind = HoldKind.Network,
        Id = 0,
        Holder = operation.What,
        Device = operation.Nic.Name,
        ObjectName = "",
        SizeBytes = 0,
        Ending = false,
    };

    private static IEnumerable<HolderDocument> DescribeShared(WayleaveHost host)
    {
        if (host.Broker is not { } broker)
        {
            yield break;
        }

        foreach (BrokerMapping mapping in broker.Buffers.AllLocked.SelectMany(b => b.Mappings))
        {
            yield return Describe(mapping.Buffer, mapping.Program, HoldKind.Mapping, mapping.IsPending);
        }

        foreach (BrokerRegion region in broker.Regions.AllLocked.OfType<BrokerRegion>())
        {
            yield return Describe(region.Buffer, region.Program, HoldKind.Key, region.Program.IsDead) with
            {
                Region = region.Region.Kind,
            };
        }
    }

    private static HolderDocument Describe(BrokerBuffer buffer, BrokerProgram by, HoldKind kind, bool ends) => new()
    {
        Kind = kind,
        Id = buffer.Shared.Id,
        Holder = by.Holder,
        Device = buffer.Device.Name,
        ObjectName = buffer.Shared.Name,
        SizeBytes = buffer.SizeBytes,
        Ending = ends,
    };

    private static ProgramDocument Describe(BrokerProgram program) => new()
    {
        ProcessId = program.ProcessId,
        UserId = program.UserId,
        Name = program.Name,
        Dead = program.IsDead,
        Accounts = Enum.GetValues<BrokerAccount>()
            .Where(a => program.Ledger[a] != 0)
            .ToDictionary(
                a => System.Text.Json.JsonNamingPolicy.SnakeCaseLower.ConvertName(a.ToString()),
                a => program.Ledger[a]),
    };

    private static QuarantinedDocument Describe(BrokerBuffer buffer) => new()
    {
        Id = buffer.Shared.Id,
        Device = buffer.Device.Name,
        ObjectName = buffer.Shared.Name,
        SizeBytes = buffer.SizeBytes,
        Grade = buffer.Revoke?.Proof?.Grade ?? RetirementGrade.None,
        WaitsFor = [.. buffer.Mappings.Select(m => m.Program.Holder).Distinct()],
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
