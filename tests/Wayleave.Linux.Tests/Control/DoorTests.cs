using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>Who gets in, asked with raw bytes: a client library would tidy up what an attacker sends.</summary>
public sealed class DoorTests : IDisposable
{
    private const string Served = "the secret of the host";

    private readonly ControlTestFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Fact]
    public async Task The_right_token_gets_in()
    {
        await using ControlListener listener = await StartAsync();
        string answer = await AskAsync(listener, Request(listener, "Authorization: Bearer " + ReadToken(listener)));
        Assert.StartsWith("HTTP/1.1 200 ", answer, StringComparison.Ordinal);
        Assert.Contains(Served, answer, StringComparison.Ordinal);
    }

    public static TheoryData<string> WrongAuthorizations =>
    [
        "",
        "Authorization: Bearer",
        "Authorization: Bearer ",
        "Authorization: Bearer TOKENx",
        "Authorization: Bearer TOKEN x",
        "Authorization: Bearer \"TOKEN\"",
        "Authorization: Basic TOKEN",
        "Authorization: TOKEN",
        "Authorization: Bearer wrong\r\nAuthorization: Bearer TOKEN",
        "Cookie: Authorization=Bearer TOKEN",
        "X-Authorization: Bearer TOKEN",
    ];

    [Theory]
    [MemberData(nameof(WrongAuthorizations))]
    public async Task Nothing_but_the_right_token_gets_in_over_tcp(string header)
    {
        await using ControlListener listener = await StartAsync();
        string answer = await AskAsync(
            listener, Request(listener, header.Replace("TOKEN", ReadToken(listener), StringComparison.Ordinal)));
        Assert.StartsWith("HTTP/1.1 401 ", answer, StringComparison.Ordinal);
        Assert.DoesNotContain(Served, answer, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_wrong_token_learns_nothing_about_what_exists()
    {
        await using ControlListener listener = await StartAsync();
        string host = $"Host: {listener.EndPoint}\r\nAuthorization: Bearer wrong\r\n";
        string[] answers = await Task.WhenAll(
            AskAsync(listener, $"GET /secret HTTP/1.1\r\n{host}\r\n"),
            AskAsync(listener, $"GET /nothing HTTP/1.1\r\n{host}\r\n"),
            AskAsync(listener, $"DELETE /secret HTTP/1.1\r\n{host}\r\n"),
            AskAsync(listener, "GET /secret HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer wrong\r\n\r\n"),
            AskAsync(listener, $"POST /echo HTTP/1.1\r\n{host}Content-Length: 99999999\r\n\r\n"));
        Assert.All(answers, a => Assert.Equal(WithoutDate(answers[0]), WithoutDate(a)));
    }

    [Theory]
    [InlineData("evil.example")]
    [InlineData("127.0.0.2.evil.example")]
    [InlineData("127.0.0.9")]
    [InlineData("localhost.evil.example")]
    [InlineData("[::1]")]
    public async Task A_host_header_that_is_not_ours_is_refused(string host)
    {
        await using ControlListener listener = await StartAsync();
        string answer = await AskAsync(
            listener,
            $"GET /secret HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {ReadToken(listener)}\r\nConnection: "
            + "close\r\n\r\n");
        Assert.StartsWith("HTTP/1.1 403 ", answer, StringComparison.Ordinal);
        Assert.DoesNotContain(Served, answer, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("http://evil.example")]
    [InlineData("https://ENDPOINT")]
    [InlineData("http://127.0.0.2:1")]
    [InlineData("null")]
    [InlineData("")]
    public async Task A_page_of_another_origin_is_refused(string origin)
    {
        await using ControlListener listener = await StartAsync();
        string answer = await AskAsync(listener, Request(
            listener,
            "Authorization: Bearer " + ReadToken(listener),
            "Origin: " + origin.Replace("ENDPOINT", listener.EndPoint.ToString(), StringComparison.Ordinal)));
        Assert.StartsWith("HTTP/1.1 403 ", answer, StringComparison.Ordinal);
        Assert.DoesNotContain(Served, answer, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Our_own_page_and_localhost_get_in()
    {
        await using ControlListener listener = await StartAsync();
        string token = "Authorization: Bearer " + ReadToken(listener);
        string own = await AskAsync(listener, Request(listener, token, $"Origin: http://{listener.EndPoint}"));
        Assert.StartsWith("HTTP/1.1 200 ", own, StringComparison.Ordinal);
        string local = await AskAsync(
            listener,
            $"GET /secret HTTP/1.1\r\nHost: localhost:{listener.EndPoint.Port}\r\n{token}\r\nConnection: "
            + "close\r\n\r\n");
        Assert.StartsWith("HTTP/1.1 200 ", local, StringComparison.Ordinal);
    }

    [Fact]
    public async Task On_the_unix_socket_the_user_id_is_enough()
    {
        await using ControlListener listener = await StartAsync();
        Assert.StartsWith("HTTP/1.1 200 ", await AskUnixAsync(listener), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(1, false)]
    [InlineData(65534, false)]
    public async Task Another_user_on_the_unix_socket_gets_no_answer_but_root_does(uint user, bool isAdmitted)
    {
        Assert.SkipWhen(FileStatus.CurrentUserId is 1 or 65534, "runs as the user that plays the stranger");
        await using ControlListener listener = await StartAsync(
            _folder.ListenerOptions with { PeerUserId = _ => user });
        string answer = await AskUnixAsync(listener);
        Assert.Equal(isAdmitted, answer.Contains(Served, StringComparison.Ordinal));
        Assert.True(isAdmitted || answer.Length == 0, answer);
    }

    [Fact]
    public async Task A_foreign_host_header_is_refused_on_the_unix_socket_too()
    {
        await using ControlListener listener = await StartAsync();
        string answer = await AskUnixAsync(
            listener, "GET /secret HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        Assert.StartsWith("HTTP/1.1 403 ", answer, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_shared_token_works_and_no_file_is_written()
    {
        string token = new('s', ControlConfig.TokenLengthMin);
        HostConfig config = ControlTestFolder.Config with { Control = new ControlConfig { Port = 0, Token = token } };
        await using ControlListener listener = await StartAsync(config: config);
        Assert.Null(listener.TokenFile);
        Assert.DoesNotContain(_folder.Leftovers(), f => f.EndsWith(".token", StringComparison.Ordinal));
        Assert.StartsWith("HTTP/1.1 200 ", await AskAsync(
            listener, Request(listener, "Authorization: bearer " + token)), StringComparison.Ordinal);
    }

    // The tests of the tests: with a defence off, the request that it stops must get in.
    [Theory]
    [InlineData(ControlDefences.Token, "Host: ENDPOINT")]
    [InlineData(ControlDefences.HostHeader, "Host: evil.example\r\nAuthorization: Bearer TOKEN")]
    [InlineData(
        ControlDefences.OriginHeader, "Host: ENDPOINT\r\nAuthorization: Bearer TOKEN\r\nOrigin: http://evil.example")]
    internal async Task With_a_defence_off_the_attack_gets_in(ControlDefences defence, string headers)
    {
        foreach (ControlDefences on in new[] { ControlDefences.All, ControlDefences.All & ~defence })
        {
            await using ControlListener listener = await StartAsync(_folder.ListenerOptions with { Defences = on });
            string filled = headers
                .Replace("ENDPOINT", listener.EndPoint.ToString(), StringComparison.Ordinal)
                .Replace("TOKEN", ReadToken(listener), StringComparison.Ordinal);
            string answer = await AskAsync(listener, $"GET /secret HTTP/1.1\r\n{filled}\r\nConnection: close\r\n\r\n");
            Assert.Equal(on != ControlDefences.All, answer.Contains(Served, StringComparison.Ordinal));
        }
    }

    [Fact]
    public async Task Without_the_check_of_the_user_a_stranger_gets_in()
    {
        await using ControlListener listener = await StartAsync(_folder.ListenerOptions with
        {
            PeerUserId = _ => 12345,
            Defences = ControlDefences.All & ~ControlDefences.PeerUser,
        });
        Assert.Contains(Served, await AskUnixAsync(listener), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Too_much_is_refused_and_the_server_lives()
    {
        await using ControlListener listener = await StartAsync(
            _folder.ListenerOptions with { RequestBodyBytesMax = 100 });
        string token = "Authorization: Bearer " + ReadToken(listener);
        string body = await AskAsync(
            listener,
            Request(listener, token, "Content-Length: 101")
                .Replace("GET /secret", "POST /echo", StringComparison.Ordinal) + new string('x', 101));
        Assert.StartsWith("HTTP/1.1 413 ", body, StringComparison.Ordinal);
        string header = await AskAsync(listener, Request(listener, token, "X: " + new string('x', 20_000)));
        Assert.StartsWith("HTTP/1.1 431 ", header, StringComparison.Ordinal);
        string nonsense = await AskAsync(listener, "\0\u0001\u0002 nonsense\r\n\r\n");
        Assert.StartsWith("HTTP/1.1 400 ", nonsense, StringComparison.Ordinal);
        Assert.StartsWith("HTTP/1.1 200 ", await AskAsync(
            listener, Request(listener, token)), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_client_that_never_sends_its_headers_is_dropped()
    {
        await using ControlListener listener = await StartAsync(
            _folder.ListenerOptions with { HeadersTimeout = TimeSpan.FromMilliseconds(50) });
        string answer = await AskAsync(listener, "GET /secret HTTP/1.1\r\n");
        Assert.StartsWith("HTTP/1.1 408 ", answer, StringComparison.Ordinal);
    }

    [Fact]
    public async Task An_unknown_resource_is_a_problem_document()
    {
        await using ControlListener listener = await StartAsync();
        string answer = await AskAsync(listener, Request(
            listener,
            "Authorization: Bearer " + ReadToken(listener)).Replace("/secret", "/nothing", StringComparison.Ordinal));
        Assert.StartsWith("HTTP/1.1 404 ", answer, StringComparison.Ordinal);
        Assert.Contains("application/problem+json", answer, StringComparison.Ordinal);
        Assert.Contains("no such resource: GET /nothing", answer, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_failure_of_the_host_is_logged_and_tells_the_client_nothing()
    {
        StringWriter log = new(CultureInfo.InvariantCulture);
        await using ControlListener listener = await StartAsync(_folder.ListenerOptions with { Log = log });
        string answer = await AskAsync(listener, Request(
            listener,
            "Authorization: Bearer " + ReadToken(listener)).Replace("/secret", "/broken", StringComparison.Ordinal));
        Assert.StartsWith("HTTP/1.1 500 ", answer, StringComparison.Ordinal);
        Assert.DoesNotContain(Served, answer, StringComparison.Ordinal);
        Assert.Contains(Served, log.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Token_socket_and_registration_are_private_and_go_with_the_host()
    {
        await using (ControlListener listener = await StartAsync())
        {
            Assert.Equal(
                ["host.json", "host.lock", "host.sock", "host.token"],
                _folder.Leftovers().Order(StringComparer.Ordinal));
            foreach (string name in _folder.Leftovers())
            {
                Assert.Equal(
                    UnixFileMode.UserRead | UnixFileMode.UserWrite,
                    File.GetUnixFileMode(Path.Combine(_folder.Runtime, name)));
            }

            Assert.Equal(65, new FileInfo(listener.TokenFile!).Length); // 256 bits in hexadecimal and a line feed
            Assert.Equal(
                UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute,
                File.GetUnixFileMode(_folder.Runtime));
        }

        Assert.Empty(_folder.Leftovers());
    }

    [Fact]
    public async Task Every_start_has_another_token()
    {
        string first;
        await using (ControlListener listener = await StartAsync())
        {
            first = ReadToken(listener);
        }

        await using ControlListener second = await StartAsync();
        Assert.NotEqual(first, ReadToken(second));
    }

    [Fact]
    public async Task A_name_belongs_to_one_host_at_a_time()
    {
        await using ControlListener first = await StartAsync();
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => StartAsync());
        Assert.Equal("start host host: a host of this name runs already; choose another by --name", e.Message);
        Assert.StartsWith("HTTP/1.1 200 ", await AskUnixAsync(first), StringComparison.Ordinal);
        await using ControlListener other = await StartAsync(config: ControlTestFolder.Config with { Name = "b" });
        Assert.NotEqual(first.EndPoint.Port, other.EndPoint.Port);
    }

    [Fact]
    public async Task What_a_killed_host_left_behind_is_replaced()
    {
        Directory.CreateDirectory(
            _folder.Runtime, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        File.WriteAllText(Path.Combine(_folder.Runtime, "host.token"), "old");
        File.WriteAllText(Path.Combine(_folder.Runtime, "host.lock"), "");
        File.WriteAllText(
            Path.Combine(_folder.Runtime, "host.json"),
            """{"name":"host","process_id":1,"address":"127.0.0.2","port":1}""");
        LeaveSocket(Path.Combine(_folder.Runtime, "host.sock"));
        Assert.Empty(HostRegistration.List(_folder.Runtime));
        await using ControlListener listener = await StartAsync();
        Assert.StartsWith("HTTP/1.1 200 ", await AskUnixAsync(listener), StringComparison.Ordinal);
        Assert.Equal(listener.EndPoint.Port, Assert.Single(HostRegistration.List(_folder.Runtime)).Port);
    }

    [Fact]
    public async Task A_port_in_use_is_named_with_the_remedy_and_nothing_is_left_behind()
    {
        using Socket other = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        other.Bind(new IPEndPoint(IPAddress.Parse("127.0.0.2"), 0));
        other.Listen();
        int port = ((IPEndPoint)other.LocalEndPoint!).Port;
        HostConfig config = ControlTestFolder.Config with { Control = new ControlConfig { Port = port } };
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => StartAsync(config: config));
        Assert.Equal(Errno.EADDRINUSE, e.Errno);
        Assert.Equal(
            $"listen on 127.0.0.2:{port}: the address is in use; stop the other program, or choose another by --port "
            + "or --address",
            e.Message);
        Assert.Empty(_folder.Leftovers());
    }

    [Fact]
    public async Task An_address_of_another_machine_is_named_with_the_remedy()
    {
        HostConfig config = ControlTestFolder.Config with
        {
            Control = new ControlConfig { Address = IPAddress.Parse("203.0.113.1"), Port = 0 },
        };
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => StartAsync(config: config));
        Assert.Equal(Errno.EADDRNOTAVAIL, e.Errno);
        Assert
            .StartsWith("listen on 203.0.113.1:0: no interface of this machine has this address; ",
                e.Message, StringComparison.Ordinal);
        Assert.Empty(_folder.Leftovers());
    }

    [Theory]
    [InlineData("victim", "exists already")]
    [InlineData("link", "exists already")]
    public async Task A_token_is_never_written_through_what_is_already_there(string name, string reason)
    {
        string victim = Path.Combine(_folder.Root, "victim");
        File.WriteAllText(victim, "untouched");
        File.CreateSymbolicLink(Path.Combine(_folder.Root, "link"), Path.Combine(_folder.Root, "nowhere"));
        string file = Path.Combine(_folder.Root, name);
        HostConfig config =
            ControlTestFolder.Config with { Control = new ControlConfig { Port = 0, TokenFile = file } };
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => StartAsync(config: config));
        Assert.Equal($"write the token file {file}: {reason}; remove it if no host uses it", e.Message);
        Assert.Equal("untouched", File.ReadAllText(victim));
        Assert.False(File.Exists(Path.Combine(_folder.Root, "nowhere")));
    }

    [Fact]
    public async Task A_token_file_that_was_replaced_is_not_removed()
    {
        string file = Path.Combine(_folder.Root, "mine");
        HostConfig config =
            ControlTestFolder.Config with { Control = new ControlConfig { Port = 0, TokenFile = file } };
        await using (ControlListener listener = await StartAsync(config: config))
        {
            File.Move(file, file + ".old");
            File.WriteAllText(file, "somebody else's");
        }

        Assert.True(File.Exists(file));
    }

    [Fact]
    public async Task A_runtime_directory_that_others_can_use_is_refused()
    {
        Directory.CreateDirectory(_folder.Runtime);
        File.SetUnixFileMode(_folder.Runtime, File.GetUnixFileMode(_folder.Runtime) | UnixFileMode.OtherExecute);
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => StartAsync());
        Assert.Equal(
            $"use the runtime directory {_folder.Runtime}: others may use it; chmod 700 {_folder.Runtime}", e.Message);
    }

    [Fact]
    public async Task A_runtime_directory_that_is_a_link_is_refused()
    {
        File.CreateSymbolicLink(_folder.Runtime, Path.GetTempPath());
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => StartAsync());
        Assert.Equal(Errno.ENOTDIR, e.Errno);
    }

    [Fact]
    public async Task A_token_file_in_a_folder_where_others_could_replace_it_is_refused()
    {
        string folder = Directory.CreateDirectory(Path.Combine(_folder.Root, "open")).FullName;
        File.SetUnixFileMode(folder, (UnixFileMode)0x1FF);
        HostConfig config = ControlTestFolder.Config with
        {
            Control = new ControlConfig { Port = 0, TokenFile = Path.Combine(folder, "t") },
        };
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => StartAsync(config: config));
        Assert.Equal(Errno.EACCES, e.Errno);
        Assert.Empty(Directory.GetFileSystemEntries(folder));
    }

    private Task<ControlListener> StartAsync(ControlListenerOptions? options = null, HostConfig? config = null) =>
        ControlListener.StartAsync(config ?? ControlTestFolder.Config, options ?? _folder.ListenerOptions, routes =>
        {
            routes.MapGet("/secret", (HttpContext context) => context.Response.WriteAsync(Served, Cancellation));
            routes.MapGet("/broken", (HttpContext _) => throw new InvalidOperationException(Served));
            routes.MapPost("/echo", async (HttpContext context) =>
            {
                using StreamReader reader = new(context.Request.Body);
                await context.Response.WriteAsync(await reader.ReadToEndAsync(Cancellation), Cancellation);
            });
        }, Cancellation);

    private static string ReadToken(ControlListener listener) => File.ReadAllText(listener.TokenFile!).Trim();

    private static string Request(ControlListener listener, params string[] headers)
    {
        string lines = string.Concat(headers.Where(h => h.Length != 0).Select(h => h + "\r\n"));
        return $"GET /secret HTTP/1.1\r\nHost: {listener.EndPoint}\r\n{lines}Connection: close\r\n\r\n";
    }

    private static string WithoutDate(string answer) =>
        string.Join('\n', answer.Split('\n').Where(l => !l.StartsWith("Date:", StringComparison.Ordinal)));

    private static Task<string> AskAsync(ControlListener listener, string request) =>
        AskAsync(listener.EndPoint, ProtocolType.Tcp, request);

    private static Task<string> AskUnixAsync(
        ControlListener listener,
        string request = "GET /secret HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") =>
        AskAsync(new UnixDomainSocketEndPoint(listener.SocketPath!), ProtocolType.Unspecified, request);

    /// <summary>Sends bytes and reads until the server closes; the empty text if it reset the connection.</summary>
    private static async Task<string> AskAsync(EndPoint endPoint, ProtocolType protocol, string request)
    {
        using Socket socket = new(endPoint.AddressFamily, SocketType.Stream, protocol);
        await socket.ConnectAsync(endPoint, Cancellation);
        StringBuilder answer = new();
        byte[] buffer = new byte[4096];
        try
        {
            await socket.SendAsync(Encoding.Latin1.GetBytes(request), Cancellation);
            for (int read; (read = await socket.ReceiveAsync(buffer, Cancellation)) != 0;)
            {
                answer.Append(Encoding.Latin1.GetString(buffer, 0, read));
            }
        }
        catch (SocketException e) when (e.SocketErrorCode is SocketError.ConnectionReset or SocketError.Shutdown)
        {
            return answer.ToString();
        }

        return answer.ToString();
    }

    private static void LeaveSocket(string path)
    {
        // Bound under another name and moved: .NET removes the name that it bound.
        using Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Bind(new UnixDomainSocketEndPoint(path + ".x"));
        File.Move(path + ".x", path);
    }
}
