using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Compute;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Control;

// GET    /v1/compute                                 ComputeDocument
// POST   /v1/gpus/DEVICE/contexts                    OpenContextDocument -> a stream of ContextEventDocument
// POST   /v1/contexts/ID/buffers                     OpenBufferDocument -> BufferHandleDocument
// DELETE /v1/contexts/ID/buffers/HANDLE              ContextDocument
// POST   /v1/contexts/ID/memory                      AllocateMemoryDocument -> BufferHandleDocument
// POST   /v1/contexts/ID/memory/watched              TakeOverMemoryDocument -> BufferHandleDocument
// POST   /v1/contexts/ID/memory/shared               ShareMemoryDocument -> BufferHandleDocument
// POST   /v1/contexts/ID/queues                      CreateQueueDocument -> QueueDocument
// GET    /v1/contexts/ID/queues/QUEUE                QueueDocument
// POST   /v1/contexts/ID/queues/QUEUE/doorbell       DoorbellDocument -> QueueDocument
// POST   /v1/contexts/ID/jobs                        SubmitJobDocument -> JobDocument
// POST   /v1/contexts/ID/jobs/JOB/wait               WaitJobDocument -> JobDocument
//
// What a client has of a GPU is tied to the stream of its context.

/// <summary>Commands of clients on the GPUs of a host.</summary>
internal sealed class ComputeEndpoints(WayleaveHost host, ControlListenerOptions options, CancellationToken stopping)
{
    private const int WaitMsMax = 60_000;

    private static ControlJson Json => ControlJson.Default;

    public void Map(IEndpointRouteBuilder routes)
    {
        routes.MapGet(
            "/v1/compute", c => ControlRequest.WriteAsync(c, ComputeReports.Describe(host), Json.ComputeDocument));
        routes.MapPost("/v1/gpus/{device}/contexts", OpenAsync);
        routes.MapPost("/v1/contexts/{id}/buffers", OpenBufferAsync);
        routes.MapDelete("/v1/contexts/{id}/buffers/{handle}", CloseBufferAsync);
        routes.MapPost("/v1/contexts/{id}/memory", AllocateAsync);
        routes.MapPost("/v1/contexts/{id}/memory/watched", TakeOverAsync);
        routes.MapPost("/v1/contexts/{id}/memory/shared", ShareAsync);
        routes.MapPost("/v1/contexts/{id}/queues", CreateQueueAsync);
        routes.MapGet("/v1/contexts/{id}/queues/{queue}", GetQueueAsync);
        routes.MapPost("/v1/contexts/{id}/queues/{queue}/doorbell", RingDoorbellAsync);
        routes.MapPost("/v1/contexts/{id}/jobs", SubmitAsync);
        routes.MapPost("/v1/contexts/{id}/jobs/{job}/wait", WaitAsync);
    }

    private async Task OpenAsync(HttpContext http)
    {
        string device = (string)http.Request.RouteValues["device"]!;
        OpenContextDocument open = await ControlRequest
            .ReadAsync(http, Json.OpenContextDocument).ConfigureAwait(false);
        GpuHandle gpu = host.Gpus.FirstOrDefault(g => g.Name == device && g.Presence.IsPresent)
            ?? throw new WayleaveException(
                Errno.ENODEV,
                $"open {device} for compute",
                "the host has no such GPU",
                $"it has {string.Join(", ", host.Gpus.Where(g => g.Presence.IsPresent).Select(g => g.Name))}");
        using CancellationTokenSource over =
            CancellationTokenSource.CreateLinkedTokenSource(http.RequestAborted, stopping);
        ComputeContext context = await host.Compute
            .OpenAsync(gpu, open.Name, Doorkeeper.OpenLocalProcess(http), over.Token).ConfigureAwait(false);
        try
        {
            await FeedAsync(context, new EventStream(http.Response), over.Token).ConfigureAwait(false);
        }
        finally
        {
            await host.Compute.CloseAsync(context, "its client left").ConfigureAwait(false);
        }
    }

