using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Host.Compute;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;

namespace Wayleave.Host.Removal;

/// <summary>How a device is pulled out.</summary>
/// <param name="IsSurprise">
/// Without warning: nothing answers first, and then everybody learns of it. Otherwise everybody is told first, and the
/// device goes when all have let go.
/// </param>
/// <param name="Timeout">How long to wait for proofs and for what is under way.</param>
public sealed record RemovalRequest(bool IsSurprise, TimeSpan Timeout);

/// <summary>What the removal of a device did.</summary>
/// <param name="Proofs">One for each object that it had.</param>
/// <param name="Leases">Leases that ended with it.</param>
/// <param name="Transfers">Transfers to other hosts that ended with it.</param>
/// <param name="Late">What had not let go in time, by name; it keeps its memory in quarantine.</param>
/// <param name="Elapsed">From the request to the end.</param>
public sealed record RemovalResult(
    IReadOnlyList<RetirementProof> Proofs,
    int Leases,
    int Transfers,
    IReadOnlyList<string> Late,
    TimeSpan Elapsed);

//   orderly     nothing new --> objects revoked, leases and transfers ended, driver let go --> out of the bus
//   surprise    nothing new --> out of the bus --> objects revoked, leases and transfers ended, driver let go
//
// In both cases the memory of the device stays mapped in this process: an access that decoded its address before goes
// on in memory that is nobody's, and nothing ever becomes of it.

/// <summary>
/// Pulls a device out of a running host. Transfers end with an error that says so, memory is retired with a proof or
/// stays in quarantine by name, and everything else goes on. Members take the host lock themselves.
/// </summary>
public sealed class DeviceRemoval(WayleaveHost host)
{
    /// <summary>Pulls out one device.</summary>
    /// <exception cref="WayleaveException">
    /// ENODEV: there is none of that name. EBUSY: it is orderly and somebody does not let go; the device is still there
    /// and takes nothing new, and can be pulled out again, or by surprise.
    /// </exception>
    public async Task<RemovalResult> RunAsync(string device, RemovalRequest request)
    {
        ArgumentNullException.ThrowIfNull(request);
        long start = Stopwatch.GetTimestamp();
        (PciFunction function, DevicePresence presence) = Find(device);
        if (!presence.TryLeave())
        {
            throw NoDevice(device);
        }

        PeerDevice? peer = PeerOf(function); // which the removal from the bus forgets
        if (request.IsSurprise)
        {
            Unplug(function);
        }

        Departure departure = new(request, $"{device} was pulled out");
        if (host.MemoryDevices.FirstOrDefault(d => d.Name == device) is { } memory)
        {
            await EndAsync(memory, departure).ConfigureAwait(false);
        }
        else if (host.Nics.FirstOrDefault(n => n.Name == device) is { } nic)
        {
            await EndAsync(nic, departure).ConfigureAwait(false);
        }
        else if (host.Ethernets.FirstOrDefault(e => e.Name == device) is { } ethernet)
        {
            await EndAsync(ethernet, departure).ConfigureAwait(false);
        }

        if (host.Nvmes.FirstOrDefault(n => n.Name == device) is { } drive)
        {
            await drive.StopAsync().ConfigureAwait(false); // every command ends: an abort needs no medium
        }

        await WaitAsync(presence.WhenIdleAsync(), $"something that began on {device}", departure).ConfigureAwait(false);
        if (host.MemoryDevices.FirstOrDefault(d => d.Name == device) is { } late)
        {
            await EndMemoryAsync(late, departure).ConfigureAwait(false); // what had begun has made more
        }

        await LetGoAsync(peer, departure).ConfigureAwait(false);
        if (!request.IsSurprise)
        {
            if (departure.Late.Count > 0)
            {
                throw new WayleaveException(
                    Errno.EBUSY,
                    $"unplug {device}",
                    $"not yet let go: {string.Join(", ", departure.Late)}",
                    "unplug it again when they have, or pull it out all the same: --surprise");
            }

            Unplug(function);
        }

        if (departure.Late.Count == 0 && host.Nics.FirstOrDefault(n => n.Name == device) is { } gone)
        {
            gone.Dispose(); // its port is closed; nobody of the host uses it any more
        }

        if (departure.Late.Count == 0 && host.Ethernets.FirstOrDefault(e => e.Name == device) is { } unlinked)
        {
            unlinked.Dispose();
        }

        presence.HandleGone();
        host.Context.Trace("host.unplugged", device, request.IsSurprise ? 1 : 0, departure.Late.Count);
        return new RemovalResult(
            departure.Proofs,
            departure.Leases,
            departure.Transfers,
            departure.Late,
            Stopwatch.GetElapsedTime(start));
    }

