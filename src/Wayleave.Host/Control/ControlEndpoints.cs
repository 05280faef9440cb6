using System.Buffers;
using System.Reflection;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Control;

// GET    /v1/host                            HostDocument
// GET    /v1/devices                         DevicesDocument
// GET    /v1/buffers                         BuffersDocument
// GET    /v1/stats                           StatsDocument
// GET    /v1/activity                        ActivityDocument
// GET    /v1/objects                         ObjectsDocument
// POST   /v1/objects                         CreateObjectDocument -> ObjectDocument, in state writing
// DELETE /v1/objects/ID                      ProofDocument
// POST   /v1/objects/ID/commit               CommitObjectDocument -> ObjectDocument, in state ready
// GET    /v1/objects/DEVICE/NAME             ObjectDocument
// GET    /v1/objects/DEVICE/NAME/sha256      DigestDocument
// POST   /v1/objects/DEVICE/NAME/evict       ObjectDocument
// POST   /v1/objects/DEVICE/NAME/restore     ObjectDocument
// POST   /v1/objects/DEVICE/NAME/revoke      RevokeObjectDocument -> ProofDocument
//
// An object that is being written is tied to its writer's lease, and one without a lease to a timer. What else a client
// holds: HoldEndpoints. Files and drives: DriveEndpoints. Routes: TopologyEndpoints. Handles: ResourceEndpoints.
// Commands on GPUs: ComputeEndpoints. Receptions and sends: NetEndpoints.

