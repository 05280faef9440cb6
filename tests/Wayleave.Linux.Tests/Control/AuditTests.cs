using System.Net;
using System.Net.Sockets;
using System.Text;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Rdma;
using Wayleave.Host;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>
/// Audits over the control connection: who may start one, what it finds, and that it ends with its client.
/// </summary>
public sealed class AuditTests : IAsyncLifetime
{
    private const ulong Size = 256 * 1024;
    private const string Start = """{"seed":7}""";

    private readonly ControlTestFolder _folder = new();
    private readonly ManualClock _clock = new();
    private readonly CancelInMarking _trace = new();
    private ServedHost _served = null!;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private ControlClient Client => _served.Client;

    public async ValueTask InitializeAsync()
    {
        WayleaveHostOptions options = new() { Trace = _trace };
        _served = await ServedHost.StartAsync(_folder, "127.0.72.1", _clock, options);
    }

    public async ValueTask DisposeAsync()
    {
        await _served.DisposeAsync();
        _folder.Dispose();
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task An_audit_finds_what_is_written_after_the_proof()
    {
        await MakeAsync("a");
        await using HeldAudit held = await StartAsync("a");
        Assert.Equal((Size, 7UL), (held.Audit.OverlapBytes, held.Audit.Seed));
        Assert.Equal(RetirementGrade.Retired, held.Audit.Proof.Grade);
        AuditFindingsDocument clean = await Client.InspectAuditAsync(held.Audit.Id, Cancellation);
        Assert.Equal((0L, false, (long)Size), (clean.LateWriteBytes, clean.KeyReused, clean.InspectedBytes));

        // Somebody whom nothing stopped: a byte in the middle of the new owner's memory.
        DeviceObject owner = Assert.Single(_served.Host.Objects.List());
        await _served.Host.Objects.ForEachPieceAsync(owner, (_, bytes) => bytes[4097] ^= 1, Cancellation);
        Assert.Equal(1, (await Client.InspectAuditAsync(held.Audit.Id, Cancellation)).LateWriteBytes);
        Assert.Equal(1, (await Client.EndAuditAsync(held.Audit.Id, Cancellation)).LateWriteBytes);
        await ExpectNothingHeldAsync();
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task An_audit_ends_when_its_client_leaves()
    {
        await MakeAsync("a");
        HeldAudit held = await StartAsync("a");
        Assert.Single(_served.Host.Objects.List());
        await held.DisposeAsync();
        await ExpectNothingHeldAsync();
        Assert.Equal(Errno.ENOENT, (await RefusedAsync(() => Client.InspectAuditAsync(held.Audit.Id))).Errno);
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task An_audit_ends_when_its_client_dies()
    {
        await MakeAsync("a");
        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.LingerState = new LingerOption(true, 0);
        await socket.ConnectAsync(_served.Server.EndPoint, Cancellation);
        await socket.SendAsync(Encoding.ASCII.GetBytes(
            $"POST /v1/objects/gpu0/a/audits HTTP/1.1\r\nHost: {_served.Server.EndPoint}\r\n"
            + $"Authorization: Bearer {_served.Token}\r\nContent-Type: application/json\r\n"
            + $"Content-Length: {Start.Length}\r\n\r\n{Start}"), Cancellation);
        byte[] answer = new byte[1024];
        Assert.StartsWith(
            "HTTP/1.1 200 ",
            Encoding.ASCII.GetString(answer, 0, await socket.ReceiveAsync(answer, Cancellation)),
            StringComparison.Ordinal);
        Assert.Equal("audit-", Assert.Single(_served.Host.Objects.List()).Name[..6]);
        socket.Dispose(); // with that linger option: RST, as from a killed process with unread data
        await ExpectNothingHeldAsync();
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_holder_learns_that_its_audit_was_ended_or_that_the_host_stops()
    {
        await MakeAsync("a");
        await MakeAsync("b");
        await using HeldAudit first = await StartAsync("a");
        await using HeldAudit second = await StartAsync("b");
        await Client.EndAuditAsync(first.Audit.Id, Cancellation);
        _clock.Advance(TimeSpan.FromSeconds(1));
        await first.Completion.WaitAsync(Cancellation);
        Assert.False(second.Completion.IsCompleted);
        await _served.Server.DisposeAsync();
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => second.Completion);
        Assert.Equal((Errno.ENODEV, "the host stops"), (e.Errno, e.Reason));
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task An_object_is_audited_once()
    {
        ObjectDocument made = await MakeAsync("a");
        SharedBuffer buffer = _served.Host.Objects.Find(made.Id)!.Buffer;
        AcquireTicket held = Hold(buffer); // the first audit waits for it in its revoke
        Task<HeldAudit> first = StartAsync("a");
        await UntilAsync(() => buffer.IsRevoked);
        WayleaveException e = await RefusedAsync(() => StartAsync("a"));
        Assert.Equal((Errno.EALREADY, "another audit is taking it back"), (e.Errno, e.Reason));
        Release(buffer, held);
        await using (await first)
        {
            e = await RefusedAsync(() => StartAsync("a"));
            Assert.Equal((Errno.ENOENT, "there is no such object"), (e.Errno, e.Reason));
        }

        await ExpectNothingHeldAsync();
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task Memory_without_a_sufficient_proof_gets_no_new_owner()
    {
        ObjectDocument made = await MakeAsync("a");
        SharedBuffer buffer = _served.Host.Objects.Find(made.Id)!.Buffer;
        AcquireTicket held = Hold(buffer);
        StartAuditDocument start = new() { Seed = 7, TimeoutMs = 1 };
        WayleaveException e = await RefusedAsync(() => Client.StartAuditAsync("gpu0", "a", start, Cancellation));
        Assert.Equal((Errno.EBUSY, "its memory stays in quarantine"), (e.Errno, e.Remedy));
        Assert.Equal(ObjectState.Quarantined, Assert.Single(_served.Host.Objects.List()).State);
        Release(buffer, held);
        await ExpectNothingHeldAsync();
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_new_owner_that_could_not_be_marked_is_given_up()
    {
        ObjectDocument made = await MakeAsync("a");
        using CancellationTokenSource source = new();
        _trace.Source = source;
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => _served.Host.Audits.StartAsync(
            _served.Host.Objects.Find(made.Id)!, new RevokePolicy(), seed: 7, source.Token));
        Assert.True(_trace.HasCancelled);
        await ExpectNothingHeldAsync();
    }

    [Theory(Timeout = Patience.TestMs)]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_device_that_hands_the_number_of_a_dead_key_out_again_is_found(bool isSound)
    {
        WayleaveHostOptions options = new() { Defences = new ResponderDefences { HoldsDeadNumbers = isSound } };
        await using ServedHost served = await ServedHost.StartAsync(_folder, "127.0.72.2", _clock, options);
        ObjectDocument made = await MakeAsync(served.Client, "a");
        LeaseRequestDocument request = new()
        {
            Access = LeaseAccess.ReadWrite,
            Peer = new() { Gid = "127.0.72.9", UdpPort = 9, QpNumber = 2, Psn = 0, PathMtuBytes = 1024 },
        };
        await using HeldLease lease = await served.Client.LeaseAsync(made.Id, request, Cancellation);
        await using HeldAudit held = await served.Client.StartAuditAsync(
            "gpu0", "a", new StartAuditDocument { Seed = 7 }, Cancellation);
        AuditFindingsDocument found = await served.Client.InspectAuditAsync(held.Audit.Id, Cancellation);
        Assert.Equal((!isSound, 0L), (found.KeyReused, found.LateWriteBytes));
        Assert.Equal(lease.Lease.Rkey, Assert.Single(found.Regions).Key);
    }

    [Theory(Timeout = Patience.TestMs)]
    [InlineData("POST", "/v1/objects/gpu0/none/audits", 404, "there is no such object")]
    [InlineData("POST", "/v1/objects/gpu9/a/audits", 404, "there is no such object")]
    [InlineData("GET", "/v1/audits/99", 404, "it has ended")]
    [InlineData("DELETE", "/v1/audits/99", 404, "it has ended")]
    [InlineData("GET", "/v1/audits/x", 400, "'x' is not a number")]
    public async Task What_is_not_there_is_told(string method, string path, int status, string reason)
    {
        (HttpStatusCode code, string answer) = await AskAsync(method, path, _served.Token);
        Assert.Equal(status, (int)code);
        Assert.Contains(reason, System.Text.RegularExpressions.Regex.Unescape(answer), StringComparison.Ordinal);
    }

    [Theory(Timeout = Patience.TestMs)]
    [InlineData("POST", "/v1/objects/gpu0/a/audits")]
    [InlineData("GET", "/v1/audits/1")]
    [InlineData("DELETE", "/v1/audits/1")]
    public async Task Nobody_audits_without_the_token(string method, string path)
    {
        ObjectDocument made = await MakeAsync("a");
        foreach (string? token in (string?[])[null, new string('0', 64)])
        {
            (HttpStatusCode code, _) = await AskAsync(method, path, token);
            Assert.Equal(HttpStatusCode.Unauthorized, code);
        }

        Assert.Equal(made.Id, Assert.Single(_served.Host.Objects.List()).Id);
    }

    private Task<ObjectDocument> MakeAsync(string name) => MakeAsync(Client, name);

    private static async Task<ObjectDocument> MakeAsync(ControlClient client, string name)
    {
        CreateObjectDocument create = new() { Device = "gpu0", Name = name, SizeBytes = Size };
        ObjectDocument made = await client.CreateObjectAsync(create, Cancellation);
        return await client.CommitObjectAsync(made.Id, null, Cancellation);
    }

    private Task<HeldAudit> StartAsync(string name) =>
        Client.StartAuditAsync("gpu0", name, new StartAuditDocument { Seed = 7 }, Cancellation);

    private static Task<WayleaveException> RefusedAsync(Func<Task> request) =>
        Assert.ThrowsAsync<WayleaveException>(request);

    private async Task<(HttpStatusCode Code, string Answer)> AskAsync(string method, string path, string? token)
    {
        using HttpClient http = new();
        using HttpRequestMessage request = new(new HttpMethod(method), $"http://{_served.Server.EndPoint}{path}");
        request.Headers.Authorization = token is null ? null : new("Bearer", token);
        request.Content = method == "POST" ? new StringContent(Start, Encoding.UTF8, "application/json") : null;
        using HttpResponseMessage response = await http.SendAsync(request, Cancellation);
        return (response.StatusCode, await response.Content.ReadAsStringAsync(Cancellation));
    }

    private async Task ExpectNothingHeldAsync()
    {
        await UntilAsync(() => _served.Host.Objects.List().Count == 0);
        GpuDocument gpu = (await Client.GetDevicesAsync(Cancellation)).Gpus[0];
        Assert.Equal((0UL, 0UL), (gpu.VramUsedBytes, gpu.VramQuarantinedBytes));
    }

    private AcquireTicket Hold(SharedBuffer buffer)
    {
        using (_served.Host.Context.Enter())
        {
            AcquireTicket ticket = new(_served.Host.Context, "test");
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
            return ticket;
        }
    }

    private void Release(SharedBuffer buffer, AcquireTicket ticket)
    {
        using (_served.Host.Context.Enter())
        {
            buffer.Reservation.Unlock(ticket);
        }
    }

    private static async Task UntilAsync(Func<bool> condition)
    {
        while (!condition())
        {
            Cancellation.ThrowIfCancellationRequested();
            await Task.Yield();
        }
    }

    /// <summary>
    /// Cancels when the memory of the new owner has been cleared, which is before its first byte is marked.
    /// </summary>
    private sealed class CancelInMarking : ITraceSink
    {
        public CancellationTokenSource? Source { get; set; }

        public bool HasCancelled { get; private set; }

        public void Emit(in TraceEvent traceEvent)
        {
            if (Source is { } source && traceEvent.Subject.Contains("audit-", StringComparison.Ordinal))
            {
                HasCancelled = true;
                source.Cancel();
            }
        }
    }
}
