using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>Objects that one host sends to another, asked for by a client that both let in.</summary>
public sealed class TransferTests : IAsyncLifetime
{
    private const ulong Size = 1 << 20;

    private readonly ControlTestFolder _folder = new();
    private readonly LeaseWatch _leases = new();
    private ServedHost _a = null!;
    private ServedHost _b = null!;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _a = await ServedHost.StartAsync(_folder, "127.0.73.1", TimeProvider.System);
        WayleaveHostOptions traced = new() { Trace = _leases };
        _b = await ServedHost.StartAsync(_folder, "127.0.73.2", TimeProvider.System, traced);
    }

    public async ValueTask DisposeAsync()
    {
        await _a.DisposeAsync();
        await _b.DisposeAsync();
        _folder.Dispose();
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_copy_reports_its_progress_and_leaves_nothing_behind()
    {
        ObjectDocument made = await MakeAsync();
        await FillAsync(made.Id);
        List<ulong> seen = [];
        DirectCopy copy = new(_a.Client, _b.Client) { Progress = (bytes, _) => seen.Add(bytes) };
        CopyResult result = await copy.CopyAsync(_a.UrlOf("object"), _b.UrlOf("copy"), Cancellation);
        Assert.Equal((Size, Size), (result.Bytes, seen[^1]));
        ObjectDocument there = await _b.Client.GetObjectAsync("gpu0", "copy", Cancellation);
        Assert.Equal((await _a.Client.GetSha256Async("gpu0", "object", Cancellation)).Sha256, there.Sha256);
        await ExpectNoTransferAsync();
    }

    // There are seconds between an object of the other host and its lease: what takes time, or fails, comes before.
    [Fact(Timeout = Patience.TestMs)]
    public async Task An_own_end_that_has_no_room_makes_no_object_at_the_other()
    {
        HostConfig little = ControlTestFolder.Config with
        {
            Gpus = [new GpuConfig { VramBytes = 4 << 20, SystemPoolBytes = 0 }],
        };
        await using ServedHost own = await ServedHost.StartAsync(
            _folder, "127.0.73.3", TimeProvider.System, devices: little);
        RemoteCopy copy = new(own.Host, _b.Client);
        WayleaveException e = await RefusedAsync(
            () => copy.PushAsync(MakeFile(16 << 20), _b.UrlOf("big"), Cancellation));
        Assert.Equal(Errno.ENOSPC, e.Errno);
        Assert.Empty((await _b.Client.GetObjectsAsync(Cancellation)).Objects);
    }

    // By a port that the other host has not: the object was made, and no lease begins.
    [Theory(Timeout = Patience.TestMs)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_lease_that_is_refused_leaves_nothing_at_the_other_host(bool isDirect)
    {
        await MakeAsync();
        WayleaveException e = await RefusedAsync(async () => _ = isDirect
            ? await new DirectCopy(_a.Client, _b.Client) { TargetPort = 9 }
                .CopyAsync(_a.UrlOf("object"), _b.UrlOf("copy"), Cancellation)
            : await new RemoteCopy(_a.Host, _b.Client) { RemotePort = 9 }
                .PushAsync(MakeFile(4096), _b.UrlOf("copy"), Cancellation));
        Assert.Equal(Errno.EINVAL, e.Errno);
        Assert.Empty((await _b.Client.GetObjectsAsync(Cancellation)).Objects);
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_transfer_ends_when_its_client_leaves()
    {
        HeldTransfer held = await OpenAsync(await MakeAsync());
        Assert.Equal(held.Transfer.Id, Assert.Single(_a.Host.Transfers.List()).Id);
        await held.DisposeAsync();
        Assert.True(held.Completion.IsCanceled);
        await ExpectNoTransferAsync();
        WayleaveException e = await RefusedAsync(() => StartAsync(held, NoTarget));
        Assert.Equal((Errno.ENOENT, "it has ended"), (e.Errno, e.Reason));
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_start_that_makes_no_sense_is_refused_and_another_one_may_follow()
    {
        await using HeldTransfer held = await OpenAsync(await MakeAsync());
        WayleaveException e = await RefusedAsync(() => StartAsync(held, NoTarget with { LengthBytes = Size - 1 }));
        Assert.Equal((Errno.ERANGE, "1048575 bytes do not hold 1048576"), (e.Errno, e.Reason));
        foreach (int timeout in (int[])[0, -2, 86_400_001])
        {
            e = await RefusedAsync(() => StartAsync(held, NoTarget with { StallTimeoutMs = timeout }));
            Assert.Equal(Errno.EINVAL, e.Errno);
        }

        ConnectionEndDocument foreign = NoTarget.Peer with { Gid = "::1" };
        e = await RefusedAsync(() => StartAsync(held, NoTarget with { Peer = foreign }));
        Assert.Equal(Errno.EINVAL, e.Errno);
        Assert.False(held.Completion.IsCompleted);
        await StartAsync(held, NoTarget);
        e = await RefusedAsync(() => StartAsync(held, NoTarget));
        Assert.Equal((Errno.EALREADY, "it was started before"), (e.Errno, e.Reason));
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task An_object_that_took_the_name_meanwhile_is_not_sent_in_place_of_the_other()
    {
        ObjectDocument first = await MakeAsync();
        await MakeAsync();
        WayleaveException e = await RefusedAsync(() => OpenAsync(first));
        Assert.Equal(Errno.ENODEV, e.Errno);
        await ExpectNoTransferAsync();
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_peer_that_lent_nothing_ends_the_transfer_with_the_reason()
    {
        ObjectDocument made = await MakeAsync();
        ObjectDocument target = await _b.Client.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = "target", SizeBytes = Size }, Cancellation);
        await using HeldTransfer held = await OpenAsync(made);
        await using HeldLease lease = await _b.Client.LeaseAsync(
            target.Id,
            new LeaseRequestDocument { Access = LeaseAccess.Write, Peer = held.Transfer.Local },
            Cancellation);
        await StartAsync(held, new StartTransferDocument
        {
            Peer = lease.Lease.Local,
            Rkey = lease.Lease.Rkey + 1,
            Va = lease.Lease.Va,
            LengthBytes = Size,
        });
        TransferEventDocument end = await held.Completion.WaitAsync(Cancellation);
        Assert.Equal(
            (TransferEventKind.Failed, Devices.Rdma.Verbs.WorkCompletionStatus.RemoteAccessError, 0UL),
            (end.Event, end.Status, end.CompletedBytes));
        await lease.DisposeAsync();
        await ExpectNoTransferAsync();
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_target_that_is_never_ready_ends_the_copy_with_its_name_and_region()
    {
        await MakeAsync();
        DirectCopy copy = new(_a.Client, _b.Client) { StallMax = TimeSpan.FromMilliseconds(300) };
        AcquireTicket? held = null;
        SharedBuffer? buffer = null;
        _leases.Then = () =>
        {
            // Before the source is told the key: every packet will find the memory moved away.
            buffer = Assert.Single(_b.Host.Objects.List()).Buffer;
            held = Hold(_b.Host, buffer);
        };
        Task<CopyResult> running = copy.CopyAsync(_a.UrlOf("object"), _b.UrlOf("copy"), Cancellation);
        WayleaveException e = await RefusedAsync(() => running);
        Release(_b.Host, buffer!, held!);
        Assert.Equal(Errno.ETIMEDOUT, e.Errno);
        Assert.Matches(
            $"^copy wl://127\\.0\\.73\\.1:.* to wl://127\\.0\\.73\\.2:.*: 127\\.0\\.73\\.2:\\d+: no byte of its region "
            + "under key 0x[0-9a-f]{8} moved for 0\\.3 s; its memory is not ready; let its owner restore the object, "
            + "or "
            + "wait longer: --stall-timeout$",
            e.Message);
        await ExpectNoTransferAsync();
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_checksum_is_forgotten_when_the_object_is_lent_for_writing()
    {
        ObjectDocument made = await MakeAsync();
        string before = (await _a.Client.GetSha256Async("gpu0", "object", Cancellation)).Sha256;
        foreach ((LeaseAccess access, string? expected) in
            ((LeaseAccess, string?)[])[(LeaseAccess.Read, before), (LeaseAccess.ReadWrite, null)])
        {
            LeaseRequestDocument request = new() { Access = access, Peer = NoTarget.Peer };
            await (await _a.Client.LeaseAsync(made.Id, request, Cancellation)).DisposeAsync();
            Assert.Equal(expected, (await _a.Client.GetObjectAsync("gpu0", "object", Cancellation)).Sha256);
        }
    }

    private string MakeFile(long length)
    {
        string path = Path.Combine(_folder.Root, "file");
        using FileStream file = File.Create(path);
        file.SetLength(length);
        return path;
    }

    private static StartTransferDocument NoTarget => new()
    {
        Peer =
            new ConnectionEndDocument { Gid = "127.0.73.9", UdpPort = 9, QpNumber = 2, Psn = 0, PathMtuBytes = 1024 },
        Rkey = 1,
        Va = 0,
        LengthBytes = Size,
    };

    private async Task<ObjectDocument> MakeAsync()
    {
        CreateObjectDocument create = new() { Device = "gpu0", Name = "object", SizeBytes = Size };
        ObjectDocument made = await _a.Client.CreateObjectAsync(create, Cancellation);
        string zeroes = await _a.Host.Objects.Sha256Async(_a.Host.Objects.Find(made.Id)!, Cancellation);
        return await _a.Client.CommitObjectAsync(made.Id, zeroes, Cancellation);
    }

    private Task FillAsync(ulong id)
    {
        DeviceObject o = _a.Host.Objects.Find(id)!;
        using (_a.Host.Context.Enter())
        {
            o.Sha256 = null;
        }

        return _a.Host.Objects.ForEachPieceAsync(
            o, (offset, bytes) => Host.Audits.OwnerPattern.Fill(5, offset, bytes), Cancellation);
    }

    private Task<HeldTransfer> OpenAsync(ObjectDocument o) => _a.Client.OpenTransferAsync(
        o.Device, o.Name, new OpenTransferDocument { ObjectId = o.Id }, null, Cancellation);

    private Task<TransferDocument> StartAsync(HeldTransfer held, StartTransferDocument start) =>
        _a.Client.StartTransferAsync(held.Transfer.Id, start, Cancellation);

    private static Task<WayleaveException> RefusedAsync(Func<Task> request) =>
        Assert.ThrowsAsync<WayleaveException>(request);

    private async Task ExpectNoTransferAsync()
    {
        while (_a.Host.Transfers.List().Count + _b.Host.Leases.List().Count > 0)
        {
            Cancellation.ThrowIfCancellationRequested();
            await Task.Yield();
        }
    }

    private static AcquireTicket Hold(WayleaveHost host, SharedBuffer buffer)
    {
        using (host.Context.Enter())
        {
            AcquireTicket ticket = new(host.Context, "test");
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
            buffer.InvalidateMappings(ticket);
            return ticket;
        }
    }

    private static void Release(WayleaveHost host, SharedBuffer buffer, AcquireTicket ticket)
    {
        using (host.Context.Enter())
        {
            buffer.Reservation.Unlock(ticket);
        }
    }

    /// <summary>Runs something once, when a lease has been made and before its holder learns of it.</summary>
    private sealed class LeaseWatch : ITraceSink
    {
        public Action? Then { get; set; }

        public void Emit(in TraceEvent traceEvent)
        {
            if (traceEvent.Name == "lease.start")
            {
                Then?.Invoke();
            }
        }
    }
}