/// <summary>
/// What the control server does for those who got in. Failures are exceptions; the listener turns them into answers.
/// </summary>
internal sealed class ControlEndpoints(WayleaveHost host, ControlListenerOptions options) : IDisposable
{
    internal const int RevokeTimeoutMsMax = 3_600_000;

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
        new HoldEndpoints(host, options, _unleased, _stopping.Token).Map(routes);
        new DriveEndpoints(host, _stopping.Token).Map(routes);
        new DeviceEndpoints(host, _stopping.Token).Map(routes);
        new ResourceEndpoints(host, options, _stopping.Token).Map(routes);
        new ComputeEndpoints(host, options, _stopping.Token).Map(routes);
        new RegionEndpoints(host).Map(routes);
        new NetEndpoints(host, options, _stopping.Token).Map(routes);
        new EthtoolEndpoints(host).Map(routes);
        routes.MapGet("/v1/host", GetHostAsync);
        routes.MapGet(
            "/v1/buffers", c => ControlRequest.WriteAsync(c, BufferReports.Describe(host), Json.BuffersDocument));
        routes.MapGet(
            "/v1/devices", c => ControlRequest.WriteAsync(c, DeviceReports.Describe(host), Json.DevicesDocument));
        routes.MapGet("/v1/stats", c => ControlRequest.WriteAsync(c, DeviceReports.Count(host), Json.StatsDocument));
        routes.MapGet(
            "/v1/activity",
            c => ControlRequest.WriteAsync(c, ActivityReports.Describe(host), Json.ActivityDocument));
        routes.MapGet("/v1/objects", GetObjectsAsync);
        StartsWork.Mark(routes.MapPost("/v1/objects", CreateAsync));
        routes.MapDelete("/v1/objects/{id}", DeleteAsync);
        routes.MapPost("/v1/objects/{id}/commit", CommitAsync);
        routes.MapGet("/v1/objects/{device}/{name}", c => WriteObjectAsync(c, ControlRequest.FindByName(host, c)));
        routes.MapGet("/v1/objects/{device}/{name}/sha256", GetSha256Async);
        routes.MapPost("/v1/objects/{device}/{name}/evict", EvictAsync);
        routes.MapPost("/v1/objects/{device}/{name}/restore", RestoreAsync);
        routes.MapPost("/v1/objects/{device}/{name}/revoke", RevokeAsync);
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
        return ControlRequest.WriteAsync(context, document, Json.HostDocument);
    }

    private Task GetObjectsAsync(HttpContext context)
    {
        IReadOnlyList<DeviceObject> objects = host.Objects.List();
        ObjectsDocument document;
        using (host.Context.Enter())
        {
            document = new ObjectsDocument { Host = host.Config.Name, Objects = [.. objects.Select(DescribeLocked)] };
        }

        return ControlRequest.WriteAsync(context, document, Json.ObjectsDocument);
    }

    private async Task CreateAsync(HttpContext context)
    {
        CreateObjectDocument create = await ControlRequest
            .ReadAsync(context, Json.CreateObjectDocument).ConfigureAwait(false);
        DeviceObject made = await host.Objects
            .CreateAsync(create.Device, create.Name, create.SizeBytes, create.Storage, context.RequestAborted)
            .ConfigureAwait(false);
        if (context.RequestAborted.IsCancellationRequested) // while its memory was cleared
        {
            await host.Objects.AbortAsync(made, "who asked for it left").ConfigureAwait(false);
            return;
        }

        _unleased.Watch(made);
        context.Response.StatusCode = StatusCodes.Status201Created;
        await WriteObjectAsync(context, made).ConfigureAwait(false);
    }

    private async Task DeleteAsync(HttpContext context)
    {
        DeviceObject o = ControlRequest.FindById(host, context);
        _unleased.Forget(o);
        RevokePolicy policy = new() { Reason = "deleted" };
        RetirementProof proof = await host.Objects.RevokeAsync(o, policy).ConfigureAwait(false);
        await ControlRequest.WriteAsync(context, ProofDocument.From(proof), Json.ProofDocument).ConfigureAwait(false);
    }

    private async Task CommitAsync(HttpContext context)
    {
        DeviceObject o = ControlRequest.FindById(host, context);
        CommitObjectDocument commit = await ControlRequest
            .ReadAsync(context, Json.CommitObjectDocument).ConfigureAwait(false);
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

    private async Task GetSha256Async(HttpContext context)
    {
        DeviceObject o = ControlRequest.FindByName(host, context);
        string digest = await host.Objects.Sha256Async(o, context.RequestAborted).ConfigureAwait(false);
        DigestDocument document = new() { SizeBytes = o.SizeBytes, Sha256 = digest };
        await ControlRequest.WriteAsync(context, document, Json.DigestDocument).ConfigureAwait(false);
    }

    private async Task EvictAsync(HttpContext context)
    {
        DeviceObject o = ControlRequest.FindByName(host, context);
        await host.Objects.EvictAsync(o).ConfigureAwait(false);
        await WriteObjectAsync(context, o).ConfigureAwait(false);
    }

    private async Task RestoreAsync(HttpContext context)
    {
        DeviceObject o = ControlRequest.FindByName(host, context);
        await host.Objects.RestoreAsync(o).ConfigureAwait(false);
        await WriteObjectAsync(context, o).ConfigureAwait(false);
    }

    private async Task RevokeAsync(HttpContext context)
    {
        (string device, string name) = ControlRequest.ReadName(context);
        RevokeObjectDocument revoke = await ControlRequest
            .ReadAsync(context, Json.RevokeObjectDocument).ConfigureAwait(false);
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
        if ((host.Objects.Find(device, name) ?? host.Objects.FindWindow(device, name)) is not { } o)
        {
            RetirementProof? earlier = host.Objects.List()
                .LastOrDefault(q => q.State == ObjectState.Quarantined && q.Device == device && q.Name == name)?.Proof;
            ProofDocument document = ProofDocument.From(earlier ?? throw ControlRequest.NoSuchObject(device, name));
            await ControlRequest.WriteAsync(context, document, Json.ProofDocument).ConfigureAwait(false);
            return;
        }

        host.Leases.ThrowIfCannotBeTakenBack(o);
        TimeSpan timeout = TimeSpan.FromMilliseconds(revoke.TimeoutMs);
        RevokePolicy policy = new() { RequiredGrade = revoke.Grade, Timeout = timeout };
        policy = revoke.Reason is { } reason ? policy with { Reason = reason } : policy;
        RetirementProof proof = await host.Objects.RevokeAsync(o, policy).ConfigureAwait(false);
        await ControlRequest.WriteAsync(context, ProofDocument.From(proof), Json.ProofDocument).ConfigureAwait(false);
    }

    private Task WriteObjectAsync(HttpContext context, DeviceObject o)
    {
        ObjectDocument document;
        using (host.Context.Enter())
        {
            document = DescribeLocked(o);
        }

        return ControlRequest.WriteAsync(context, document, Json.ObjectDocument);
    }

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
