using System.Buffers;
using System.Globalization;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Host.Audits;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;

namespace Wayleave.Host.Control;

// GET    /v1/host                            HostDocument
// GET    /v1/devices                         DevicesDocument
// GET    /v1/stats                           StatsDocument
// GET    /v1/objects                         ObjectsDocument
// POST   /v1/objects                         CreateObjectDocument -> ObjectDocument, in state writing
// DELETE /v1/objects/ID                      ProofDocument
// POST   /v1/objects/ID/leases               LeaseRequestDocument -> a stream of LeaseEventDocument
// POST   /v1/objects/ID/commit               CommitObjectDocument -> ObjectDocument, in state ready
// GET    /v1/objects/DEVICE/NAME             ObjectDocument
// GET    /v1/objects/DEVICE/NAME/sha256      DigestDocument
// POST   /v1/objects/DEVICE/NAME/evict       ObjectDocument
// POST   /v1/objects/DEVICE/NAME/restore     ObjectDocument
// POST   /v1/objects/DEVICE/NAME/revoke      RevokeObjectDocument -> ProofDocument
// POST   /v1/objects/DEVICE/NAME/audits      StartAuditDocument -> a stream of AuditEventDocument
// POST   /v1/objects/DEVICE/NAME/load        LoadObjectDocument -> LoadedDocument; by the Unix socket only
// POST   /v1/objects/DEVICE/NAME/transfers   OpenTransferDocument -> a stream of TransferEventDocument
// POST   /v1/transfers/ID/start              StartTransferDocument -> TransferDocument
// POST   /v1/leases/ID/connections           ReconnectDocument -> ConnectionEndDocument
// GET    /v1/audits/ID                       AuditFindingsDocument
// DELETE /v1/audits/ID                       AuditFindingsDocument, the last look
//
// A stream has one document per line, until either end leaves. What a client holds is tied to something that ends with
// the client: a lease, an audit and a transfer to their streams, an object that is being written to its lease, and an
// object without a lease to a timer.

/// <summary>
/// What the control server does for those who got in. Failures are exceptions; the listener turns them into answers.
/// </summary>
internal sealed class ControlEndpoints(WayleaveHost host, ControlListenerOptions options) : IDisposable
{
    private const int RevokeTimeoutMsMax = 3_600_000;
    private const int StallTimeoutMsMax = 86_400_000;

    private static readonly SearchValues<char> s_hexadecimal = SearchValues.Create("0123456789abcdef");

    private readonly CancellationTokenSource _stopping = new();
    private readonly UnleasedObjects _unleased = new(host.Objects, options);

    private static ControlJson Json => ControlJson.Default;

    /// <summary>Set once it listens.</summary>
    public ControlListener? Listener { get; set; }

    /// <summary>Ends all streams, and with them what clients hold.</summary>
    public void Stop() => _stopping.Cancel();

    public void Dispose()
    {
        _unleased.Dispose();
        _stopping.Dispose();
    }

    public void Map(IEndpointRouteBuilder routes)
    {
        new TopologyEndpoints(host).Map(routes);
        routes.MapGet("/v1/host", GetHostAsync);
        routes.MapGet("/v1/devices", c => WriteAsync(c, DeviceReports.Describe(host), Json.DevicesDocument));
        routes.MapGet("/v1/stats", c => WriteAsync(c, DeviceReports.Count(host), Json.StatsDocument));
        routes.MapGet("/v1/objects", GetObjectsAsync);
        routes.MapPost("/v1/objects", CreateAsync);
        routes.MapDelete("/v1/objects/{id}", DeleteAsync);
        routes.MapPost("/v1/objects/{id}/leases", LeaseAsync);
        routes.MapPost("/v1/objects/{id}/commit", CommitAsync);
        routes.MapGet("/v1/objects/{device}/{name}", c => WriteObjectAsync(c, FindByName(c)));
        routes.MapGet("/v1/objects/{device}/{name}/sha256", GetSha256Async);
        routes.MapPost("/v1/objects/{device}/{name}/evict", EvictAsync);
        routes.MapPost("/v1/objects/{device}/{name}/restore", RestoreAsync);
        routes.MapPost("/v1/objects/{device}/{name}/revoke", RevokeAsync);
        routes.MapPost("/v1/leases/{id}/connections", ReconnectAsync);
        routes.MapPost("/v1/objects/{device}/{name}/audits", StartAuditAsync);
        routes.MapPost("/v1/objects/{device}/{name}/load", LoadAsync);
        routes.MapPost("/v1/objects/{device}/{name}/transfers", OpenTransferAsync);
        routes.MapPost("/v1/transfers/{id}/start", StartTransferAsync);
        routes.MapGet("/v1/audits/{id}", InspectAuditAsync);
        routes.MapDelete("/v1/audits/{id}", EndAuditAsync);
    }