    private (PciFunction Function, DevicePresence Presence) Find(string device)
    {
        if (host.MemoryDevices.FirstOrDefault(d => d.Name == device) is { } memory)
        {
            return (memory.Function, memory.Presence);
        }

        if (host.Ethernets.FirstOrDefault(e => e.Name == device) is { } ethernet)
        {
            return (ethernet.Function, ethernet.Presence);
        }

        return host.Nics.FirstOrDefault(n => n.Name == device) is { } nic
            ? (nic.Device.Function, nic.Presence)
            : throw NoDevice(device);
    }

    private WayleaveException NoDevice(string device) => new(
        Errno.ENODEV,
        $"unplug {device}",
        "the host has no such device",
        $"it has {string.Join(", ", host.PresentDevices())}");

    private PeerDevice? PeerOf(PciFunction function)
    {
        using (host.Context.Enter())
        {
            return function.PeerDevice;
        }
    }

    private void Unplug(PciFunction function)
    {
        using (host.Context.Enter())
        {
            if (function.Root is not null)
            {
                host.Fabric.Unplug(function);
            }
        }
    }

    private async Task EndAsync(IObjectDevice device, Departure departure)
    {
        await EndMemoryAsync(device, departure).ConfigureAwait(false);
        if (device is VfioHandle vfio)
        {
            await WaitAsync(vfio.CloseAsync(), $"importers of {device.Name}", departure).ConfigureAwait(false);
        }
    }

    // Of what it has now; what was ended before is left out.
    private async Task EndMemoryAsync(IObjectDevice device, Departure departure)
    {
        DeviceObject[] objects =
            [.. host.Objects.List().Where(o => ReferenceEquals(o.Owner, device) && departure.Ended.Add(o))];
        departure.Leases += objects.Sum(o => host.Leases.List(o).Count);
        departure.Transfers += host.Transfers.List().Count(t => objects.Contains(t.Source));
        RevokePolicy policy = new() { Reason = departure.Reason, Timeout = departure.Left };
        RetirementProof[] proofs = await Task
            .WhenAll(objects.Select(o => host.Objects.RevokeAsync(o, policy))).ConfigureAwait(false);
        if (host.Broker is { } broker)
        {
            IReadOnlyList<RetirementProof> ofPrograms =
                await broker.Buffers.RevokeAllAsync(device, policy, departure.Ended).ConfigureAwait(false);
            proofs = [.. proofs, .. ofPrograms];
        }

        departure.Proofs.AddRange(proofs);
        departure.Late.AddRange(proofs.Where(p => !p.IsSufficient).Select(Describe));
        if (device is GpuHandle used)
        {
            Task closed = host.Compute.CloseAllAsync(c => ReferenceEquals(c.Gpu, used), departure.Reason);
            await WaitAsync(closed, $"commands on {device.Name}", departure).ConfigureAwait(false);
        }
    }

    private static string Describe(RetirementProof proof)
    {
        string[] holders =
        [
            .. proof.Importers.Where(i => i.Grade < proof.RequiredGrade && i.Holder is not null)
                .Select(i => i.Holder!).Distinct(),
        ];
        return $"{proof.Buffer}: {proof.Cause}" + (holders.Length == 0 ? "" : $" ({string.Join(", ", holders)})");
    }

