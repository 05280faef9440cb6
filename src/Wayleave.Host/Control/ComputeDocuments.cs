using System.Text.Json.Serialization;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Compute;

namespace Wayleave.Host.Control;

/// <summary>
/// <c>POST /v1/gpus/{device}/contexts</c>: use a GPU; answered by a stream of <see cref="ContextEventDocument"/>, one
/// per line. The context lasts as long as the stream.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record OpenContextDocument
{
    /// <summary>For people.</summary>
    public required string Name { get; init; }
}

/// <summary>What a line of the stream of a context says.</summary>
public enum ContextEventKind
{
    /// <summary>The first line.</summary>
    Context,

    Heartbeat,

    /// <summary>
    /// The last line, unless the client leaves first: the GPU was pulled out, the host stops, or a policy ended the
    /// client.
    /// </summary>
    Ended,
}

/// <summary>A line of the stream of a context.</summary>
public sealed record ContextEventDocument
{
    public required ContextEventKind Event { get; init; }

    public required double AtUs { get; init; }

    public string? Reason { get; init; }

    /// <summary>In the first line.</summary>
    public ContextDocument? Context { get; init; }
}

/// <summary>A client's use of a GPU.</summary>
public sealed record ContextDocument
{
    public required ulong Id { get; init; }

    public required string Gpu { get; init; }

    /// <summary>Whether commands name handles and offsets, or addresses.</summary>
    public required GpuCommandMode Mode { get; init; }

    /// <summary>How long a job may have the engine before it is ended.</summary>
    public required long HangLimitMs { get; init; }

    /// <summary>Where commands leave words for <see cref="SubmitJobDocument.Results"/>.</summary>
    public required BufferHandleDocument Results { get; init; }

    internal static ContextDocument From(ComputeContext context) => new()
    {
        Id = context.Id,
        Gpu = context.Gpu.Name,
        Mode = context.Gpu.Compute.Mode,
        HangLimitMs = (long)context.Gpu.Compute.HangLimit.TotalMilliseconds,
        Results = BufferHandleDocument.From(context.Buffers[0]),
    };
}

/// <summary>
/// <c>POST /v1/contexts/{id}/buffers</c>: let commands use an object; answered by
/// <see cref="BufferHandleDocument"/>.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record OpenBufferDocument
{
    public required string Device { get; init; }

    public required string Name { get; init; }

    public bool Write { get; init; }
}

/// <summary>
/// <c>POST /v1/contexts/{id}/memory</c>: memory of the client's own, which is no object and ends with the context;
/// answered by <see cref="BufferHandleDocument"/>.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record AllocateMemoryDocument
{
    /// <summary>Rounded up to whole pages of 4 KiB.</summary>
    public required ulong SizeBytes { get; init; }
}

/// <summary>
/// <c>POST /v1/contexts/{id}/memory/watched</c>: memory of the client's own process, registered with userfaultfd(2),
/// whose faults the host serves and whose changes it sees from now on; answered by <see cref="BufferHandleDocument"/>.
/// For clients that came by the Unix socket.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record TakeOverMemoryDocument
{
    /// <summary>Where the process has it; whole pages.</summary>
    public required ulong Va { get; init; }

    public required ulong SizeBytes { get; init; }

    /// <summary>The number by which the process has the userfaultfd.</summary>
    public required int Events { get; init; }

    /// <summary>The number by which it has the memfd, which cannot shrink.</summary>
    public required int Memory { get; init; }
}

/// <summary>
/// <c>POST /v1/contexts/{id}/memory/shared</c>: memory that the client has by another GPU comes into reach of this one;
/// answered by <see cref="BufferHandleDocument"/>.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record ShareMemoryDocument
{
    /// <summary>The context that has it, of the same client.</summary>
    public required ulong Context { get; init; }

    /// <summary>By which that one has it.</summary>
    public required uint Handle { get; init; }
}

/// <summary>Memory that commands may use.</summary>
public sealed record BufferHandleDocument
{
    /// <summary>For commands that are parsed; means nothing to another context.</summary>
    public required uint Handle { get; init; }

    /// <summary>For commands that go by page table; 0 where they are parsed.</summary>
    public required ulong Address { get; init; }

    public required ulong SizeBytes { get; init; }

