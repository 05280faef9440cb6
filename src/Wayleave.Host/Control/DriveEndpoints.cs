using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;

namespace Wayleave.Host.Control;

// POST   /v1/objects/DEVICE/NAME/load        LoadObjectDocument -> DriveCopyDocument; by the Unix socket only
// POST   /v1/objects/DEVICE/NAME/save        SaveObjectDocument -> DriveCopyDocument; by the Unix socket only
// POST   /v1/objects/ID/file                 OpenFileDocument -> the same
// POST   /v1/objects/ID/file/writes          WriteFileDocument -> the same
// POST   /v1/objects/ID/file/commit          CommitObjectDocument -> StoredFileDocument

/// <summary>
/// What the drives of a host do with files: of its machine, for its own user alone; in a drive's folder, for peers.
/// </summary>
internal sealed class DriveEndpoints(WayleaveHost host, CancellationToken stopping)
{
    internal const int StallTimeoutMsDefault = 30_000;

    private static ControlJson Json => ControlJson.Default;

    public void Map(IEndpointRouteBuilder routes)
    {
        StartsWork.Mark(routes.MapPost("/v1/objects/{device}/{name}/load", LoadAsync));
        StartsWork.Mark(routes.MapPost("/v1/objects/{device}/{name}/save", SaveAsync));
        StartsWork.Mark(routes.MapPost("/v1/objects/{id}/file", OpenFileAsync));
        routes.MapPost("/v1/objects/{id}/file/writes", WriteFileAsync);
        routes.MapPost("/v1/objects/{id}/file/commit", CommitFileAsync);
    }

    private async Task LoadAsync(HttpContext context)
    {
        (string device, string name) = ControlRequest.ReadName(context);
        LoadObjectDocument load = await ControlRequest
            .ReadAsync(context, Json.LoadObjectDocument).ConfigureAwait(false);
        string operation = $"load {load.Path} into {device}/{name}";
        Check(context, operation, load.Path);
        (NvmeHandle drive, DriveCopy copy) = Prepare(operation, load.Drive, load.StallTimeoutMs);
        using CancellationTokenSource over = UntilOver(context);
        (_, DriveCopyResult result) = await copy
            .LoadAsync(load.Path, device, name, load.DenyStaging, over.Token).ConfigureAwait(false);
        await AnswerAsync(context, Describe("wayleave.load.v1", drive, device, name, result)).ConfigureAwait(false);
    }

    private async Task SaveAsync(HttpContext context)
    {
        (string device, string name) = ControlRequest.ReadName(context);
        SaveObjectDocument save = await ControlRequest
            .ReadAsync(context, Json.SaveObjectDocument).ConfigureAwait(false);
        string operation = $"save {device}/{name} to {save.Path}";
        Check(context, operation, save.Path);
        (NvmeHandle drive, DriveCopy copy) = Prepare(operation, save.Drive, save.StallTimeoutMs);
        DeviceObject o = ControlRequest.FindByName(host, context);
        using CancellationTokenSource over = UntilOver(context);
        DriveCopyResult result = await copy
            .SaveAsync(o, save.Path, save.DenyStaging, over.Token).ConfigureAwait(false);
        await AnswerAsync(context, Describe("wayleave.save.v1", drive, device, name, result)).ConfigureAwait(false);
    }

    private async Task OpenFileAsync(HttpContext context)
    {
        DeviceObject window = ControlRequest.FindById(host, context);
        OpenFileDocument open = await ControlRequest.ReadAsync(context, Json.OpenFileDocument).ConfigureAwait(false);
        await host.Files.OpenAsync(window, open.SizeBytes, context.RequestAborted).ConfigureAwait(false);
        await ControlRequest.WriteAsync(context, open, Json.OpenFileDocument).ConfigureAwait(false);
    }

    private async Task WriteFileAsync(HttpContext context)
    {
        DeviceObject window = ControlRequest.FindById(host, context);
        WriteFileDocument write = await ControlRequest
            .ReadAsync(context, Json.WriteFileDocument).ConfigureAwait(false);
        using CancellationTokenSource over = UntilOver(context);
        await host.Files
            .WriteAsync(window, write.WindowOffset, write.FileOffset, write.LengthBytes, over.Token)
            .ConfigureAwait(false);
        await ControlRequest.WriteAsync(context, write, Json.WriteFileDocument).ConfigureAwait(false);
    }

    private async Task CommitFileAsync(HttpContext context)
    {
        DeviceObject window = ControlRequest.FindById(host, context);
        CommitObjectDocument commit = await ControlRequest
            .ReadAsync(context, Json.CommitObjectDocument).ConfigureAwait(false);
        using CancellationTokenSource over = UntilOver(context);
        StoredFile stored = await host.Files.CommitAsync(window, commit.Sha256, over.Token).ConfigureAwait(false);
        StoredFileDocument document = new()
        {
            Drive = window.Device,
            Name = window.Name,
            Bytes = stored.Bytes,
            Sha256 = stored.Sha256,
            StagingBytes = stored.StagingBytes,
            MemoryBuffer = ProofDocument.From(stored.Proof),
        };
        await ControlRequest.WriteAsync(context, document, Json.StoredFileDocument).ConfigureAwait(false);
    }

    /// <summary>Whether the client may name a file of the host's machine.</summary>
    internal static void Check(HttpContext context, string operation, string path)
    {
        if (!Doorkeeper.IsLocalUser(context))
        {
            throw new WayleaveException(
                Errno.EPERM, operation, "only the user of the host may name its files", "ask by its Unix socket");
        }

        if (!Path.IsPathFullyQualified(path))
        {
            throw new WayleaveException(Errno.EINVAL, operation, "the path is not absolute");
        }
    }

    private (NvmeHandle Drive, DriveCopy Copy) Prepare(string operation, string? name, int stallTimeoutMs)
    {
        HoldEndpoints.CheckStallTimeout(operation, stallTimeoutMs);
        NvmeHandle[] drives = [.. host.Nvmes.Where(n => n.Presence.IsPresent)];
        NvmeHandle drive = drives.FirstOrDefault(n => name is null || n.Name == name)
            ?? throw new WayleaveException(
                Errno.ENODEV,
                operation,
                name is null ? "the host has no drive" : $"the host has no drive {name}",
                drives.Length == 0 ? null : $"it has {string.Join(", ", drives.Select(n => n.Name))}");
        return (drive, new DriveCopy(host, drive) { StallMax = TimeSpan.FromMilliseconds(stallTimeoutMs) });
    }

    private CancellationTokenSource UntilOver(HttpContext context) =>
        CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, stopping);

    private static DriveCopyDocument Describe(
        string schema, NvmeHandle drive, string device, string name, DriveCopyResult result) => new()
        {
            Schema = schema,
            Drive = drive.Name,
            Device = device,
            Name = name,
            Bytes = result.Bytes,
            StagingBytes = result.StagingBytes,
            Route = result.Verdict.MapType,
            Distance = result.Verdict.Distance,
            StagingReason = result.StagingBytes == 0 ? null : result.Verdict.Refusal,
            ElapsedUs = (long)result.Elapsed.TotalMicroseconds,
        };

    private static Task AnswerAsync(HttpContext context, DriveCopyDocument document) =>
        ControlRequest.WriteAsync(context, document, Json.DriveCopyDocument);
}