    private Task GetHostAsync(HttpContext context)
    {
        HostDocument document = new()
        {
            Name = host.Config.Name,
            Version = typeof(ControlEndpoints).Assembly
                .GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion,
            ProcessId = Environment.ProcessId,
            UptimeUs = (long)host.Context.Now.TotalMicroseconds,
            Control = Listener?.EndPoint.ToString() ?? "",
            Socket = Listener?.SocketPath,
            Violations = host.GetViolations() is { Count: > 0 } found ? [.. found.Select(v => v.ToString())] : null,
        };
        return WriteAsync(context, document, Json.HostDocument);
    }

    private Task GetObjectsAsync(HttpContext context)
    {
        IReadOnlyList<DeviceObject> objects = host.Objects.List();
        ObjectsDocument document;
        using (host.Context.Enter())
        {
            document = new ObjectsDocument { Host = host.Config.Name, Objects = [.. objects.Select(DescribeLocked)] };
        }

        return WriteAsync(context, document, Json.ObjectsDocument);
    }

    private async Task CreateAsync(HttpContext context)
    {
        CreateObjectDocument create = await ReadAsync(context, Json.CreateObjectDocument).ConfigureAwait(false);
        DeviceObject made = await host.Objects
            .CreateAsync(create.Device, create.Name, create.SizeBytes, create.Storage, context.RequestAborted)
            .ConfigureAwait(false);
        _unleased.Watch(made);
        context.Response.StatusCode = StatusCodes.Status201Created;
        await WriteObjectAsync(context, made).ConfigureAwait(false);
    }

    private async Task DeleteAsync(HttpContext context)
    {
        DeviceObject o = FindById(context);
        _unleased.Forget(o);
        RevokePolicy policy = new() { Reason = "deleted" };
        RetirementProof proof = await host.Objects.RevokeAsync(o, policy).ConfigureAwait(false);
        await WriteAsync(context, ProofDocument.From(proof), Json.ProofDocument).ConfigureAwait(false);
    }

    private async Task CommitAsync(HttpContext context)
    {
        DeviceObject o = FindById(context);
        CommitObjectDocument commit = await ReadAsync(context, Json.CommitObjectDocument).ConfigureAwait(false);
        if (commit.Sha256 is { } digest && (digest.Length != 64 || digest.AsSpan().ContainsAnyExcept(s_hexadecimal)))
        {
            throw new WayleaveException(
                Errno.EINVAL, $"commit {o}", "sha256 is not 64 digits in lower-case hexadecimal");
        }

        // The end of the writer's stream gives nothing up from here on: this request does, if it fails.
        host.Objects.BeginCommit(o);
        _unleased.Forget(o);
        try
        {
            await CheckAndCommitAsync(o, commit.Sha256, context.RequestAborted).ConfigureAwait(false);
        }
        catch
        {
            await host.Objects.RevokeAsync(o, new RevokePolicy { Reason = "its commit failed" }).ConfigureAwait(false);
            throw;
        }

        await WriteObjectAsync(context, o).ConfigureAwait(false);
    }

    private async Task CheckAndCommitAsync(DeviceObject o, string? sha256, CancellationToken cancellation)
    {
        // Whoever wrote is done: what is compared below must not change afterwards.
        foreach (Lease lease in host.Leases.List(o))
        {
            await host.Leases.EndAsync(lease).ConfigureAwait(false);
        }

        if (sha256 is not null)
        {
            string actual = await host.Objects.Sha256Async(o, cancellation).ConfigureAwait(false);
            if (actual != sha256)
            {
                throw new WayleaveException(
                    Errno.EIO, $"commit {o}", $"sha256 is {actual}, not {sha256}", "send it again");
            }
        }

        await host.Objects.CommitAsync(o, sha256).ConfigureAwait(false);
    }