    private async Task FeedAsync(ComputeContext context, EventStream stream, CancellationToken over)
    {
        ContextDocument document;
        using (host.Context.Enter())
        {
            document = ContextDocument.From(context);
        }

        await WriteAsync(ContextEventKind.Context, null, document).ConfigureAwait(false);
        using PeriodicTimer timer = new(options.HeartbeatInterval, options.Clock);
        try
        {
            while (await timer.WaitForNextTickAsync(over).ConfigureAwait(false))
            {
                if (context.Ended is { } reason)
                {
                    await WriteAsync(ContextEventKind.Ended, reason).ConfigureAwait(false);
                    return;
                }

                await WriteAsync(ContextEventKind.Heartbeat).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException) when (!stream.HasClientLeft)
        {
            await WriteAsync(ContextEventKind.Ended, "the host stops").ConfigureAwait(false);
        }

        Task WriteAsync(ContextEventKind kind, string? reason = null, ContextDocument? first = null) =>
            stream.WriteAsync(
                new ContextEventDocument
                {
                    Event = kind,
                    AtUs = ProofDocument.ToMicroseconds(host.Context.Now),
                    Reason = reason,
                    Context = first,
                },
                Json.ContextEventDocument);
    }

    private async Task OpenBufferAsync(HttpContext http)
    {
        ComputeContext context = Find(http);
        OpenBufferDocument open = await ControlRequest.ReadAsync(http, Json.OpenBufferDocument).ConfigureAwait(false);
        DeviceObject o = host.Objects.Find(open.Device, open.Name)
            ?? throw ControlRequest.NoSuchObject(open.Device, open.Name);
        GpuAccess access = open.Write ? GpuAccess.ReadWrite : GpuAccess.Read;
        BufferHandleDocument handle = BufferHandleDocument.From(host.Compute.OpenBuffer(context, o, access));
        await ControlRequest.WriteAsync(http, handle, Json.BufferHandleDocument).ConfigureAwait(false);
    }

    private async Task CloseBufferAsync(HttpContext http)
    {
        ComputeContext context = Find(http);
        ulong handle = ControlRequest.ReadNumber(http, "handle");
        await host.Compute.CloseBufferAsync(context, handle <= uint.MaxValue ? (uint)handle : 0).ConfigureAwait(false);
        await ControlRequest.WriteAsync(http, ContextDocument.From(context), Json.ContextDocument)
            .ConfigureAwait(false);
    }

    private async Task AllocateAsync(HttpContext http)
    {
        ComputeContext context = Find(http);
        AllocateMemoryDocument allocate = await ControlRequest
            .ReadAsync(http, Json.AllocateMemoryDocument).ConfigureAwait(false);
        ContextBuffer made = await host.Compute.Memory.AllocateAsync(context, allocate.SizeBytes).ConfigureAwait(false);
        await ControlRequest.WriteAsync(http, BufferHandleDocument.From(made), Json.BufferHandleDocument)
            .ConfigureAwait(false);
    }

    private async Task TakeOverAsync(HttpContext http)
    {
        ComputeContext context = Find(http);
        TakeOverMemoryDocument take = await ControlRequest
            .ReadAsync(http, Json.TakeOverMemoryDocument).ConfigureAwait(false);
        ContextBuffer made = await host.Compute.Memory
            .TakeOverAsync(context, new AddressRange(take.Va, take.SizeBytes), (take.Events, take.Memory))
            .ConfigureAwait(false);
        await ControlRequest.WriteAsync(http, BufferHandleDocument.From(made), Json.BufferHandleDocument)
            .ConfigureAwait(false);
    }

    private async Task ShareAsync(HttpContext http)
    {
        ComputeContext context = Find(http);
        ShareMemoryDocument share = await ControlRequest
            .ReadAsync(http, Json.ShareMemoryDocument).ConfigureAwait(false);
        ContextBuffer made = host.Compute.Memory.Share(context, host.Compute.Find(share.Context), share.Handle);
        await ControlRequest.WriteAsync(http, BufferHandleDocument.From(made), Json.BufferHandleDocument)
            .ConfigureAwait(false);
    }

    private async Task CreateQueueAsync(HttpContext http)
    {
        ComputeContext context = Find(http);
        CreateQueueDocument create = await ControlRequest
            .ReadAsync(http, Json.CreateQueueDocument).ConfigureAwait(false);
        ContextQueue queue = create.RingAddress is { } address
            ? host.Compute.CreateUserQueue(
                context, create.Name, create.Priority, address, create.RingCommands, create.Engine)
            : host.Compute.CreateQueue(context, create.Name, create.Priority, create.Engine);
        await WriteAsync(http, queue).ConfigureAwait(false);
    }

    private Task GetQueueAsync(HttpContext http) =>
        WriteAsync(http, host.Compute.FindQueue(Find(http), ControlRequest.ReadNumber(http, "queue")));

    private async Task RingDoorbellAsync(HttpContext http)
    {
        ContextQueue queue = host.Compute.FindQueue(Find(http), ControlRequest.ReadNumber(http, "queue"));
        DoorbellDocument bell = await ControlRequest.ReadAsync(http, Json.DoorbellDocument).ConfigureAwait(false);
        if (queue.Ring is not { } ring)
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP,
                ControlRequest.DescribeRequest(http),
                $"{queue.Name} is no ring",
                "submit jobs to it");
        }