    /// <summary>
    /// Memory of the client's own: where it is in its address space, as peers name it; null for objects.
    /// </summary>
    public ulong? Va { get; init; }

    internal static BufferHandleDocument From(ContextBuffer buffer) => new()
    {
        Handle = buffer.Handle,
        Address = buffer.Address,
        SizeBytes = buffer.SizeBytes,
        Va = buffer.Memory?.Start,
    };
}

/// <summary>
/// <c>POST /v1/contexts/{id}/queues</c>: make a queue; answered by <see cref="QueueDocument"/>. With an address it is a
/// ring that the client writes itself.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record CreateQueueDocument
{
    public required string Name { get; init; }

    public GpuPriority Priority { get; set; } = GpuPriority.Normal;

    /// <summary>Who runs it.</summary>
    public GpuEngineKind Engine { get; init; }

    /// <summary>A multiple of 64; null for a queue of jobs.</summary>
    public ulong? RingAddress { get; init; }

    /// <summary>A power of two.</summary>
    public uint RingCommands { get; init; }
}

/// <summary>Who has the engine, wants it or will not have it any more.</summary>
public enum QueueState
{
    Idle,
    Busy,

    /// <summary>Work of it faulted or hung: it takes nothing more.</summary>
    Lost,
}

/// <summary>A queue.</summary>
public sealed record QueueDocument
{
    public required ulong Id { get; init; }

    public required string Name { get; init; }

    public required bool IsRing { get; init; }

    public required GpuPriority Priority { get; init; }

    public required GpuEngineKind Engine { get; init; }

    public required QueueState State { get; init; }

    /// <summary>Jobs that have not ended.</summary>
    public required int Jobs { get; init; }

    /// <summary>Commands of a ring that are done.</summary>
    public ulong? Done { get; init; }

    /// <summary>Why a ring is lost: <c>EFAULT</c>.</summary>
    public string? Error { get; init; }
}

/// <summary>
/// <c>POST /v1/contexts/{id}/queues/{queue}/doorbell</c>: commands have been written to a ring; answered by the
/// <see cref="QueueDocument"/>.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record DoorbellDocument
{
    /// <summary>All that were ever written, never less than before.</summary>
    public required ulong WrittenCommands { get; init; }
}

/// <summary>
/// <c>POST /v1/contexts/{id}/jobs</c>: submit commands; answered by <see cref="JobDocument"/> when they are in their
/// queue.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record SubmitJobDocument
{
    public required ulong Queue { get; init; }

    /// <summary>64 bytes each, in base 64.</summary>
    public required byte[] Commands { get; init; }

    /// <summary>Names that other jobs of this host signal; it starts when they have ended, well or not.</summary>
    public IReadOnlyList<string> After { get; set; } = [];

    /// <summary>The name that this job signals.</summary>
    public string? Signal { get; init; }

    /// <summary>How long a name of <see cref="After"/> may be unknown.</summary>
    public int SubmitTimeoutMs { get; set; } = 10_000;

    /// <summary>How many words of the context's results to answer with when it has ended well.</summary>
    public int Results { get; init; }
}

/// <summary>
/// <c>POST /v1/contexts/{id}/jobs/{job}/wait</c>: wait for the end of a job, or so long; answered by
/// <see cref="JobDocument"/>.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record WaitJobDocument
{
    public required int TimeoutMs { get; init; }
}

/// <summary>A job.</summary>
public sealed record JobDocument
{
    public required ulong Id { get; init; }

    public required string Queue { get; init; }

    public required ContextJobState State { get; init; }

    /// <summary>Bytes of its commands over 64.</summary>
    public required int Commands { get; init; }

    public IReadOnlyList<string>? After { get; init; }

    /// <summary>Of those, what nobody has submitted anything for.</summary>
    public IReadOnlyList<string>? Missing { get; init; }

    public string? Signal { get; init; }

    public required long SubmittedAtUs { get; init; }

    public long? EndedAtUs { get; init; }

    /// <summary>How it failed: <c>EFAULT</c>, <c>ETIME</c> when it hung, <c>ECANCELED</c>.</summary>
    public string? Error { get; init; }

    /// <summary>What <see cref="SubmitJobDocument.Results"/> asked for.</summary>
    public IReadOnlyList<uint>? Results { get; init; }
}
