using System.Net;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Compute;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Wayleave.Linux.UserFaults;

namespace Wayleave.Victim;

/// <summary>What the program has. Each step needs those before it in the list of <see cref="TakeAsync"/>.</summary>
internal sealed class Belongings(string control, string broker, string meeting, IPAddress address, string seed)
    : IDisposable
{
    private const int Bytes = 64 << 10;

    private readonly ControlClient _client = ControlClient.Open(
        null, new ControlClientOptions { SocketPath = control, EnvironmentVariables = _ => null });

    private readonly List<object> _held = []; // nothing is let go of
    private readonly SharedBelongings _shared = new(broker, meeting);
    private HeldContext _context = null!;
    private BufferHandleDocument _memory = null!;
    private RegionDocument _onDemand = null!;
    private WayleaveHost _own = null!;
    private DeviceObject _local = null!;

    public Task TakeAsync(string step) => step switch
    {
        "broker" => Run(_shared.Open),
        "give" => Run(_shared.Give),
        "take" => Run(_shared.Take),
        "work" => Run(_shared.Submit),
        "fences" => Run(_shared.SendFences),
        "rings" => Run(_shared.OpenRings),
        "keys" => Run(_shared.Register),
        "context" => OpenContextAsync(),
        "memory" => RegisterMemoryAsync(),
        "objects" => RegisterObjectsAsync(),
        "watched" => RegisterOwnPagesAsync(),
        "ring" => StartRingAsync(),
        "jobs" => SubmitAsync(),
        "resource" => BorrowAsync(),
        "host" => StartHostAsync(),
        "traffic" => SendToOwnRegionAsync(),
        "lease" => LeaseAsync(),
        "transfer" => ReceiveAsync(),
        _ => throw new ArgumentException($"no step {step}", nameof(step)),
    };

    public void Dispose() => _client.Dispose();

    private static Task Run(Action step)
    {
        step();
        return Task.CompletedTask;
    }

    private async Task OpenContextAsync() => _context = await _client.OpenGpuAsync("gpu0", "victim");

    private async Task RegisterMemoryAsync()
    {
        BufferHandleDocument pinned = await _context.AllocateAsync(Bytes);
        _memory = await _context.AllocateAsync(Bytes);
        await RegisterAsync(pinned, ContextRegionKind.Pinned);
        _onDemand = await RegisterAsync(_memory, ContextRegionKind.OnDemand);
        await RegisterAsync(_memory, ContextRegionKind.Implicit);
        await _context.PrefetchAsync(
            _onDemand.Id, new PrefetchDocument { Va = _onDemand.Va, LengthBytes = Bytes / 2, Write = true });
    }

    // Pages of this process itself. It touches them through a P/Invoke; the host, which is another process, serves
    // that.
    private async Task RegisterOwnPagesAsync()
    {
        UserFaultRegion pages = UserFaultRegion.Create(Bytes);
        _held.Add(pages);
        BufferHandleDocument handle = await _context.TakeOverAsync(pages);
        await RegisterAsync(handle, ContextRegionKind.OnDemand);
        UserFaultRegion.Store(pages.Addresses.Start, "touched"u8);
        UserFaultRegion.Discard(pages.Addresses);
    }

    private async Task RegisterObjectsAsync()
    {
        await RegisterObjectAsync("a", ContextRegionKind.Dynamic);
        await RegisterObjectAsync("b", ContextRegionKind.PinnedRevocable);
        await RegisterObjectAsync("c", ContextRegionKind.LegacyPeer);
        await RegisterObjectAsync("d", ContextRegionKind.Pinned);
    }

    private async Task RegisterObjectAsync(string name, ContextRegionKind kind) =>
        await RegisterAsync(await _context.OpenBufferAsync("gpu0", name, write: true), kind);

    private Task<RegionDocument> RegisterAsync(BufferHandleDocument handle, ContextRegionKind kind) =>
        _context.RegisterAsync(new RegisterRegionDocument { Handle = handle.Handle, Kind = kind });

    // An object whose first command never ends, as the owner has written it there.
    private async Task StartRingAsync()
    {
        BufferHandleDocument ring = await _context.OpenBufferAsync("gpu0", "ring", write: false);
        QueueDocument queue = await _context.CreateQueueAsync(
            new CreateQueueDocument { Name = "ring", RingAddress = ring.Address, RingCommands = 64 });
        await _context.RingDoorbellAsync(queue.Id, 1);
    }

    // One job that others wait for, one that waits for what nobody submits, and more behind them.
    private async Task SubmitAsync()
    {
        ulong queue = (await _context.CreateQueueAsync(new CreateQueueDocument { Name = "jobs" })).Id;
        byte[] spin = new byte[GpuCommand.SizeBytes];
        new GpuCommand { Opcode = GpuOpcode.Spin, Count = ulong.MaxValue }.Write(spin);
        await _context.SubmitAsync(new SubmitJobDocument { Queue = queue, Commands = spin, Signal = $"victim-{seed}" });
        await _context.SubmitAsync(new SubmitJobDocument { Queue = queue, Commands = spin });
        _held.Add(_context.SubmitAsync(new SubmitJobDocument
        {
            Queue = queue,
            Commands = spin,
            After = ["never"],
            Signal = $"held-{seed}",
            SubmitTimeoutMs = 60_000,
        }));
    }

    private async Task BorrowAsync() => _held.Add(await _client.AddResourceAsync(new AddResourceDocument
    {
        Device = "gpu0",
        Name = $"lent-{seed}",
        SizeBytes = 1 << 20,
        Imports = [new ResourceImportDocument("rdma0", Bytes)],
    }));

    private async Task StartHostAsync()
    {
        _own = await WayleaveHost.StartAsync(new HostConfig
        {
            Name = "victim",
            Nics = [new NicConfig { Address = address, UdpPort = 0, PathMtuBytes = 1024 }],
            Gpus = [new GpuConfig { VramBytes = 32 << 20, SystemPoolBytes = 0 }],
            Nvmes = [],
        });
        _local = await _own.Objects.CreateAsync("gpu0", "local", 8 << 20, null, default);
    }

    private async Task SendToOwnRegionAsync()
    {
        Connection connection = await Connection.OpenAsync(_own.Nics[0], _local);
        ConnectionEndDocument end = await _context.ConnectAsync(
            new ConnectContextDocument { Peer = ConnectionEndDocument.From(connection.Local) });
        connection.Connect(end.ToEnd());
        Loop(connection, new BulkRange(0, connection.Region.Key, _onDemand.Va, _onDemand.Rkey, Bytes));
    }

    private async Task LeaseAsync()
    {
        Connection connection = await Connection.OpenAsync(_own.Nics[0], _local);
        ObjectDocument made = await _client.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = $"written-{seed}", SizeBytes = 8 << 20 });
        HeldLease lease = await _client.LeaseAsync(
            made.Id,
            new LeaseRequestDocument
            {
                Access = LeaseAccess.Write,
                Peer = ConnectionEndDocument.From(connection.Local),
            });
        _held.Add(lease);
        connection.Connect(lease.Lease.Local.ToEnd());
        Loop(connection, new BulkRange(0, connection.Region.Key, lease.Lease.Va, lease.Lease.Rkey, 8 << 20));
    }

    // The host sends an object here, and is still at it.
    private async Task ReceiveAsync()
    {
        ObjectDocument big = await _client.GetObjectAsync("gpu0", "big");
        HeldTransfer transfer = await _client.OpenTransferAsync(
            "gpu0", "big", new OpenTransferDocument { ObjectId = big.Id });
        DeviceObject target = await _own.Objects.CreateAsync("gpu0", "target", big.SizeBytes, null, default);
        Lease lease = await _own.Leases.LendAsync(
            target,
            new LeaseRequest(LeaseAccess.Write, Core.Buffers.ImporterKind.Dynamic, transfer.Transfer.Local.ToEnd()));
        _held.AddRange([transfer, lease]);
        await _client.StartTransferAsync(transfer.Transfer.Id, new StartTransferDocument
        {
            Peer = ConnectionEndDocument.From(lease.Local),
            Rkey = lease.Region.Key,
            Va = lease.Region.Iova,
            LengthBytes = target.SizeBytes,
        });
    }

    // Until it is killed, or its host is.
    private void Loop(Connection connection, BulkRange range)
    {
        BulkTransfer bulk = new(_own.Nics[0].Driver, connection.QueuePair, connection.Completions, _own.Context);
        Thread thread = new(() =>
        {
            while (bulk.Run(BulkDirection.Write, range) == WorkCompletionStatus.Success)
            {
            }
        })
        {
            IsBackground = true,
        };
        thread.Start();
        _held.Add(thread);
    }
}
