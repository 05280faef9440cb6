using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Host;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>Every request of the API, asked of a real host by the real client.</summary>
public sealed class ControlServerTests : IAsyncLifetime
{
    private const ulong Size = 64 * 1024;

    private static readonly ConnectionEndDocument s_peer = new()
    {
        Gid = "127.0.0.3",
        UdpPort = 4791,
        QpNumber = 17,
        Psn = 0,
        PathMtuBytes = 1024,
    };

    private readonly ControlTestFolder _folder = new();
    private readonly ManualClock _clock = new();
    private WayleaveHost _host = null!;
    private ControlServer _server = null!;
    private ControlClient _client = null!;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _host = await WayleaveHost.StartAsync(ControlTestFolder.Config);
        _server = await ControlServer.StartAsync(_host, _folder.ListenerOptions with { Clock = _clock }, Cancellation);
        _client = ControlClient.Open(Url, _folder.ClientOptions);
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _server.DisposeAsync();
        await _host.DisposeAsync();
        _folder.Dispose();
    }

    private WlUrl Url => WlUrl.Create(_server.EndPoint.Address.ToString(), _server.EndPoint.Port);

    [Fact]
    public async Task A_host_says_who_it_is_over_tcp_and_over_its_socket()
    {
        HostDocument overTcp = await _client.GetHostAsync(Cancellation);
        Assert.Equal(
            ("host", _server.EndPoint.ToString(), _server.SocketPath), (overTcp.Name, overTcp.Control, overTcp.Socket));
        using ControlClient local = ControlClient.Open(null, _folder.ClientOptions);
        Assert.Equal(Environment.ProcessId, (await local.GetHostAsync(Cancellation)).ProcessId);
        using ControlClient socket = ControlClient.Open(
            null, _folder.ClientOptions with { SocketPath = _server.SocketPath });
        Assert.Equal("host", (await socket.GetHostAsync(Cancellation)).Name);
    }

    [Fact]
    public async Task Devices_and_counters_are_those_of_the_host()
    {
        DevicesDocument devices = await _client.GetDevicesAsync(Cancellation);
        GpuDocument gpu = Assert.Single(devices.Gpus);
        Assert.Equal(("gpu0", 64UL << 20, 0UL), (gpu.Name, gpu.VramTotalBytes, gpu.VramUsedBytes));
        NicDocument nic = Assert.Single(devices.Nics);
        Assert.Equal(
            ("rdma0", "127.0.0.2", (int)_host.Nics[0].UdpPort, 4096),
            (nic.Name, nic.Gid, nic.UdpPort, nic.PathMtuBytes));
        Assert.Empty(nic.Peers);
        ObjectDocument made = await CreateAsync("a");
        await using HeldLease lease = await LeaseAsync(made);
        StatsDocument stats = await _client.GetStatsAsync(Cancellation);
        Assert.Equal((1, 1), (stats.Objects, stats.Leases));
        Assert.Equal((long)Size, stats.Devices["gpu0"]["vram_used_bytes"]);
        Assert.Equal(0, stats.Devices["rdma0"]["dropped_bad_icrc"]);
        NicPeerDocument peer = Assert.Single((await _client.GetDevicesAsync(Cancellation)).Nics[0].Peers);
        Assert.Equal(new NicPeerDocument("127.0.0.3", "own_identification"), peer);
    }

    [Fact]
    public async Task An_object_lives_from_creation_over_moves_to_its_revoke()
    {
        ObjectDocument made = await CreateAsync("model.bin");
        Assert.Equal(
            (ObjectState.Writing, StorageKind.Movable, ObjectPlace.Vram), (made.State, made.Storage, made.Placement));
        WayleaveException invisible = await Assert
            .ThrowsAsync<WayleaveException>(() => _client.GetObjectAsync("gpu0", "model.bin", Cancellation));
        Assert.Equal(Errno.ENOENT, invisible.Errno);

        string zeros = Convert.ToHexStringLower(SHA256.HashData(new byte[Size]));
        ObjectDocument ready = await _client.CommitObjectAsync(made.Id, zeros, Cancellation);
        Assert.Equal((made.Id, ObjectState.Ready, zeros), (ready.Id, ready.State, ready.Sha256));
        Assert.Equal(ready.Id, (await _client.GetObjectAsync("gpu0", "model.bin", Cancellation)).Id);
        Assert.Equal(ready.Id, Assert.Single((await _client.GetObjectsAsync(Cancellation)).Objects).Id);

        Assert.Equal(ObjectPlace.System, (await _client.EvictAsync("gpu0", "model.bin", Cancellation)).Placement);
        ObjectDocument restored = await _client.RestoreAsync("gpu0", "model.bin", Cancellation);
        Assert.Equal((ObjectPlace.Vram, 2), (restored.Placement, restored.Moves));
        DigestDocument digest = await _client.GetSha256Async("gpu0", "model.bin", Cancellation);
        Assert.Equal((Size, zeros), (digest.SizeBytes, digest.Sha256));

        ProofDocument proof = await _client
            .RevokeAsync("gpu0", "model.bin", new RevokeObjectDocument { Reason = "test" }, Cancellation);
        Assert.Equal((RetirementGrade.Retired, true, "test"), (proof.Grade, proof.Sufficient, proof.Reason));
        Assert.Empty((await _client.GetObjectsAsync(Cancellation)).Objects);
    }

    [Fact]
    public async Task A_lease_says_all_that_a_peer_needs()
    {
        ObjectDocument made = await CreateAsync("a");
        await using HeldLease held = await LeaseAsync(made);
        Assert.Equal(("gpu0/a", made.Id, Size), (held.Lease.ObjectName, held.Lease.ObjectId, held.Lease.LengthBytes));
        Assert.Equal(
            ("127.0.0.2", _host.Nics[0].UdpPort, 1024),
            (held.Lease.Local.Gid, held.Lease.Local.UdpPort, held.Lease.Local.PathMtuBytes));
        Lease lease = Assert.Single(_host.Leases.List());
        Assert.Equal((held.Lease.Id, held.Lease.Rkey, held.Lease.Va), (lease.Id, lease.Region.Key, lease.Region.Iova));
        Assert.False(held.Completion.IsCompleted);
    }

    [Fact]
    public async Task A_writer_that_leaves_before_the_commit_leaves_nothing_behind()
    {
        ObjectDocument made = await CreateAsync("a");
        await (await LeaseAsync(made)).DisposeAsync();
        await UntilAsync(() => _host.Objects.List().Count == 0);
        Assert.Empty(_host.Leases.List());
        WayleaveException e = await Assert
            .ThrowsAsync<WayleaveException>(() => _client.CommitObjectAsync(made.Id, null, Cancellation));
        Assert.Equal(Errno.ENOENT, e.Errno);
    }

    [Fact]
    public async Task A_writer_whose_connection_is_reset_leaves_nothing_behind()
    {
        ObjectDocument made = await CreateAsync("a");
        const string Peer = """{"gid":"127.0.0.3","udp_port":1,"qp_number":1,"psn":1,"path_mtu_bytes":256}""";
        string body = $$"""{"access":"write","peer":{{Peer}}}""";
        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.LingerState = new LingerOption(true, 0);
        await socket.ConnectAsync(_server.EndPoint, Cancellation);
        await socket.SendAsync(Encoding.ASCII.GetBytes(
            $"POST /v1/objects/{made.Id}/leases HTTP/1.1\r\nHost: {_server.EndPoint}\r\n"
            + $"Authorization: Bearer {Token}\r\n"
            + $"Content-Type: application/json\r\nContent-Length: {body.Length}\r\n\r\n{body}"), Cancellation);
        await UntilAsync(() => _host.Leases.List().Count == 1);
        socket.Dispose(); // with that linger option: RST, as from a killed process with unread data
        await UntilAsync(() => _host.Objects.List().Count == 0);
        Assert.Empty(_host.Leases.List());
    }

    [Fact]
    public async Task An_object_that_nobody_leases_is_given_up_after_a_while()
    {
        ControlListenerOptions limits = new();
        await CreateAsync("a");
        _clock.Advance(limits.UnleasedObjectMax - TimeSpan.FromTicks(1));
        Assert.Single(_host.Objects.List());
        _clock.Advance(TimeSpan.FromTicks(1));
        await UntilAsync(() => _host.Objects.List().Count == 0);
    }

    [Fact]
    public async Task A_lease_keeps_an_object_beyond_that_while()
    {
        await using HeldLease lease = await LeaseAsync(await CreateAsync("a"));
        _clock.Advance(new ControlListenerOptions().UnleasedObjectMax * 2);
        Assert.Single(_host.Objects.List());
    }

    [Fact]
    public async Task A_commit_ends_the_lease_and_its_holder_hears_it()
    {
        ObjectDocument made = await CreateAsync("a");
        await using HeldLease held = await LeaseAsync(made);
        await _client.CommitObjectAsync(made.Id, null, Cancellation);
        Assert.Empty(_host.Leases.List());
        _clock.Advance(TimeSpan.FromSeconds(1));
        await held.Completion.WaitAsync(Patience.Max, Cancellation);
        await held.DisposeAsync();
        Assert.Equal(made.Id, (await _client.GetObjectAsync("gpu0", "a", Cancellation)).Id);
    }

    [Fact]
    public async Task A_commit_that_takes_long_is_not_given_up_by_the_end_of_its_lease()
    {
        ObjectDocument made = await CreateAsync("a");
        await using HeldLease held = await LeaseAsync(made);
        SharedBuffer buffer = _host.Objects.Find(made.Id)!.Buffer;
        AcquireTicket ticket = HoldReservation(buffer); // the checksum cannot begin
        string zeros = Convert.ToHexStringLower(SHA256.HashData(new byte[Size]));
        Task<ObjectDocument> commit = _client.CommitObjectAsync(made.Id, zeros, Cancellation);
        await UntilAsync(() => _host.Objects.Find(made.Id)!.State == ObjectState.Committing);
        for (int beat = 0; beat < 50; beat++)
        {
            _clock.Advance(TimeSpan.FromSeconds(1)); // the stream of the lease looks at what became of it
            await Task.Yield();
        }

        ReleaseReservation(buffer, ticket);
        Assert.Equal(ObjectState.Ready, (await commit).State);
        _clock.Advance(TimeSpan.FromSeconds(1));
        await held.Completion.WaitAsync(Patience.Max, Cancellation);
    }

    [Fact]
    public async Task A_commit_whose_client_leaves_gives_the_object_up()
    {
        ObjectDocument made = await CreateAsync("a");
        SharedBuffer buffer = _host.Objects.Find(made.Id)!.Buffer;
        AcquireTicket ticket = HoldReservation(buffer);
        using CancellationTokenSource leaving = new();
        Task<ObjectDocument> commit = _client.CommitObjectAsync(made.Id, new string('0', 64), leaving.Token);
        await UntilAsync(() => _host.Objects.Find(made.Id)!.State == ObjectState.Committing);
        await leaving.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => commit);
        ReleaseReservation(buffer, ticket);
        await UntilAsync(() => _host.Objects.List().Count == 0);
    }

    [Fact]
    public async Task An_object_that_is_being_taken_back_cannot_be_committed_and_keeps_its_predecessor_alive()
    {
        ObjectDocument first = await _client.CommitObjectAsync((await CreateAsync("a")).Id, null, Cancellation);
        ObjectDocument made = await CreateAsync("a");
        SharedBuffer buffer = _host.Objects.Find(made.Id)!.Buffer;
        AcquireTicket ticket = HoldReservation(buffer); // the revoke cannot end
        Task<ProofDocument> deleted = _client.DeleteObjectAsync(made.Id, Cancellation);
        await UntilAsync(() => buffer.IsRevoked);
        WayleaveException e = await Assert
            .ThrowsAsync<WayleaveException>(() => _client.CommitObjectAsync(made.Id, null, Cancellation));
        Assert.Equal(Errno.ENODEV, e.Errno);
        Assert.Contains("it is being taken back", e.Message, StringComparison.Ordinal);
        ReleaseReservation(buffer, ticket);
        Assert.Equal(RetirementGrade.Retired, (await deleted).Grade);
        Assert.Equal(first.Id, (await _client.GetObjectAsync("gpu0", "a", Cancellation)).Id);
    }

    [Fact]
    public async Task Of_two_commits_of_one_name_at_a_time_one_object_is_left()
    {
        ObjectDocument first = await _client.CommitObjectAsync((await CreateAsync("a")).Id, null, Cancellation);
        SharedBuffer buffer = _host.Objects.Find(first.Id)!.Buffer;
        AcquireTicket ticket = HoldReservation(buffer); // its successor cannot finish taking it back
        ObjectDocument second = await CreateAsync("a");
        Task<ObjectDocument> slow = _client.CommitObjectAsync(second.Id, null, Cancellation);
        await UntilAsync(() => buffer.IsRevoked);
        Assert.Equal(second.Id, (await _client.GetObjectAsync("gpu0", "a", Cancellation)).Id);
        Task<ObjectDocument> third = _client.CommitObjectAsync((await CreateAsync("a")).Id, null, Cancellation);
        ReleaseReservation(buffer, ticket);
        await slow;
        ObjectDocument last = await third;
        Assert.Equal(last.Id, Assert.Single((await _client.GetObjectsAsync(Cancellation)).Objects).Id);
    }

    [Fact]
    public async Task A_second_commit_of_a_name_replaces_the_first()
    {
        ObjectDocument first = await _client.CommitObjectAsync((await CreateAsync("a")).Id, null, Cancellation);
        ObjectDocument second = await _client.CommitObjectAsync((await CreateAsync("a")).Id, null, Cancellation);
        Assert.NotEqual(first.Id, second.Id);
        Assert.Equal(second.Id, Assert.Single((await _client.GetObjectsAsync(Cancellation)).Objects).Id);
    }

    [Fact]
    public async Task Content_that_differs_from_what_was_sent_never_gets_the_name()
    {
        ObjectDocument made = await CreateAsync("a");
        string wrong = new('0', 64);
        WayleaveException e = await Assert
            .ThrowsAsync<WayleaveException>(() => _client.CommitObjectAsync(made.Id, wrong, Cancellation));
        Assert.Equal(Errno.EIO, e.Errno);
        Assert.Contains($"not {wrong}; send it again", e.Message, StringComparison.Ordinal);
        Assert.Empty(_host.Objects.List());
    }

    [Fact]
    public async Task A_revoke_tells_the_holder_and_keeps_the_key_taken_until_the_holder_leaves()
    {
        ObjectDocument made = await CreateAsync("a");
        HeldLease writer = await LeaseAsync(made);
        await _client.CommitObjectAsync(made.Id, null, Cancellation);
        await writer.DisposeAsync();
        HeldLease held = await LeaseAsync(made, ImporterKind.PinnedRevocable);
        ProofDocument proof = await _client.RevokeAsync("gpu0", "a", new RevokeObjectDocument(), Cancellation);
        ImporterProofDocument importer = Assert.Single(proof.Importers, i => i.Key == held.Lease.Rkey);
        Assert.Equal((RetirementGrade.Retired, ImporterKind.PinnedRevocable), (importer.Grade, importer.Kind));
        _clock.Advance(TimeSpan.FromSeconds(1));
        WayleaveException e = await Assert
            .ThrowsAsync<WayleaveException>(() => held.Completion.WaitAsync(Patience.Max, Cancellation));
        Assert.Equal(Errno.ENODEV, e.Errno);
        Assert.EndsWith("the owner took the memory back", e.Message, StringComparison.Ordinal);
        Assert.Single(_host.Leases.List());
        await held.DisposeAsync();
        await UntilAsync(() => _host.Leases.List().Count == 0);
    }

    [Fact]
    public async Task When_the_host_stops_the_holder_hears_it()
    {
        await using HeldLease held = await LeaseAsync(await CreateAsync("a"));
        await _server.DisposeAsync();
        WayleaveException e = await Assert
            .ThrowsAsync<WayleaveException>(() => held.Completion.WaitAsync(Patience.Max, Cancellation));
        Assert.EndsWith("the host stops", e.Message, StringComparison.Ordinal);
        Assert.Empty(_host.Leases.List());
        Assert.Empty(_host.Objects.List());
        Assert.Empty(_folder.Leftovers());
    }

    [Fact]
    public async Task A_lease_gets_another_queue_pair_for_the_same_peer_only()
    {
        await using HeldLease held = await LeaseAsync(await CreateAsync("a"));
        ConnectionEndDocument second = await _client
            .ReconnectAsync(held.Lease.Id, s_peer with { QpNumber = 18 }, Cancellation);
        Assert.NotEqual(held.Lease.Local.QpNumber, second.QpNumber);
        Lease lease = Assert.Single(_host.Leases.List());
        Assert.Equal(2, lease.QueuePairs.Count);
        lease.QueuePairs.ForEach(_host.Nics[0].Abort);
        await _client.ReconnectAsync(held.Lease.Id, s_peer with { QpNumber = 19 }, Cancellation);
        Assert.Single(lease.QueuePairs); // those that failed are gone
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => _client.ReconnectAsync(held.Lease.Id, s_peer with { Gid = "127.0.0.4" }, Cancellation));
        Assert.Equal(Errno.EACCES, e.Errno);
    }

    [Fact]
    public async Task Peers_that_have_left_keep_no_protection_domain()
    {
        ObjectDocument made = await CreateAsync("a");
        DeviceObject o = _host.Objects.Find(made.Id)!;
        List<Lease> leases = [];
        for (int peer = 0; peer < 50; peer++)
        {
            ConnectionEnd end = (s_peer with { Gid = $"127.0.74.{peer / 2 + 1}", QpNumber = (uint)peer + 2 }).ToEnd();
            leases.Add(await _host.Leases.LendAsync(o, new LeaseRequest(LeaseAccess.Write, ImporterKind.Dynamic, end)));
        }

        Assert.Equal(25, _host.Leases.DomainCount);
        Assert.Same(leases[0].Region.Domain, leases[1].Region.Domain);
        Assert.NotSame(leases[1].Region.Domain, leases[2].Region.Domain);
        await _host.Leases.EndAsync(leases[0]);
        Assert.Equal(25, _host.Leases.DomainCount); // the peer's other lease is there
        foreach (Lease lease in leases)
        {
            await _host.Leases.EndAsync(lease);
        }

        Assert.Equal(0, _host.Leases.DomainCount);
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_second_revoke_has_its_own_policy_and_its_own_proof()
    {
        ObjectDocument made = await CreateAsync("a");
        await _client.CommitObjectAsync(made.Id, null, Cancellation);
        SharedBuffer buffer = _host.Objects.Find(made.Id)!.Buffer;
        AcquireTicket held = HoldReservation(buffer); // every revoke waits for it
        Task<ProofDocument> first = RevokeAsync(RetirementGrade.Drained, 30_000);
        await UntilAsync(() => buffer.IsRevoked);
        ProofDocument impatient = await RevokeAsync(RetirementGrade.Retired, 1);
        Assert.Equal(
            (RetirementGrade.Retired, false, QuarantineCause.ReservationHeld),
            (impatient.RequiredGrade, impatient.Sufficient, impatient.Cause));
        Assert.False(first.IsCompleted);
        ReleaseReservation(buffer, held);
        ProofDocument proof = await first;
        Assert.Equal((RetirementGrade.Drained, true), (proof.RequiredGrade, proof.Sufficient));
        await UntilAsync(() => _host.Objects.List().Count == 0);

        Task<ProofDocument> RevokeAsync(RetirementGrade grade, int timeoutMs) => _client.RevokeAsync(
            "gpu0", "a", new RevokeObjectDocument { Grade = grade, TimeoutMs = timeoutMs }, Cancellation);
    }

    public static TheoryData<string, string, string, int, string> Refusals => new()
    {
        { "POST", "/v1/objects", """{"device":"gpu9","name":"a","size_bytes":1}""",
            410, "find device gpu9: this host has no such device with memory; it has gpu0, nvme0" },
        { "POST", "/v1/objects", """{"device":"gpu0","name":"../a","size_bytes":1}""",
            400, "the object name contains '/'" },
        { "POST", "/v1/objects", """{"device":"gpu0","name":"a","size_bytes":0}""",
            400, "an object has at least one byte" },
        { "POST", "/v1/objects", """{"device":"gpu0","name":"a","size_bytes":1099511627776}""",
            507, "64MiB of 64MiB are free on gpu0" },
        { "POST", "/v1/objects", """{"device":"gpu0","name":"a","size_bytes":-1}""",
            400, "the body is not what it should be" },
        { "POST", "/v1/objects", """{"device":"gpu0","name":"a","size_bytes":1,"storage":"liquid"}""",
            400, "the body is not what it should be" },
        { "POST", "/v1/objects", """{"device":"gpu0","name":"a","size_bytes":1,"x":1}""",
            400, "the body is not what it should be" },
        { "POST", "/v1/objects", """{"device":"gpu0","name":"a","name":"b","size_bytes":1}""",
            400, "the body is not what it should be" },
        { "POST", "/v1/objects", """{"device":null,"name":"a","size_bytes":1}""",
            400, "the body is not what it should be" },
        { "POST", "/v1/objects", """{"device":"gpu0"}""", 400, "the body is not what it should be" },
        { "POST", "/v1/objects", "null", 400, "the body is null" },
        { "POST", "/v1/objects", "[[[[", 400, "the body is not what it should be" },
        { "POST", "/v1/objects", "", 400, "the body is not what it should be" },
        { "POST", "/v1/objects/1x/commit", "{}", 400, "'1x' is not a number" },
        { "POST", "/v1/objects/-1/commit", "{}", 400, "'-1' is not a number" },
        { "POST", "/v1/objects/99999/commit", "{}", 404, "find object 99999: it was given up or taken back" },
        { "DELETE", "/v1/objects/99999", "", 404, "find object 99999" },
        { "POST", "/v1/objects/gpu0/a/evict", "",
            404, "find gpu0/a: there is no such object; wayleave ls shows what there is" },
        { "POST", "/v1/objects/gpu0/a/restore", "", 404, "find gpu0/a: there is no such object" },
        { "GET", "/v1/objects/gpu0/a/sha256", "", 404, "find gpu0/a: there is no such object" },
        { "POST", "/v1/objects/gpu0/a/revoke", "{}", 404, "find gpu0/a: there is no such object" },
        { "POST", "/v1/objects/gpu0/a/revoke", """{"grade":"None"}""", 400, "memory is never given out on time alone" },
        { "POST", "/v1/objects/gpu0/a/revoke", """{"grade":4}""", 400, "the body is not what it should be" },
        { "POST", "/v1/objects/gpu0/a/revoke", """{"timeout_ms":-1}""", 400, "timeout_ms is -1" },
        { "POST", "/v1/leases/5/connections",
            """{"peer":{"gid":"x","udp_port":1,"qp_number":1,"psn":1,"path_mtu_bytes":256}}""",
            404, "it has ended" },
        { "PUT", "/v1/objects", "{}", 404, "no such resource: PUT /v1/objects" },
        { "GET", "/v2/objects", "", 404, "no such resource: GET /v2/objects" },
        { "GET", "/", "", 404, "no such resource" },
    };

    [Theory]
    [MemberData(nameof(Refusals))]
    public async Task A_request_that_makes_no_sense_is_refused_with_the_reason(
        string method, string path, string body, int status, string reason)
    {
        using HttpClient http = new();
        using HttpRequestMessage request = new(new HttpMethod(method), $"http://{_server.EndPoint}{path}");
        request.Headers.Authorization = new("Bearer", Token);
        request.Content = method is "POST" or "PUT" ? new StringContent(body, Encoding.UTF8, "application/json") : null;
        using HttpResponseMessage response = await http.SendAsync(request, Cancellation);
        string answer = await response.Content.ReadAsStringAsync(Cancellation);
        Assert.Equal(status, (int)response.StatusCode);
        Assert.Contains(reason, System.Text.RegularExpressions.Regex.Unescape(answer), StringComparison.Ordinal);
        Assert.Empty(_host.Objects.List());
    }

    [Fact]
    public async Task A_form_of_a_foreign_page_is_refused()
    {
        using HttpClient http = new();
        using HttpRequestMessage request = new(HttpMethod.Post, $"http://{_server.EndPoint}/v1/objects");
        request.Headers.Authorization = new("Bearer", Token);
        request.Content =
            new StringContent("""{"device":"gpu0","name":"a","size_bytes":1}""", Encoding.UTF8, "text/plain");
        using HttpResponseMessage response = await http.SendAsync(request, Cancellation);
        Assert.Equal(400, (int)response.StatusCode);
        Assert.Empty(_host.Objects.List());
    }

    public static TheoryData<ConnectionEndDocument> NoPeers =>
    [
        s_peer with { Gid = "nowhere" },
        s_peer with { Gid = "::1" },
        s_peer with { QpNumber = 1 << 24 },
        s_peer with { Psn = 1 << 24 },
        s_peer with { UdpPort = 0 },
        s_peer with { PathMtuBytes = 1500 },
        s_peer with { PathMtuBytes = 0 },
    ];

    [Theory]
    [MemberData(nameof(NoPeers))]
    public async Task A_peer_that_cannot_be_gets_no_lease(ConnectionEndDocument peer)
    {
        ObjectDocument made = await CreateAsync("a");
        LeaseRequestDocument request = new() { Access = LeaseAccess.Write, Peer = peer };
        WayleaveException e = await Assert
            .ThrowsAsync<WayleaveException>(() => _client.LeaseAsync(made.Id, request, Cancellation));
        Assert.Equal(Errno.EINVAL, e.Errno);
        Assert.Empty(_host.Leases.List());
    }

    [Fact]
    public async Task A_reader_neither_sees_nor_ends_what_is_being_written()
    {
        ObjectDocument made = await CreateAsync("a");
        await using HeldLease writer = await LeaseAsync(made);
        LeaseRequestDocument request = new() { Access = LeaseAccess.Read, Peer = s_peer with { QpNumber = 19 } };
        WayleaveException e = await Assert
            .ThrowsAsync<WayleaveException>(() => _client.LeaseAsync(made.Id, request, Cancellation));
        Assert.Equal(Errno.EBUSY, e.Errno);
        Assert.Equal(ObjectState.Writing, Assert.Single(_host.Objects.List()).State);
        await _client.CommitObjectAsync(made.Id, null, Cancellation);
        await (await _client.LeaseAsync(made.Id, request, Cancellation)).DisposeAsync();
        await UntilAsync(() => _host.Leases.List().Count == 0);
        Assert.Equal(ObjectState.Ready, Assert.Single(_host.Objects.List()).State);
    }

    [Fact]
    public async Task A_region_that_cannot_be_taken_back_is_not_lent()
    {
        ObjectDocument made = await CreateAsync("a");
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => LeaseAsync(made, ImporterKind.Pinned));
        Assert.Equal(Errno.EOPNOTSUPP, e.Errno);
    }

    private AcquireTicket HoldReservation(SharedBuffer buffer)
    {
        using (_host.Context.Enter())
        {
            AcquireTicket ticket = new(_host.Context, "test");
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
            return ticket;
        }
    }

    private void ReleaseReservation(SharedBuffer buffer, AcquireTicket ticket)
    {
        using (_host.Context.Enter())
        {
            buffer.Reservation.Unlock(ticket);
        }
    }

    private string Token => File.ReadAllText(_server.TokenFile!).Trim();

    private Task<ObjectDocument> CreateAsync(string name) =>
        _client.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = name, SizeBytes = Size }, Cancellation);

    private Task<HeldLease> LeaseAsync(ObjectDocument o, ImporterKind region = ImporterKind.Dynamic) =>
        _client.LeaseAsync(
        o.Id, new LeaseRequestDocument { Access = LeaseAccess.Write, Region = region, Peer = s_peer }, Cancellation);

    /// <summary>Waits for what the server does on its own; the test's time limit ends it.</summary>
    private static async Task UntilAsync(Func<bool> condition)
    {
        while (!condition())
        {
            Cancellation.ThrowIfCancellationRequested();
            await Task.Yield();
        }
    }
}