        ring.RingDoorbell(bell.WrittenCommands);
        await WriteAsync(http, queue).ConfigureAwait(false);
    }

    private async Task SubmitAsync(HttpContext http)
    {
        ComputeContext context = Find(http);
        SubmitJobDocument submit = await ControlRequest.ReadAsync(http, Json.SubmitJobDocument).ConfigureAwait(false);
        const int TimeoutMsMax = ControlEndpoints.RevokeTimeoutMsMax;
        if (submit.SubmitTimeoutMs is < 0 or > TimeoutMsMax)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                $"submit to {context}",
                $"submit_timeout_ms is {submit.SubmitTimeoutMs}; 0 to {TimeoutMsMax} are allowed");
        }

        ContextQueue queue = host.Compute.FindQueue(context, submit.Queue);
        JobRequest request = new(
            submit.Commands,
            submit.After,
            submit.Signal,
            TimeSpan.FromMilliseconds(submit.SubmitTimeoutMs),
            submit.Results);
        ContextJob job = await host.Compute.Jobs.SubmitAsync(context, queue, request).ConfigureAwait(false);
        await WriteAsync(http, job, null).ConfigureAwait(false);
    }

    private async Task WaitAsync(HttpContext http)
    {
        ComputeContext context = Find(http);
        ContextJob job = host.Compute.Jobs.FindJob(context, ControlRequest.ReadNumber(http, "job"));
        WaitJobDocument wait = await ControlRequest.ReadAsync(http, Json.WaitJobDocument).ConfigureAwait(false);
        TimeSpan timeout = TimeSpan.FromMilliseconds(Math.Clamp(wait.TimeoutMs, 0, WaitMsMax));
        await job.WaitAsync(timeout, http.RequestAborted).ConfigureAwait(false);
        bool hasEndedWell;
        using (host.Context.Enter())
        {
            hasEndedWell = job.State == ContextJobState.Done;
        }

        uint[]? results = hasEndedWell && job.Request.Results > 0
            ? await host.Compute.Jobs.ReadResultsAsync(context, job.Request.Results, http.RequestAborted)
                .ConfigureAwait(false)
            : null;
        await WriteAsync(http, job, results).ConfigureAwait(false);
    }

    private ComputeContext Find(HttpContext http) => host.Compute.Find(ControlRequest.ReadId(http));

    private Task WriteAsync(HttpContext http, ContextQueue queue)
    {
        QueueDocument document;
        using (host.Context.Enter())
        {
            document = ComputeReports.DescribeLocked(queue);
        }

        return ControlRequest.WriteAsync(http, document, Json.QueueDocument);
    }

    private Task WriteAsync(HttpContext http, ContextJob job, uint[]? results)
    {
        JobDocument document;
        using (host.Context.Enter())
        {
            document = ComputeReports.DescribeLocked(job, results);
        }

        return ControlRequest.WriteAsync(http, document, Json.JobDocument);
    }
}
