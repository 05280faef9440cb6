using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Objects;

namespace Wayleave.Host;

/// <summary>
/// Lends a page to itself and takes it back, once for each kind of region, before a host lends anything to others: a
/// host that cannot take memory back must not start. It also leaves the path compiled, so that the first real revoke is
/// as fast as the next.
/// </summary>
internal static class TakeBackCheck
{
    private const ulong PageBytes = 4096;

    /// <exception cref="WayleaveException">A proof was not of grade Retired.</exception>
    public static async Task RunAsync(WayleaveHost host)
    {
        foreach (NicHandle nic in host.Nics)
        {
            if (nic.Device.Options.Revocation == RegionRevocation.None)
            {
                continue; // it gives nothing back, and an owner that has to be able to does not let it in
            }

            // A NIC that reaches no GPU can be lent nothing in VRAM: there is nothing to take back.
            if (host.Gpus.FirstOrDefault(g => host.VerdictFor(g, nic.Device.Function).IsSupported) is not { } gpu)
            {
                host.Context.Trace("take_back_check.skipped", nic.Name);
                continue;
            }

            await RunAsync(host, gpu, nic, StorageKind.Movable, ImporterKind.Dynamic).ConfigureAwait(false);

            // Storage that never moves cannot be pinned where every pin moves to host memory.
            StorageKind pinned = gpu.PinPolicy == GpuPinPolicy.HostMemory ? StorageKind.Movable : StorageKind.Revocable;
            await RunAsync(host, gpu, nic, pinned, ImporterKind.PinnedRevocable).ConfigureAwait(false);
        }
    }

    private static async Task RunAsync(
        WayleaveHost host, GpuHandle gpu, NicHandle nic, StorageKind storage, ImporterKind kind)
    {
        DeviceObject page = await host.Objects
            .CreateAsync(gpu.Name, "take-back-check", PageBytes, storage).ConfigureAwait(false);
        MemoryRegion region = await nic.RegisterAsync(
            nic.AuditDomain,
            page.Buffer,
            new MemoryRegionRequest(
                0, PageBytes, 0, AccessFlags.LocalWrite | AccessFlags.RemoteWrite, kind)).ConfigureAwait(false);
        RetirementProof proof = await host.Objects
            .RevokeAsync(page, new RevokePolicy { Reason = "check at start" }).ConfigureAwait(false);
        bool isDead = region.State == MemoryRegionState.Dead;
        await nic.DeregisterAsync(region).ConfigureAwait(false);
        if (proof.Grade != RetirementGrade.Retired || !isDead)
        {
            throw new WayleaveException(
                Errno.EIO,
                $"start host {host.Config.Name}",
                $"taking back a {kind} region on {nic.Name} ended at grade {proof.Grade}",
                "please report this");
        }
    }
}
