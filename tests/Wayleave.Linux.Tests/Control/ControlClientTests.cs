using System.Net;
using System.Net.Sockets;
using System.Text;
using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>What a user reads when the other end is not there, is not a host, or dies.</summary>
public sealed class ControlClientTests : IDisposable
{
    private readonly ControlTestFolder _folder = new();
    private readonly Socket _listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);

    public ControlClientTests()
    {
        _listener.Bind(new IPEndPoint(IPAddress.Parse("127.0.0.2"), 0));
        _folder.Variables["WAYLEAVE_TOKEN"] = new string('t', 32);
    }

    public void Dispose()
    {
        _listener.Dispose();
        _folder.Dispose();
    }

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private int Port => ((IPEndPoint)_listener.LocalEndPoint!).Port;

    [Fact]
    public async Task Nobody_listening_is_no_host()
    {
        HostUnavailableException e = await Assert.ThrowsAsync<HostUnavailableException>(() => AskAsync());
        Assert.Equal(Errno.ECONNREFUSED, e.Errno);
        Assert.Equal(
            $"list objects on 127.0.0.2:{Port}: nobody listens there; start it: wayleave host --address 127.0.0.2 "
            + $"--port {Port}",
            e.Message);
    }

    [Fact]
    public async Task A_socket_that_is_not_there_is_no_host()
    {
        string path = Path.Combine(_folder.Root, "none.sock");
        HostUnavailableException e = await Assert
            .ThrowsAsync<HostUnavailableException>(() => AskAsync(_folder.ClientOptions with { SocketPath = path }));
        Assert.Equal($"list objects on {path}: there is no such socket; start it again: wayleave host", e.Message);
    }

    [Fact]
    public void No_host_of_this_user_is_no_host()
    {
        HostUnavailableException e = Assert.Throws<HostUnavailableException>(
            () => ControlClient.Open(null, _folder.ClientOptions));
        Assert.Equal("find the host: no host of yours runs here; start one: wayleave host", e.Message);
    }

    [Fact]
    public async Task Of_several_hosts_one_must_be_named()
    {
        await using ControlListener a = await ListenAsync("a");
        await using ControlListener b = await ListenAsync("b");
        WayleaveException e = Assert.Throws<WayleaveException>(() => ControlClient.Open(null, _folder.ClientOptions));
        Assert.Equal(
            $"find the host: 2 hosts run here; name one of wl://{a.EndPoint}, wl://{b.EndPoint}", e.Message);
    }

    [Fact]
    public async Task A_wrong_token_and_a_missing_one_are_told_apart()
    {
        await using ControlListener listener = await ListenAsync("a");
        WlUrl url = WlUrl.Create("127.0.0.2", listener.EndPoint.Port);
        const string Remedy = "give the file that the host named when it started: --token-file FILE";
        WayleaveException wrong = await Assert.ThrowsAsync<WayleaveException>(() => AskAsync(url: url));
        Assert.Equal($"list objects on {url.Authority}: its token is another; {Remedy}", wrong.Message);
        _folder.Variables.Clear();
        File.Delete(Path.Combine(_folder.Runtime, "a.json")); // as on another machine: nothing says where the token is
        WayleaveException missing = await Assert.ThrowsAsync<WayleaveException>(() => AskAsync(url: url));
        Assert.Equal($"list objects on {url.Authority}: it needs a token and none is known; {Remedy}", missing.Message);
        Assert.Equal(Errno.EACCES, missing.Errno);
    }

    [Fact]
    public async Task The_token_file_that_is_named_wins()
    {
        await using ControlListener listener = await ListenAsync("a");
        WlUrl url = WlUrl.Create("localhost", listener.EndPoint.Port);
        ControlClientOptions options = _folder.ClientOptions with { TokenFile = listener.TokenFile };
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => AskAsync(options, WlUrl.Create("127.0.0.2", listener.EndPoint.Port)));
        Assert.Equal(Errno.EREMOTEIO, e.Errno); // let in: this listener serves nothing
        Assert.Contains("no such resource: GET /v1/objects", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_token_file_that_cannot_be_read_is_named()
    {
        string file = Path.Combine(_folder.Root, "none");
        WayleaveException e = await Assert
            .ThrowsAsync<WayleaveException>(() => AskAsync(_folder.ClientOptions with { TokenFile = file }));
        Assert.Equal(
            $"read the token file {file}: does not exist; the host that wrote it prints its path when it starts",
            e.Message);
    }

    [Theory]
    [InlineData("HTTP/1.", "the host died or cut the connection; look at its output, then try again", Errno.ECONNRESET)]
    [InlineData("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "the host died or cut the connection; look at its "
        + "output, then try again", Errno.ECONNRESET)]
    [InlineData("SSH-2.0-OpenSSH_9.9\r\n", "what answers there is no wayleave host; check the port", Errno.EPROTO)]
    [InlineData("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "what answers there is no wayleave host; check "
        + "the port", Errno.EPROTO)]
    [InlineData("HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\nhello", "what answers there is no wayleave host; check "
        + "the port", Errno.EPROTO)]
    [InlineData("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "what answers there is no wayleave host; check the "
        + "port", Errno.EPROTO)]
    [InlineData("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", "what answers there "
        + "is no wayleave host; check the port", Errno.EPROTO)]
    public async Task What_is_no_host_or_dies_is_told_in_one_line(string answer, string reason, Errno errno)
    {
        _listener.Listen();
        Task serving = ServeAsync(answer);
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => AskAsync());
        Assert.Equal($"list objects on 127.0.0.2:{Port}: {reason}", e.Message);
        Assert.Equal(errno, e.Errno);
        await serving;
    }

    [Fact]
    public async Task A_host_that_never_answers_is_given_up()
    {
        _listener.Listen();
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => AskAsync(_folder.ClientOptions with { Timeout = TimeSpan.FromMilliseconds(100) }));
        Assert.Equal(Errno.ETIMEDOUT, e.Errno);
        Assert
            .EndsWith(": no answer for 0.1 s; check that the host is not stopped or overloaded",
                e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_callers_own_token_is_no_failure_of_the_host()
    {
        _listener.Listen();
        using CancellationTokenSource own = new(TimeSpan.FromMilliseconds(50));
        using ControlClient client = ControlClient.Open(WlUrl.Create("127.0.0.2", Port), _folder.ClientOptions);
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => client.GetObjectsAsync(own.Token));
    }

    [Fact]
    public async Task A_name_that_no_machine_has_is_told()
    {
        WayleaveException e = await Assert
            .ThrowsAsync<WayleaveException>(() => AskAsync(url: WlUrl.Create("no-such-host.invalid", 1)));
        Assert.StartsWith("list objects on no-such-host.invalid:1: ", e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Theory]
    [InlineData("x\n", "the host sent what is no event of this stream")]
    [InlineData("{\"event\":\"heartbeat\",\"at_us\":1}\n", "the answer does not begin with a lease")]
    [InlineData("", "the host died or cut the connection; look at its output, then try again")]
    public async Task A_stream_that_is_no_lease_is_told(string stream, string reason)
    {
        _listener.Listen();
        Task serving = ServeAsync("HTTP/1.1 200 OK\r\n\r\n" + stream);
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => LeaseAsync(_folder.ClientOptions));
        Assert.Equal($"lease object 7 on 127.0.0.2:{Port}: {reason}", e.Message);
        await serving;
    }

    [Fact]
    public async Task A_line_without_end_is_not_read_to_the_end()
    {
        _listener.Listen();
        Task serving = ServeAsync("HTTP/1.1 200 OK\r\n\r\n" + new string('x', 200_000));
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => LeaseAsync(_folder.ClientOptions));
        Assert.EndsWith("the host sent a line without end", e.Message, StringComparison.Ordinal);
        await serving;
    }

    [Theory(Timeout = Patience.TestMs)]
    [InlineData(true, Errno.ECONNRESET, "the host died or cut the connection; look at its output, then try again")]
    [InlineData(false, Errno.ETIMEDOUT, "the host has fallen silent; check that it is not stopped or overloaded")]
    public async Task A_host_that_dies_or_falls_silent_ends_the_lease(bool dies, Errno errno, string reason)
    {
        const string Lease = """
            {"event":"lease","at_us":1,
            "lease":{"id":1,"object_name":"gpu0/a","object_id":7,"rkey":1,"va":0,"length_bytes":1,
            "local":{"gid":"127.0.0.2","udp_port":1,"qp_number":1,"psn":1,"path_mtu_bytes":256}}}
            """;
        _listener.Listen();
        string answer = "HTTP/1.1 200 OK\r\n\r\n" + Lease.ReplaceLineEndings("") + "\n";
        TaskCompletionSource end = new(TaskCreationOptions.RunContinuationsAsynchronously);
        Task serving = ServeAsync(answer, end.Task);
        TimeSpan limit = dies ? Patience.Max : TimeSpan.FromSeconds(1);
        HeldLease? opened = null;
        while (opened is null)
        {
            try
            {
                opened = await LeaseAsync(_folder.ClientOptions with { Timeout = limit });
            }
            catch (WayleaveException e) when (e.Errno == Errno.ETIMEDOUT && limit < Patience.Max)
            {
                // This machine is so busy that the answer was late already: once more, with more time.
                limit *= 2;
                end.SetResult();
                await serving;
                end = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
                serving = ServeAsync(answer, end.Task);
            }
        }

        await using HeldLease held = opened;
        Assert.Equal("gpu0/a", held.Lease.ObjectName);
        if (dies)
        {
            end.SetResult();
        }

        WayleaveException ended = await Assert.ThrowsAsync<WayleaveException>(() => held.Completion);
        Assert.Equal(errno, ended.Errno);
        Assert.Equal($"lease object 7 on 127.0.0.2:{Port}: {reason}", ended.Message);
        end.TrySetResult();
        await serving;
    }

    [Theory(Timeout = Patience.TestMs)]
    [InlineData("lease")]
    [InlineData("transfer")]
    [InlineData("context")]
    [InlineData("send")]
    public async Task A_host_that_makes_memory_ready_is_waited_for_while_it_is_there(string asked)
    {
        _listener.Listen();
        for (TimeSpan limit = TimeSpan.FromSeconds(1); ; limit *= 2)
        {
            using CancellationTokenSource over = CancellationTokenSource.CreateLinkedTokenSource(Cancellation);
            Task serving = ServeWorkAsync(looks: 3, over.Token);
            WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
                () => HoldAsync(asked, _folder.ClientOptions with { Timeout = limit, ProbeInterval = limit / 2 }));
            await over.CancelAsync();
            await serving;
            if (e.Errno != Errno.ETIMEDOUT || limit > Patience.Max)
            {
                // What it said then was nonsense, but it was heard.
                Assert.Equal(
                    (Errno.EPROTO, "the host sent what is no event of this stream"), (e.Errno, e.Reason));
                return;
            }

            // A busy machine looked too late: once more, with more time.
        }
    }

    [Theory(Timeout = Patience.TestMs)]
    [InlineData("lease")]
    [InlineData("send")]
    public async Task A_host_that_falls_silent_while_it_makes_memory_ready_is_given_up(string asked)
    {
        _listener.Listen();
        using CancellationTokenSource over = CancellationTokenSource.CreateLinkedTokenSource(Cancellation);
        Task serving = ServeWorkAsync(looks: int.MaxValue, over.Token, answered: 2);
        TimeSpan limit = TimeSpan.FromMilliseconds(100);
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => HoldAsync(asked, _folder.ClientOptions with { Timeout = limit, ProbeInterval = limit }));
        Assert.Equal((Errno.ETIMEDOUT, "no answer for 0.1 s"), (e.Errno, e.Reason));
        await over.CancelAsync();
        await serving;
    }

    private async Task HoldAsync(string asked, ControlClientOptions options)
    {
        using ControlClient client = ControlClient.Open(WlUrl.Create("127.0.0.2", Port), options);
        await using IAsyncDisposable held = asked switch
        {
            "lease" => await LeaseAsync(client),
            "transfer" => await client.OpenTransferAsync(
                "gpu0", "a", new OpenTransferDocument { ObjectId = 7 }, cancellation: Cancellation),
            "context" => await client.OpenGpuAsync("gpu0", "c", Cancellation),
            _ => await client.SendAsync(
                "eth0",
                new SendDocument { Device = "gpu0", Name = "a", Address = "127.0.0.1", Port = 1 },
                _ => { },
                Cancellation),
        };
    }

    private async Task AskAsync(ControlClientOptions? options = null, WlUrl? url = null)
    {
        using ControlClient client = ControlClient.Open(
            url ?? WlUrl.Create("127.0.0.2", Port), options ?? _folder.ClientOptions);
        await client.GetObjectsAsync(Cancellation);
    }

    private async Task<HeldLease> LeaseAsync(ControlClientOptions options)
    {
        ControlClient client = ControlClient.Open(WlUrl.Create("127.0.0.2", Port), options);
        try
        {
            return await LeaseAsync(client);
        }
        catch
        {
            client.Dispose();
            throw;
        }
    }

    private static Task<HeldLease> LeaseAsync(ControlClient client)
    {
        ConnectionEndDocument peer =
            new() { Gid = "127.0.0.3", UdpPort = 1, QpNumber = 1, Psn = 1, PathMtuBytes = 256 };
        LeaseRequestDocument request = new() { Access = Host.Leases.LeaseAccess.Read, Peer = peer };
        return client.LeaseAsync(7, request, Cancellation);
    }

    private Task<ControlListener> ListenAsync(string name) => ControlListener.StartAsync(
        ControlTestFolder.Config with { Name = name }, _folder.ListenerOptions, _ => { }, Cancellation);

    /// <summary>Takes one connection, reads a request, answers with these bytes, and closes.</summary>
    private async Task ServeAsync(string answer, Task? before = null)
    {
        using Socket socket = await _listener.AcceptAsync(Cancellation);
        byte[] request = new byte[8192];
        await socket.ReceiveAsync(request, Cancellation);
        try
        {
            await socket.SendAsync(Encoding.ASCII.GetBytes(answer), Cancellation);
            await (before ?? Task.CompletedTask);
            socket.Shutdown(SocketShutdown.Both);
        }
        catch (SocketException e) when (
            e.SocketErrorCode is SocketError.ConnectionReset or SocketError.Shutdown or SocketError.NotConnected)
        {
            return; // the client had seen enough
        }
    }

    /// <summary>
    /// Takes a request, and answers it, with nonsense, once so many looks at the host have come meanwhile; of them only
    /// <paramref name="answered"/> are answered. Ends when told.
    /// </summary>
    private async Task ServeWorkAsync(int looks, CancellationToken over, int answered = int.MaxValue)
    {
        const string Ok = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
        List<Socket> all = [];
        try
        {
            for (int i = 0; i <= looks; i++)
            {
                all.Add(await _listener.AcceptAsync(over));
                await all[^1].ReceiveAsync(new byte[8192], over);
                if (i > 0 && i <= answered)
                {
                    await all[^1].SendAsync(Encoding.ASCII.GetBytes(Ok + "Content-Length: 2\r\n\r\n{}"), over);
                    all[^1].Shutdown(SocketShutdown.Send);
                }
            }

            await all[0].SendAsync(Encoding.ASCII.GetBytes(Ok + "\r\nx\n"), over);
            await Task.Delay(Timeout.Infinite, over);
        }
        catch (Exception e) when (e is OperationCanceledException or SocketException && over.IsCancellationRequested)
        {
            // As told.
        }
        finally
        {
            all.ForEach(s => s.Dispose());
        }
    }
}
