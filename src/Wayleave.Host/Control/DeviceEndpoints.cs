using System.Diagnostics;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Devices.Vfio;

namespace Wayleave.Host.Control;

// POST   /v1/devices/DEVICE/reset            ResetDocument

/// <summary>What is done to a device as a whole.</summary>
internal sealed class DeviceEndpoints(WayleaveHost host, CancellationToken stopping)
{
    private static ControlJson Json => ControlJson.Default;

    public void Map(IEndpointRouteBuilder routes) => routes.MapPost("/v1/devices/{device}/reset", ResetAsync);

    private async Task ResetAsync(HttpContext context)
    {
        string device = (string)context.Request.RouteValues["device"]!;
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

    private WayleaveException NoReset(string device)
    {
        string[] names = [.. host.Vfios.Select(v => v.Name)];
        bool exists = host.FindFunction(device) is not null;
        return new WayleaveException(
            exists ? Errno.EOPNOTSUPP : Errno.ENODEV,
            $"reset {device}",
            exists ? "only functions in the hands of VFIO are reset" : "the host has no such device",
            names.Length == 0
                ? "give the host one: \"vfios\" in its configuration"
                : $"it has {string.Join(", ", names)}");
    }
}
