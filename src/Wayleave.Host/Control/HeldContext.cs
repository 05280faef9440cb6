using System.Globalization;
using Wayleave.Core;
using Wayleave.Linux.UserFaults;

namespace Wayleave.Host.Control;

/// <summary>
/// A GPU of a host that this process may submit commands to, and the stream that keeps it so: disposing ends every job
/// of it, and so does the death of this process. Failures are as those of <see cref="ControlClient"/>.
/// </summary>
public sealed class HeldContext : HeldGrant<ContextEventDocument>
{
    private readonly ControlChannel _channel;

    private HeldContext(ControlChannel channel, LineReader lines, ContextDocument context)
        : base(lines, ControlJson.Default.ContextEventDocument)
    {
        _channel = channel;
        Context = context;
        Completion = Reading;
    }

    public ContextDocument Context { get; }

    /// <summary>
    /// Ends when the context does: normally after <see cref="HeldGrant{T}.DisposeAsync"/>, with a
    /// <see cref="WayleaveException"/> when the GPU was pulled out or the host stops (ENODEV), when the host died
    /// (ECONNRESET) or when it fell silent (ETIMEDOUT).
    /// </summary>
    public Task Completion { get; }

    private static ControlJson Json => ControlJson.Default;

    /// <summary>Lets commands use an object.</summary>
    /// <exception cref="WayleaveException">ENOENT: there is none. ENODEV: it is being taken back.</exception>
    public Task<BufferHandleDocument> OpenBufferAsync(
        string device, string name, bool write, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"open {device}/{name} on {Context.Gpu}",
            Path("buffers"),
            Json.BufferHandleDocument,
            ControlChannel.ToContent(
                new OpenBufferDocument { Device = device, Name = name, Write = write }, Json.OpenBufferDocument),
            cancellation);

    /// <summary>Ends a handle; jobs that were submitted with it go on.</summary>
    public Task CloseBufferAsync(uint handle, CancellationToken cancellation = default) =>
        _channel.SendAsync(
            $"close handle {handle} on {Context.Gpu}",
            HttpMethod.Delete,
            Path(string.Create(CultureInfo.InvariantCulture, $"buffers/{handle}")),
            Json.ContextDocument,
            null,
            _channel.Options.WorkTimeout,
            cancellation);

    /// <summary>Memory of this client's own, of which no page is there before it is touched.</summary>
    /// <exception cref="WayleaveException">EINVAL: no size that there is. ENOMEM: no room.</exception>
    public Task<BufferHandleDocument> AllocateAsync(ulong sizeBytes, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"allocate memory on {Context.Gpu}",
            Path("memory"),
            Json.BufferHandleDocument,
            ControlChannel.ToContent(
                new AllocateMemoryDocument { SizeBytes = sizeBytes }, Json.AllocateMemoryDocument),
            cancellation);

    /// <summary>
    /// Lets the GPU and peers reach memory of this process, by its own addresses. From now on the host takes its events
    /// and serves its faults: this process takes none, and keeps the region until it has closed the handle.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// EPERM: the host may not copy descriptors of this process. EOPNOTSUPP: it is on another machine.
    /// </exception>
    public Task<BufferHandleDocument> TakeOverAsync(
        UserFaultRegion region, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(region);
        TakeOverMemoryDocument take = new()
        {
            Va = region.Addresses.Start,
            SizeBytes = region.Addresses.LengthBytes,
            Events = region.Numbers.Events,
            Memory = region.Numbers.Memory,
        };
        return _channel.PostAsync(
            $"take over memory on {Context.Gpu}",
            Path("memory/watched"),
            Json.BufferHandleDocument,
            ControlChannel.ToContent(take, Json.TakeOverMemoryDocument),
            cancellation);
    }

    /// <summary>
    /// Lets this GPU reach memory that the same client has by another one. It stays the other's: when that closes it or
    /// ends, commands here find nothing (EFAULT).
    /// </summary>
    /// <exception cref="WayleaveException">
    /// ENOENT: the other has no such handle. EINVAL: it is no memory of the client's own. EPERM: the other is another
    /// client's. EOPNOTSUPP: this GPU cannot fault.
    /// </exception>
    public Task<BufferHandleDocument> ShareAsync(
        HeldContext owner, uint handle, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(owner);
        return _channel.PostAsync(
            $"share memory with {Context.Gpu}",
            Path("memory/shared"),
            Json.BufferHandleDocument,
            ControlChannel.ToContent(
                new ShareMemoryDocument { Context = owner.Context.Id, Handle = handle }, Json.ShareMemoryDocument),
            cancellation);
    }

