using System.Diagnostics;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Devices.Vfio;
using Wayleave.Host.Removal;

namespace Wayleave.Host.Control;

// POST   /v1/devices/DEVICE/reset            ResetDocument
// POST   /v1/devices/DEVICE/unplug           UnplugDeviceDocument -> UnpluggedDocument

/// <summary>What is done to a device as a whole.</summary>
internal sealed class DeviceEndpoints(WayleaveHost host, CancellationToken stopping)
{
    private static ControlJson Json => ControlJson.Default;

    public void Map(IEndpointRouteBuilder routes)
    {
        routes.MapPost("/v1/devices/{device}/reset", ResetAsync);
        routes.MapPost("/v1/devices/{device}/unplug", UnplugAsync);
    }

    private async Task ResetAsync(HttpContext context)
    {
        string device = (string)context.Request.RouteValues["device"]!;
        if (host.Ethernets.FirstOrDefault(e => e.Name == device) is { } ethernet)
        {
            await ResetAsync(context, ethernet).ConfigureAwait(false);
            return;
        }

        VfioHandle vfio = host.Vfios.FirstOrDefault(v => v.Name == device) ?? throw NoReset(device);
        using CancellationTokenSource over =
            CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, stopping);
        long start = Stopwatch.GetTimestamp();
        VfioTransition reset = await vfio.ResetAsync(over.Token).ConfigureAwait(false);
        host.Objects.ForgetDigests(vfio);
        ResetDocument document = new()
        {
            Host = host.Config.Name,
            Device = device,
            ElapsedUs = (long)Stopwatch.GetElapsedTime(start).TotalMicroseconds,
            Proofs = [.. reset.Revokes.Select(r => ProofDocument.From(r.Proof!))],
        };
        await ControlRequest.WriteAsync(context, document, Json.ResetDocument).ConfigureAwait(false);
    }

    private Task ResetAsync(HttpContext context, EthernetHandle ethernet)
    {
        long start = Stopwatch.GetTimestamp();
        (int queues, long dropped) = ethernet.Reset();
        ResetDocument document = new()
        {
            Host = host.Config.Name,
            Device = ethernet.Name,
            ElapsedUs = (long)Stopwatch.GetElapsedTime(start).TotalMicroseconds,
            Proofs = [],
            Queues = queues,
            FramesDropped = dropped,
        };
        return ControlRequest.WriteAsync(context, document, Json.ResetDocument);
    }

    // Not tied to the client: a removal that has begun goes on without it.
    private async Task UnplugAsync(HttpContext context)
    {
        string device = (string)context.Request.RouteValues["device"]!;
        UnplugDeviceDocument unplug = await ControlRequest
            .ReadAsync(context, Json.UnplugDeviceDocument).ConfigureAwait(false);
        if (unplug.TimeoutMs is < 0 or > ControlEndpoints.RevokeTimeoutMsMax)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                $"unplug {device}",
                $"timeout_ms is {unplug.TimeoutMs}; 0 to {ControlEndpoints.RevokeTimeoutMsMax} are allowed");
        }

        RemovalRequest request = new(unplug.Surprise, TimeSpan.FromMilliseconds(unplug.TimeoutMs));
        RemovalResult result = await new DeviceRemoval(host).RunAsync(device, request).ConfigureAwait(false);
        UnpluggedDocument document = new()
        {
            Host = host.Config.Name,
            Device = device,
            Surprise = unplug.Surprise,
            ElapsedUs = (long)result.Elapsed.TotalMicroseconds,
            Leases = result.Leases,
            Transfers = result.Transfers,
            Proofs = [.. result.Proofs.Select(ProofDocument.From)],
            Late = result.Late,
        };
        await ControlRequest.WriteAsync(context, document, Json.UnpluggedDocument).ConfigureAwait(false);
    }

    private WayleaveException NoReset(string device)
    {
        string[] names =
        [
            .. host.Vfios.Where(v => v.Presence.IsPresent).Select(v => v.Name),
            .. host.Ethernets.Where(e => e.Presence.IsPresent).Select(e => e.Name),
        ];
        bool exists = host.FindFunction(device) is not null;
        return new WayleaveException(
            exists ? Errno.EOPNOTSUPP : Errno.ENODEV,
            $"reset {device}",
            exists ? "only functions in the hands of VFIO and Ethernet NICs are reset" : "the host has no such device",
            names.Length == 0
                ? "give the host one: \"vfios\" in its configuration"
                : $"it has {string.Join(", ", names)}");
    }
}
