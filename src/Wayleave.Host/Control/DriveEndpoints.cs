using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Host.Transfers;

namespace Wayleave.Host.Control;

// POST   /v1/objects/DEVICE/NAME/load        LoadObjectDocument -> LoadedDocument; by the Unix socket only

/// <summary>What the drives of a host do with files of its machine, for its own user alone.</summary>
internal sealed class DriveEndpoints(WayleaveHost host, CancellationToken stopping)
{
    private static ControlJson Json => ControlJson.Default;

    public void Map(IEndpointRouteBuilder routes)
    {
        routes.MapPost("/v1/objects/{device}/{name}/load", LoadAsync);
    }

    private async Task LoadAsync(HttpContext context)
    {
        (string device, string name) = ControlRequest.ReadName(context);
        LoadObjectDocument load = await ControlRequest
            .ReadAsync(context, Json.LoadObjectDocument).ConfigureAwait(false);
        string operation = $"load {load.Path} into {device}/{name}";
        if (!Doorkeeper.IsLocalUser(context))
        {
            throw new WayleaveException(
                Errno.EPERM, operation, "only the user of the host may name its files", "ask by its Unix socket");
        }

        if (!Path.IsPathFullyQualified(load.Path))
        {
            throw new WayleaveException(Errno.EINVAL, operation, "the path is not absolute");
        }

        NvmeHandle drive = host.Nvmes.FirstOrDefault(n => load.Drive is null || n.Name == load.Drive)
            ?? throw new WayleaveException(
                Errno.ENODEV,
                operation,
                load.Drive is null ? "the host has no drive" : $"the host has no drive {load.Drive}",
                host.Nvmes.Count == 0 ? null : $"it has {string.Join(", ", host.Nvmes.Select(n => n.Name))}");
        using CancellationTokenSource over = CancellationTokenSource
            .CreateLinkedTokenSource(context.RequestAborted, stopping);
        (_, DriveCopyResult result) = await new DriveCopy(host, drive)
            .LoadAsync(load.Path, device, name, load.DenyStaging, over.Token).ConfigureAwait(false);
        LoadedDocument document = new()
        {
            Drive = drive.Name,
            Device = device,
            Name = name,
            Bytes = result.Bytes,
            StagingBytes = result.StagingBytes,
            Route = result.Verdict.MapType,
            Distance = result.Verdict.Distance,
            StagingReason = result.Verdict.IsSupported ? null : result.Verdict.Refusal,
            ElapsedUs = (long)result.Elapsed.TotalMicroseconds,
        };
        await ControlRequest.WriteAsync(context, document, Json.LoadedDocument).ConfigureAwait(false);
    }
}