    /// <summary>Makes a queue.</summary>
    /// <exception cref="WayleaveException">EMFILE: the GPU has as many as it may.</exception>
    public Task<QueueDocument> CreateQueueAsync(CreateQueueDocument create, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"make a queue on {Context.Gpu}",
            Path("queues"),
            Json.QueueDocument,
            ControlChannel.ToContent(create, Json.CreateQueueDocument),
            cancellation);

    /// <summary>How far a queue is.</summary>
    public Task<QueueDocument> GetQueueAsync(ulong queue, CancellationToken cancellation = default) =>
        _channel.GetAsync(
            $"look at queue {queue} of {Context.Gpu}", QueuePath(queue), Json.QueueDocument, cancellation);

    /// <summary>Says that commands have been written to a ring.</summary>
    public Task<QueueDocument> RingDoorbellAsync(
        ulong queue, ulong writtenCommands, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"ring the bell of queue {queue} of {Context.Gpu}",
            QueuePath(queue) + "/doorbell",
            Json.QueueDocument,
            ControlChannel.ToContent(
                new DoorbellDocument { WrittenCommands = writtenCommands }, Json.DoorbellDocument),
            cancellation);

    /// <summary>Submits commands; returns when they are in their queue.</summary>
    /// <exception cref="WayleaveException">
    /// EINVAL, ENOENT, EACCES: a command is refused; says which and why. ETIME: nobody has submitted what it is to run
    /// after. EDEADLK: it would wait for itself. ECANCELED: the queue is lost.
    /// </exception>
    public Task<JobDocument> SubmitAsync(SubmitJobDocument submit, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(submit);
        return _channel.SendAsync(
            $"submit to {Context.Gpu}",
            HttpMethod.Post,
            Path("jobs"),
            Json.JobDocument,
            ControlChannel.ToContent(submit, Json.SubmitJobDocument),
            _channel.Options.WorkTimeout + TimeSpan.FromMilliseconds(submit.SubmitTimeoutMs),
            cancellation);
    }

    /// <summary>
    /// Waits until a job has ended. That it failed is an answer: see <see cref="JobDocument.Error"/>.
    /// </summary>
    public async Task<JobDocument> WaitAsync(ulong job, CancellationToken cancellation = default)
    {
        const int PieceMs = 5_000;
        while (true)
        {
            JobDocument seen = await _channel.SendAsync(
                $"wait for job {job} of {Context.Gpu}",
                HttpMethod.Post,
                Path(string.Create(CultureInfo.InvariantCulture, $"jobs/{job}/wait")),
                Json.JobDocument,
                ControlChannel.ToContent(new WaitJobDocument { TimeoutMs = PieceMs }, Json.WaitJobDocument),
                _channel.Options.Timeout + TimeSpan.FromMilliseconds(PieceMs),
                cancellation).ConfigureAwait(false);
            if (seen.EndedAtUs is not null)
            {
                return seen;
            }
        }
    }

    /// <summary>Lets peers reach memory of this client.</summary>
    /// <exception cref="WayleaveException">
    /// ENOENT: no such handle. EINVAL: not inside it, or the kind is not for such memory. EOPNOTSUPP: its owner must be
    /// able to take it back. ENOMEM: its pages cannot be pinned.
    /// </exception>
    public Task<RegionDocument> RegisterAsync(
        RegisterRegionDocument register, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"register memory on {Context.Gpu}",
            Path("regions"),
            Json.RegionDocument,
            ControlChannel.ToContent(register, Json.RegisterRegionDocument),
            cancellation);

    /// <summary>How a region is.</summary>
    public Task<RegionDocument> GetRegionAsync(ulong region, CancellationToken cancellation = default) =>
        _channel.GetAsync(
            $"look at region {region} of {Context.Gpu}", RegionPath(region), Json.RegionDocument, cancellation);