    private async Task EndAsync(NicHandle nic, Departure departure)
    {
        WayleaveException reason = nic.Presence.Gone("send");
        foreach (OutgoingTransfer transfer in host.Transfers.List().Where(t => ReferenceEquals(t.Nic, nic)))
        {
            departure.Transfers++;
            await transfer.FailAsync(reason).ConfigureAwait(false);
        }

        foreach (Lease lease in host.Leases.List().Where(l => ReferenceEquals(l.Nic, nic)))
        {
            departure.Leases++;
            await WaitAsync(host.Leases.EndAsync(lease), $"lease {lease.Id} of {lease.Target}", departure)
                .ConfigureAwait(false);
        }

        if (host.Broker is { } broker)
        {
            await WaitAsync(broker.Regions.StopAllAsync(nic), $"keys of programs on {nic.Name}", departure)
                .ConfigureAwait(false);
        }

        foreach (ComputeContext context in host.Compute.List())
        {
            await WaitAsync(
                host.Compute.Regions.EndAllAsync(context, nic), $"regions of {context} on {nic.Name}", departure)
                .ConfigureAwait(false);
        }
    }

    // Peers are reset first, while the link still carries that; then the bindings go.
    private static async Task EndAsync(EthernetHandle nic, Departure departure)
    {
        WayleaveException reason = nic.Presence.Gone($"use {nic.Name}");
        foreach (NetOperation operation in nic.Operations)
        {
            departure.Transfers++;
            await WaitAsync(operation.EndAsync(reason), operation.ToString()!, departure).ConfigureAwait(false);
        }

        Task removed = nic.RemoveAsync();
        await Task.WhenAny(removed, Task.Delay(departure.Left)).ConfigureAwait(false);
        if (!removed.IsCompleted)
        {
            departure.Late.AddRange(nic.ListHolders());
        }
    }

    // The driver of the function lets go of what it offered to peers: pools and resources with a handle.
    private async Task LetGoAsync(PeerDevice? device, Departure departure)
    {
        if (device is null)
        {
            return;
        }

        TaskCompletionSource done = new(TaskCreationOptions.RunContinuationsAsynchronously);
        PeerUnbind unbind;
        using (host.Context.Enter())
        {
            unbind = device.Unbind(
                host.Context, new RevokePolicy { Reason = departure.Reason, Timeout = departure.Request.Timeout });
            if (!unbind.TryAddCompletion(done.SetResult))
            {
                return;
            }
        }

        host.Deadlines.Arm();
        Task first = await Task.WhenAny(done.Task, Task.Delay(departure.Left)).ConfigureAwait(false);
        if (first != done.Task)
        {
            using (host.Context.Enter())
            {
                departure.Late.AddRange(unbind.Holders);
            }
        }
    }

    private static async Task WaitAsync(Task task, string what, Departure departure)
    {
        if (await Task.WhenAny(task, Task.Delay(departure.Left)).ConfigureAwait(false) == task)
        {
            await task.ConfigureAwait(false);
        }
        else
        {
            departure.Late.Add(what);
        }
    }

    /// <summary>What has been found on the way out.</summary>
    private sealed class Departure(RemovalRequest request, string reason)
    {
        private readonly long _start = Stopwatch.GetTimestamp();

        public RemovalRequest Request { get; } = request;

        public string Reason { get; } = reason;

        public List<RetirementProof> Proofs { get; } = [];

        /// <summary>Objects and buffers that have a proof there, or are about to.</summary>
        public HashSet<object> Ended { get; } = new(ReferenceEqualityComparer.Instance);

        public List<string> Late { get; } = [];

        public int Leases { get; set; }

        public int Transfers { get; set; }

        public TimeSpan Left
        {
            get
            {
                TimeSpan left = Request.Timeout - Stopwatch.GetElapsedTime(_start);
                return left > TimeSpan.Zero ? left : TimeSpan.Zero;
            }
        }
    }
}