    private async Task LoadAsync(HttpContext context)
    {
        (string device, string name) = ReadName(context);
        LoadObjectDocument load = await ReadAsync(context, Json.LoadObjectDocument).ConfigureAwait(false);
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
        using CancellationTokenSource over = UntilOver(context);
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
        await WriteAsync(context, document, Json.LoadedDocument).ConfigureAwait(false);
    }

    private async Task GetSha256Async(HttpContext context)
    {
        DeviceObject o = FindByName(context);
        string digest = await host.Objects.Sha256Async(o, context.RequestAborted).ConfigureAwait(false);
        DigestDocument document = new() { SizeBytes = o.SizeBytes, Sha256 = digest };
        await WriteAsync(context, document, Json.DigestDocument).ConfigureAwait(false);
    }

    private async Task EvictAsync(HttpContext context)
    {
        DeviceObject o = FindByName(context);
        await host.Objects.EvictAsync(o).ConfigureAwait(false);
        await WriteObjectAsync(context, o).ConfigureAwait(false);
    }

    private async Task RestoreAsync(HttpContext context)
    {
        DeviceObject o = FindByName(context);
        await host.Objects.RestoreAsync(o).ConfigureAwait(false);
        await WriteObjectAsync(context, o).ConfigureAwait(false);
    }