    /// <summary>Changes a region under its key (<c>ibv_rereg_mr</c>).</summary>
    /// <exception cref="WayleaveException">
    /// The region is as it was. EINVAL: no change, or it makes no sense. EOPNOTSUPP: one that there is not, or not of
    /// such a region. EACCES: a right to write what was pinned to be read. EBUSY: another change is under way. ENOENT:
    /// no such handle. ENOMEM: its pages cannot be pinned.
    /// </exception>
    public Task<RegionDocument> ReregisterAsync(
        ulong region, ReregisterRegionDocument change, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"reregister region {region} of {Context.Gpu}",
            RegionPath(region) + "/reregister",
            Json.RegionDocument,
            ControlChannel.ToContent(change, Json.ReregisterRegionDocument),
            cancellation);

    /// <summary>
    /// Ends a region: its key may be given out again; one of a cache goes back there and its key stays alive.
    /// </summary>
    public Task<RegionDocument> DeregisterAsync(ulong region, CancellationToken cancellation = default) =>
        _channel.SendAsync(
            $"deregister region {region} of {Context.Gpu}",
            HttpMethod.Delete,
            RegionPath(region),
            Json.RegionDocument,
            null,
            _channel.Options.WorkTimeout,
            cancellation);

    /// <summary>Brings pages of a region on demand into the NIC's reach.</summary>
    /// <exception cref="WayleaveException">EINVAL: it is not on demand, or the range is not inside it.</exception>
    public Task<RegionDocument> PrefetchAsync(
        ulong region, PrefetchDocument prefetch, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"prefetch region {region} of {Context.Gpu}",
            RegionPath(region) + "/prefetch",
            Json.RegionDocument,
            ControlChannel.ToContent(prefetch, Json.PrefetchDocument),
            cancellation);

    /// <summary>Connects a queue pair of a peer to the regions of this client.</summary>
    /// <returns>The host's end of it.</returns>
    /// <exception cref="WayleaveException">EINVAL: the peer's numbers make no sense. EMFILE: too many.</exception>
    public Task<ConnectionEndDocument> ConnectAsync(
        ConnectContextDocument connect, CancellationToken cancellation = default) =>
        _channel.PostAsync(
            $"connect a peer to {Context.Gpu}",
            Path("connections"),
            Json.ConnectionEndDocument,
            ControlChannel.ToContent(connect, Json.ConnectContextDocument),
            cancellation);

    /// <summary>Ends the host's end of a connection: the peer finds nobody there any more.</summary>
    /// <param name="local">As <see cref="ConnectAsync"/> has returned it.</param>
    /// <param name="nic">As it was asked for there; null for the first NIC.</param>
    /// <param name="cancellation">Ends the wait for the answer.</param>
    /// <exception cref="WayleaveException">ENOENT: it is none of this client's.</exception>
    public Task DisconnectAsync(
        ConnectionEndDocument local, string? nic = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(local);
        string query = nic is null ? "" : "?nic=" + Uri.EscapeDataString(nic);
        return _channel.SendAsync(
            $"disconnect a peer from {Context.Gpu}",
            HttpMethod.Delete,
            Path(string.Create(CultureInfo.InvariantCulture, $"connections/{local.QpNumber}{query}")),
            Json.ContextDocument,
            null,
            _channel.Options.WorkTimeout,
            cancellation);
    }

    internal static async Task<HeldContext> OpenAsync(
        ControlChannel channel, LineReader lines, CancellationToken cancellation)
    {
        ContextEventDocument first =
            await lines.ReadAsync(ControlJson.Default.ContextEventDocument, cancellation).ConfigureAwait(false);
        ContextDocument context =
            first.Context ?? throw lines.Fail(Errno.EPROTO, "the answer does not begin with a context");
        return new HeldContext(channel, lines, context);
    }

    private protected override bool IsLast(ContextEventDocument line) => line.Event == ContextEventKind.Ended
        ? throw Lines.Fail(Errno.ENODEV, line.Reason ?? "the host ended it")
        : false;

    private string Path(string rest) =>
        string.Create(CultureInfo.InvariantCulture, $"/v1/contexts/{Context.Id}/{rest}");

    private string RegionPath(ulong region) => Path(string.Create(CultureInfo.InvariantCulture, $"regions/{region}"));

    private string QueuePath(ulong queue) => Path(string.Create(CultureInfo.InvariantCulture, $"queues/{queue}"));
}
