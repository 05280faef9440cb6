using Wayleave.Client;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Wayleave.Linux.Tests.Broker;
using Wayleave.Linux.Tests.Control;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>A program that works beside the victim: it shares a buffer with it, and queues, and a NIC.</summary>
internal sealed class DeathBystander(ServedHost served, string brokerPath, WayleaveHost peer) : IAsyncDisposable
{
    private HeldContext _context = null!;
    private QueueDocument _queue = null!;
    private ClientDevice _gpu = null!;
    private ClientQueue _work = null!;
    private ClientBuffer _shared = null!;
    private ClientMapping _mapping = null!;
    private Connection _connection = null!;
    private BulkRange _range;
    private readonly CancellationTokenSource _enough = new();
    private Task<WorkCompletionStatus> _writes = null!;
    private DeviceObject _local = null!;

    public BrokerClient Broker { get; private set; } = null!;

    public FileDescriptor Exported { get; private set; } = null!;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public static async Task<DeathBystander> OpenAsync(ServedHost served, string brokerPath, WayleaveHost peer)
    {
        DeathBystander bystander = new(served, brokerPath, peer);
        await bystander.OpenAsync();
        return bystander;
    }

    /// <summary>A job behind a name of the victim's.</summary>
    public Task<JobDocument> WaitForAsync(string point) => SubmitAsync([point]);

    /// <summary>Work of its own behind a fence of the victim's.</summary>
    public ClientFence WaitBehind(ClientFence fence) => _work.Submit(Commands.Spin(1), fence);

    /// <summary>A copy within the buffer that both share, behind whatever is in it; it changes no byte.</summary>
    public ClientFence CopyShared() => _gpu.Copy(_shared, 4096, _shared, 8192, 4096);

    public async Task<(ContextJobState State, string? Error)> EndOfAsync(JobDocument job)
    {
        JobDocument ended = await _context.WaitAsync(job.Id, Cancellation);
        return (ended.State, ended.Error);
    }

    public async Task ExpectUndisturbedAsync()
    {
        Assert.False(_writes.IsCompleted, "its peer was cut off");
        Assert.Equal((ContextJobState.Done, null), await EndOfAsync(await SubmitAsync([])));
        Assert.Equal(-1, _mapping.Memory.Span[1..].IndexOfAnyExcept((byte)0x55)); // the first is the victim's
        Assert.False(_shared.Describe().IsRevoked);
    }

    public async ValueTask DisposeAsync()
    {
        await _enough.CancelAsync();
        await ((Task)_writes).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await _connection.DisposeAsync();
        await peer.Objects.AbortAsync(_local, "the test ended");
        _mapping.Dispose();
        Exported.Dispose();
        Broker.Dispose();
        await _context.DisposeAsync();
        _enough.Dispose();
    }

    private async Task OpenAsync()
    {
        Broker = BrokerClient.Connect(brokerPath, "bystander");
        _gpu = Broker.OpenDevice("gpu0");
        _work = _gpu.OpenQueue("work");
        _shared = _gpu.Allocate("bystander", DeathTests.Bytes);
        _mapping = _shared.Map();
        _mapping.Memory.Span.Fill(0x55);
        Exported = _shared.Export();

        _context = await served.Client.OpenGpuAsync("gpu0", "bystander", Cancellation);
        _queue = await _context.CreateQueueAsync(new CreateQueueDocument { Name = "q" }, Cancellation);
        BufferHandleDocument memory = await _context.AllocateAsync(DeathTests.Bytes, Cancellation);
        RegionDocument region = await _context.RegisterAsync(
            new RegisterRegionDocument { Handle = memory.Handle, Kind = ContextRegionKind.OnDemand }, Cancellation);
        PrefetchDocument all = new() { Va = region.Va, LengthBytes = DeathTests.Bytes, Write = true };
        await _context.PrefetchAsync(region.Id, all, Cancellation);
        _local = await peer.Objects.CreateAsync("gpu0", "bystander", DeathTests.Bytes, null, Cancellation);
        _connection = await Connection.OpenAsync(peer.Nics[0], _local);
        ConnectionEndDocument end = await _context.ConnectAsync(
            new ConnectContextDocument { Peer = ConnectionEndDocument.From(_connection.Local) }, Cancellation);
        _connection.Connect(end.ToEnd());
        _range = new BulkRange(0, _connection.Region.Key, region.Va, region.Rkey, DeathTests.Bytes);
        _writes = Task.Factory.StartNew(WriteAll, TaskCreationOptions.LongRunning);
    }

    private WorkCompletionStatus WriteAll()
    {
        BulkTransfer bulk = new(
            peer.Nics[0].Driver, _connection.QueuePair, _connection.Completions, peer.Context);
        WorkCompletionStatus status;
        do
        {
            status = bulk.Run(BulkDirection.Write, _range, _enough.Token);
        }
        while (status == WorkCompletionStatus.Success);
        return status;
    }

    private Task<JobDocument> SubmitAsync(string[] after)
    {
        byte[] fill = new byte[GpuCommand.SizeBytes];
        GpuCommand command = new()
        {
            Opcode = GpuOpcode.Fill,
            Target = _context.Context.Results.Address,
            Count = 4,
        };
        command.Write(fill);
        SubmitJobDocument submit = new() { Queue = _queue.Id, Commands = fill };
        submit.After = after;
        return _context.SubmitAsync(submit, Cancellation);
    }
}