    private async Task RevokeAsync(HttpContext context)
    {
        (string device, string name) = ReadName(context);
        RevokeObjectDocument revoke = await ReadAsync(context, Json.RevokeObjectDocument).ConfigureAwait(false);
        string operation = $"revoke {device}/{name}";
        if (revoke.Grade < RetirementGrade.Acknowledged)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                "memory is never given out on time alone",
                "ask for Acknowledged, KeyDead, Drained or Retired");
        }

        if (revoke.TimeoutMs is < 0 or > RevokeTimeoutMsMax)
        {
            throw new WayleaveException(
                Errno.EINVAL, operation, $"timeout_ms is {revoke.TimeoutMs}; 0 to {RevokeTimeoutMsMax} are allowed");
        }

        // One that was taken back before and waits in quarantine is asked about by the same request.
        if (host.Objects.Find(device, name) is not { } o)
        {
            RetirementProof? earlier = host.Objects.List()
                .LastOrDefault(q => q.State == ObjectState.Quarantined && q.Device == device && q.Name == name)?.Proof;
            ProofDocument document = ProofDocument.From(earlier ?? throw NoSuchObject(device, name));
            await WriteAsync(context, document, Json.ProofDocument).ConfigureAwait(false);
            return;
        }

        TimeSpan timeout = TimeSpan.FromMilliseconds(revoke.TimeoutMs);
        RevokePolicy policy = new() { RequiredGrade = revoke.Grade, Timeout = timeout };
        policy = revoke.Reason is { } reason ? policy with { Reason = reason } : policy;
        RetirementProof proof = await host.Objects.RevokeAsync(o, policy).ConfigureAwait(false);
        await WriteAsync(context, ProofDocument.From(proof), Json.ProofDocument).ConfigureAwait(false);
    }

    private async Task LeaseAsync(HttpContext context)
    {
        DeviceObject o = FindById(context);
        LeaseRequestDocument request = await ReadAsync(context, Json.LeaseRequestDocument).ConfigureAwait(false);
        bool isWriter = request.Access != LeaseAccess.Read;
        if (!isWriter && IsBeingWritten(o))
        {
            throw new WayleaveException(
                Errno.EBUSY, $"lease {o} for reading", "it is being written", "wait until it is committed");
        }

        _unleased.Forget(o);
        try
        {
            LeaseRequest asked = new(request.Access, request.Region, request.Peer.ToEnd());
            Lease lease = await host.Leases.LendAsync(o, asked).ConfigureAwait(false);
            try
            {
                using CancellationTokenSource over = UntilOver(context);
                EventStream stream = new(context.Response);
                await new LeaseFeed(host, lease, options, stream).RunAsync(over.Token).ConfigureAwait(false);
            }
            finally
            {
                await host.Leases.EndAsync(lease).ConfigureAwait(false);
            }
        }
        finally
        {
            // However the stream ended: nothing half-written stays, and a commit that came first makes this do nothing.
            if (isWriter)
            {
                await host.Objects.AbortAsync(o, "its writer left before the commit").ConfigureAwait(false);
            }
        }
    }

    /// <summary>Cancelled when the client leaves or the host stops; the caller disposes it.</summary>
    private CancellationTokenSource UntilOver(HttpContext context) =>
        CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, _stopping.Token);

    private bool IsBeingWritten(DeviceObject o)
    {
        using (host.Context.Enter())
        {
            return o.State == ObjectState.Writing;
        }
    }

    private async Task ReconnectAsync(HttpContext context)
    {
        ulong id = ReadId(context);
        ReconnectDocument request = await ReadAsync(context, Json.ReconnectDocument).ConfigureAwait(false);
        Lease lease = host.Leases.Find(id)
            ?? throw new WayleaveException(Errno.ENOENT, $"reconnect lease {id}", "it has ended", "ask for a new one");
        ConnectionEnd local = host.Leases.Reconnect(lease, request.Peer.ToEnd());
        await WriteAsync(context, ConnectionEndDocument.From(local), Json.ConnectionEndDocument).ConfigureAwait(false);
    }

    private async Task StartAuditAsync(HttpContext context)
    {
        DeviceObject o = FindByName(context);
        StartAuditDocument start = await ReadAsync(context, Json.StartAuditDocument).ConfigureAwait(false);
        RevokePolicy policy =
            new() { Timeout = TimeSpan.FromMilliseconds(Math.Clamp(start.TimeoutMs, 0, RevokeTimeoutMsMax)) };
        policy = start.Reason is { } reason ? policy with { Reason = reason } : policy;
        using CancellationTokenSource over = UntilOver(context);
        TakeBackAudit audit = await host.Audits.StartAsync(o, policy, start.Seed, over.Token).ConfigureAwait(false);
        try
        {
            EventStream stream = new(context.Response);
            await new AuditFeed(host, audit, options, stream).RunAsync(over.Token).ConfigureAwait(false);
        }
        finally
        {
            await host.Audits.EndAsync(audit).ConfigureAwait(false);
        }
    }

    private async Task InspectAuditAsync(HttpContext context)
    {
        TakeBackAudit audit = host.Audits.Find(ReadId(context));
        AuditFindings seen = await audit.InspectAsync().ConfigureAwait(false);
        AuditFindingsDocument findings = AuditFindingsDocument.From(seen, audit.Regions);
        await WriteAsync(context, findings, Json.AuditFindingsDocument).ConfigureAwait(false);
    }

    private async Task EndAuditAsync(HttpContext context)
    {
        TakeBackAudit audit = host.Audits.Find(ReadId(context));
        AuditFindings seen = await audit.InspectAsync().ConfigureAwait(false);
        AuditFindingsDocument findings = AuditFindingsDocument.From(seen, audit.Regions);
        await host.Audits.EndAsync(audit).ConfigureAwait(false);
        await WriteAsync(context, findings, Json.AuditFindingsDocument).ConfigureAwait(false);
    }

    private async Task OpenTransferAsync(HttpContext context)
    {
        DeviceObject o = FindByName(context);
        OpenTransferDocument open = await ReadAsync(context, Json.OpenTransferDocument).ConfigureAwait(false);
        if (open.ObjectId != o.Id)
        {
            throw new WayleaveException(
                Errno.ENODEV, $"send {o}", $"it is object {o.Id} and not {open.ObjectId} any more", "start again");
        }

        using CancellationTokenSource over = UntilOver(context);
        OutgoingTransfer transfer = await host.Transfers.OpenAsync(o).ConfigureAwait(false);
        try
        {
            EventStream stream = new(context.Response);
            await new TransferFeed(host, transfer, options, stream).RunAsync(over.Token).ConfigureAwait(false);
        }
        finally
        {
            await host.Transfers.EndAsync(transfer).ConfigureAwait(false);
        }
    }

    private async Task StartTransferAsync(HttpContext context)
    {
        OutgoingTransfer transfer = host.Transfers.Find(ReadId(context));
        StartTransferDocument start = await ReadAsync(context, Json.StartTransferDocument).ConfigureAwait(false);
        string operation = $"start transfer {transfer.Id} of {transfer.Source}";
        if (start.LengthBytes < transfer.Source.SizeBytes)
        {
            throw new WayleaveException(
                Errno.ERANGE, operation, $"{start.LengthBytes} bytes do not hold {transfer.Source.SizeBytes}");
        }

        if (start.StallTimeoutMs is not -1 and (<= 0 or > StallTimeoutMsMax))
        {
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                $"stall_timeout_ms is {start.StallTimeoutMs}; 1 to {StallTimeoutMsMax} are allowed, and -1 for none");
        }

        TransferTarget target = new(start.Peer.ToEnd(), start.Rkey, start.Va);
        transfer.Start(target, TimeSpan.FromMilliseconds(start.StallTimeoutMs));
        await WriteAsync(context, TransferDocument.From(transfer), Json.TransferDocument).ConfigureAwait(false);
    }

    private DeviceObject FindByName(HttpContext context)
    {
        (string device, string name) = ReadName(context);
        return host.Objects.Find(device, name) ?? throw NoSuchObject(device, name);
    }

    private DeviceObject FindById(HttpContext context)
    {
        ulong id = ReadId(context);
        return host.Objects.Find(id)
            ?? throw new WayleaveException(
                Errno.ENOENT, $"find object {id}", "it was given up or taken back", "start again with a new one");
    }

    private static WayleaveException NoSuchObject(string device, string name) =>
        new(Errno.ENOENT, $"find {device}/{name}", "there is no such object", "wayleave ls shows what there is");

    private static (string Device, string Name) ReadName(HttpContext context) =>
        ((string)context.Request.RouteValues["device"]!, (string)context.Request.RouteValues["name"]!);

    private static ulong ReadId(HttpContext context)
    {
        string text = (string)context.Request.RouteValues["id"]!;
        return ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out ulong id)
            ? id
            : throw new WayleaveException(Errno.EINVAL, DescribeRequest(context), $"'{text}' is not a number");
    }

    private static string DescribeRequest(HttpContext context) => $"{context.Request.Method} {context.Request.Path}";

    /// <summary>Reads a body. JSON must say that it is: a form that a foreign page sends cannot.</summary>
    internal static async Task<T> ReadAsync<T>(HttpContext context, JsonTypeInfo<T> type)
        where T : class
    {
        string operation = DescribeRequest(context);
        if (!context.Request.HasJsonContentType())
        {
            throw new WayleaveException(Errno.EINVAL, operation, "the body must have Content-Type: application/json");
        }

        return await JsonSerializer
            .DeserializeAsync(context.Request.Body, type, context.RequestAborted).ConfigureAwait(false)
            ?? throw new WayleaveException(Errno.EINVAL, operation, "the body is null");
    }

    private Task WriteObjectAsync(HttpContext context, DeviceObject o)
    {
        ObjectDocument document;
        using (host.Context.Enter())
        {
            document = DescribeLocked(o);
        }

        return WriteAsync(context, document, Json.ObjectDocument);
    }

    internal static Task WriteAsync<T>(HttpContext context, T document, JsonTypeInfo<T> type) =>
        context.Response.WriteAsJsonAsync(document, type, cancellationToken: context.RequestAborted);

    private static ObjectDocument DescribeLocked(DeviceObject o) => new()
    {
        Id = o.Id,
        Device = o.Device,
        Name = o.Name,
        SizeBytes = o.SizeBytes,
        State = o.State,
        Storage = o.Storage,
        Placement = o.Placement,
        Moves = o.Moves,
        CreatedAt = o.CreatedAt,
        Sha256 = o.Sha256,
    };
}
