using System.Diagnostics;
using System.Text.Json;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// <c>netrecv</c>, <c>netsend</c> and <c>nic</c> as an unprivileged user runs them: in a user and network namespace of
/// its own, by a script, with foreign programs at the other end.
/// </summary>
public sealed class NetCommandTests : EndToEndTest
{
    private const string Config =
        """
        {
          "name": "net",
          "gpus": [ { "vram_bytes": "128MiB", "system_pool_bytes": "64MiB" } ],
          "nics": [ { "address": "127.0.0.2", "udp_port": 0 } ],
          "ethernets": [
            { "addresses": [ "10.0.0.1/24", "fd00::1/64" ], "peer_addresses": [ "10.0.0.2/24", "fd00::2/64" ] }
          ],
          "linux_nics": [ { "interface": "lo" } ],
          "control": { "port": 0 }
        }
        """;

    // The first line of whoever serves says that it does: nobody waits for a time.
    private const string Prologue =
        """
        set -u
        ip link set lo up || exit 77
        wayleave host --config net.json > ready & host=$!
        until [ -s ready ]; do kill -0 $host || exit 1; done
        listens() { until [ -s "$1" ]; do kill -0 $2 || return 1; done; }

        """;

    // One connection into a file.
    private const string Taker =
        """
        import socket, sys
        with socket.create_server((sys.argv[1], 9000),
                                  family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as s:
            print("listening", flush=True)
            peer, _ = s.accept()
            with peer, open("taken", "wb") as out:
                while data := peer.recv(65536):
                    out.write(data)
        """;

    private const string Epilogue =
        """

        kill $host; wait $host; echo "host $?"
        """;

    [Fact]
    public async Task Curl_uploads_a_file_into_device_memory_and_netsend_sends_it_back()
    {
        string file = MakeFile("model", (5 << 20) + 7);
        string output = await RunScriptAsync(
            """
            wayleave --json netrecv --http --queue 2 --to gpu0 --listen :8080 > http & recv=$!
            listens http $recv
            curl -sS -o answer -w '%{http_code}\n' -T model http://10.0.0.1:8080/
            curl -sS -o answer -w '%{http_code}\n' -g -T model 'http://[fd00::1]:8080/'
            until [ "$(grep -c '"event":"received"' http)" = 2 ]; do kill -0 $recv || exit 1; done
            kill $recv; wait $recv; echo "recv $?"
            wayleave --json netrecv --queue 3 --to gpu0/back --size 5242887 --listen 10.0.0.1:7481 > raw & recv=$!
            listens raw $recv
            cat model > /dev/tcp/10.0.0.1/7481
            wait $recv; echo "raw $?"
            wayleave netsend gpu0/model 10.0.0.2:9 2> refused; echo "send $?"
            cat refused
            """,
            "curl");
        Assert.Equal(
            """
            201
            200
            recv 0
            raw 0
            send 1
            wayleave: connect to 10.0.0.2 port 9: nobody listens there
            host 0

            """,
            output);
        string[] lines = [.. File.ReadAllLines(InFolder("http")), .. File.ReadAllLines(InFolder("raw"))];
        JsonElement[] received =
        [
            .. lines.Select(l => JsonDocument.Parse(l).RootElement)
                .Where(l => l.GetProperty("event").GetString() == "received").Select(l => l.GetProperty("received")),
        ];
        Assert.Equal(3, received.Length);
        Assert.All(received, r =>
        {
            Assert.Equal(Sha256(file), r.GetProperty("sha256").GetString());
            Assert.Equal(0, r.GetProperty("staged_bytes").GetInt64());
        });
    }

    [Theory]
    [InlineData("10.0.0.2", "10.0.0.2:9000")]
    [InlineData("fd00::2", "[fd00::2]:9000")]
    public async Task Netsend_sends_an_object_from_the_device_memory_that_it_is_in(string address, string target)
    {
        string file = MakeFile("model", (3 << 20) + 1);
        await File.WriteAllTextAsync(InFolder("take.py"), Taker, TestContext.Current.CancellationToken);
        string output = await RunScriptAsync(
            $$"""
            wayleave --json netrecv --queue 3 --to gpu0/model --size 3145729 > raw & recv=$!
            listens raw $recv
            cat model > /dev/tcp/10.0.0.1/7480
            wait $recv; echo "recv $?"
            python3 take.py {{address}} > ready2 & taker=$!
            listens ready2 $taker
            wayleave --json netsend gpu0/model {{target}} > sent; echo "send $?"
            wait $taker; echo "taker $?"
            cmp model taken && echo same
            wayleave netsend gpu0/nothing {{target}} 2>&1; echo "none $?"
            """,
            "python3");
        Assert.StartsWith(
            "recv 0\nsend 0\ntaker 0\nsame\nwayleave: ", output, StringComparison.Ordinal);
        Assert.Contains("gpu0/nothing", output, StringComparison.Ordinal);
        Assert.Contains("none 1", output, StringComparison.Ordinal);
        JsonElement sent = JsonDocument.Parse(File.ReadAllLines(InFolder("sent"))[^1]).RootElement.GetProperty("sent");
        Assert.Equal(
            ("gpu0/model", 3145729L, 0L, Sha256(file)),
            (sent.GetProperty("source").GetString(), sent.GetProperty("bytes").GetInt64(),
                sent.GetProperty("staged_bytes").GetInt64(), sent.GetProperty("sha256").GetString()));
    }

    // The sender is in the middle of its stream, pieces are in the reader's hands, and nobody says goodbye.
    [Fact]
    public async Task DEVM_20_A_binder_that_is_killed_leaves_its_queue_its_port_and_its_memory_free()
    {
        string file = MakeFile("model", 3 << 20);
        string output = await RunScriptAsync(
            """
            socket="$XDG_RUNTIME_DIR/wayleave/net.sock"
            wayleave --json netrecv --queue 2 --to gpu0 > lines & recv=$!
            listens lines $recv
            exec 3<>/dev/tcp/10.0.0.1/7480
            cat model >&3
            until wayleave --json devices | grep -q '"placed_bytes":[1-9]'; do kill -0 $recv || exit 1; done
            kill -9 $recv; wait $recv; echo "recv $?"
            cat <&3 > /dev/null 2>&1; echo "the sender was told"
            list() { wayleave ls wl://127.0.0.2/gpu0 --socket "$socket"; }
            while list | grep -q nic0-rx2; do kill -0 $host || exit 1; done
            wayleave nic nic0 -n | grep -c 'Filter:'
            wayleave --json netrecv --queue 2 --to gpu0 > again & recv=$!
            listens again $recv
            cat model > /dev/tcp/10.0.0.1/7480
            wait $recv; echo "again $?"
            """);
        Assert.Equal(
            """
            recv 137
            the sender was told
            0
            again 0
            host 0

            """,
            output);
        JsonElement received = File.ReadAllLines(InFolder("again"))
            .Select(l => JsonDocument.Parse(l).RootElement)
            .Single(l => l.GetProperty("event").GetString() == "received").GetProperty("received");
        Assert.Equal(
            (Sha256(file), 0L),
            (received.GetProperty("sha256").GetString(), received.GetProperty("staged_bytes").GetInt64()));
    }

    // No interface of a namespace of one's own has queues to bind: the reason is the kernel's, or that of udmabuf.
    [Fact]
    public async Task Netrecv_by_a_NIC_of_the_kernel_that_cannot_says_why_and_leaves_nothing()
    {
        string output = await RunScriptAsync(
            """
            wayleave netrecv --nic lo --queue 0 --to gpu0 2>&1; echo "recv $?"
            wayleave netrecv --nic lo --queue 0 --to gpu0 --revocable 2>&1; echo "revocable $?"
            wayleave ls wl://127.0.0.2/gpu0 --socket "$XDG_RUNTIME_DIR/wayleave/net.sock"; echo "ls $?"
            """);
        Assert.Contains("bind gpu0/lo-rx0 to queue 0 of lo", output, StringComparison.Ordinal);
        Assert.Contains("Linux binds for good: nobody can make its NIC stop", output, StringComparison.Ordinal);
        Assert.DoesNotContain("recv 0", output, StringComparison.Ordinal);
        Assert.DoesNotContain("\ngpu0/lo-rx0", output, StringComparison.Ordinal);
        Assert.EndsWith("host 0\n", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task An_owner_who_takes_the_memory_back_ends_netrecv_with_the_reason_and_exit_1()
    {
        string output = await RunScriptAsync(
            """
            wayleave --json netrecv --revocable --queue 2 --to gpu0 > lines 2> error & recv=$!
            listens lines $recv
            socket="$XDG_RUNTIME_DIR/wayleave/net.sock"
            wayleave revoke wl://127.0.0.2/gpu0/nic0-rx2 --socket "$socket" > /dev/null; echo "revoke $?"
            wait $recv; echo "recv $?"
            cat error
            wayleave netrecv --queue 0 --to gpu0 2> error; echo "rss $?"
            cut -c1-100 error
            wayleave netrecv --queue 2 --to gpu0/x 2>&1; echo "usage $?"
            """);
        Assert.Equal(
            """
            revoke 0
            recv 1
            wayleave: receive by queue 2 of nic0 into gpu0: gpu0/nic0-rx2 was taken back by its owner after 0 B
            rss 1
            wayleave: net: bind gpu0/nic0-rx0 to queue 0 of nic0: RSS spreads flows over queue 0: take it out of
            wayleave: --to gpu0/x: say how long the stream will be: --size
            usage 2
            host 0

            """,
            output);
    }

    [Fact]
    public async Task Nic_has_the_options_the_words_and_the_failures_of_ethtool()
    {
        string output = await RunScriptAsync(
            """
            nic() { { wayleave nic nic0 "$@" 2>&1 || echo "exit $?"; } | cut -c1-100 | sed 's/ $//'; }
            nic -N flow-type tcp4 src-ip 10.0.0.0 m 0.0.0.255 dst-port 5201 action 3 loc 7
            nic --show-ntuple rule 7
            nic -N flow-type tcp4 dst-port 80 action 99
            nic --config-ntuple delete 9
            nic -n rule 9
            nic -N flow-type tcp4 dst-prot 80 action 1
            nic -X equal 9
            nic --config-rxfh weight 1 0 3
            nic --show-rxfh | sed -n 1,2p
            nic -L rx 3
            nic -N delete 7
            nic -L rx 3
            nic -l | sed -n 8p
            nic -G tcp-data-split off hds-thresh 9999999
            nic -g | grep split
            nic -X context new
            nic -K ntuple off
            nic -N flow-type tcp4 dst-port 80 action 1
            nic -S | grep -c rx2_
            wayleave nic nic0 --json | grep -c '"schema":"wayleave.nic.v1"'
            wayleave nic nic9 2>&1; echo "exit $?"
            """);
        Assert.Equal(
            """
            Added rule with ID 7
            Filter: 7
            \tRule Type: TCP over IPv4
            \tSrc IP addr: 10.0.0.0 mask: 0.0.0.255
            \tDest IP addr: 0.0.0.0 mask: 255.255.255.255
            \tSrc port: 0 mask: 0xffff
            \tDest port: 5201 mask: 0x0
            \tAction: Direct to queue 3

            wayleave: net: rmgr: Cannot insert RX class rule: Invalid argument: queues are 0 to 3, locations 0 t
            exit 1
            wayleave: net: rmgr: Cannot delete RX class rule: No such file or directory: there is no rule 9
            exit 1
            wayleave: rmgr: Cannot get RX class rule: No such file or directory
            exit 1
            wayleave: -N: 'dst-prot' is none of src-ip, dst-ip, src-port, dst-port, vlan, dst-mac, action, queue
            exit 2
            wayleave: net: Cannot set RX flow hash configuration: Invalid argument: queues are 0 to 3, a key has
            exit 1
            RX flow hash indirection table for nic0 with 4 RX ring(s):
                0:      0     0     0     0     0     0     0     0
            wayleave: net: Cannot set device channel parameters: Invalid argument: a table, a rule or a binding
            exit 1
            RX:\t\t3
            wayleave: net: Cannot set device ring parameters: Invalid argument: tcp-data-split stays on and hds-
            exit 1
            TCP data split:\ton
            New RSS context is 1
            wayleave: net: rmgr: Cannot insert RX class rule: Operation not supported: the ntuple feature is off
            exit 3
            11
            1
            wayleave: net: find NIC nic9: the host has no such Ethernet NIC; it has nic0
            exit 1
            host 0

            """.Replace("\\t", "\t", StringComparison.Ordinal),
            output);
    }

    private async Task<string> RunScriptAsync(string script, params string[] programs)
    {
        foreach (string program in (string[])["unshare", "ip", .. programs])
        {
            Assert.SkipWhen(!IsInstalled(program), $"{program} is not installed");
        }

        Assert.SkipUnless(Support.Tap.IsAvailable, Support.Tap.Detail);
        await File.WriteAllTextAsync(InFolder("net.json"), Config, TestContext.Current.CancellationToken);
        await File.WriteAllTextAsync(
            InFolder("script"), Prologue + script + Epilogue, TestContext.Current.CancellationToken);
        ProcessStartInfo start = new("timeout")
        {
            WorkingDirectory = Root,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach (string argument in (string[])["60", .. AsNobody(), "unshare", "-Urn", "bash", "script"])
        {
            start.ArgumentList.Add(argument);
        }

        foreach ((string name, string value) in Variables)
        {
            start.Environment[name] = value;
        }

        start.Environment["PATH"] = $"{AppContext.BaseDirectory}:{Environment.GetEnvironmentVariable("PATH")}";
        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        string output = await process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        string complaints = await errors;
        Assert.SkipWhen(
            complaints.Contains("unshare failed", StringComparison.Ordinal) || process.ExitCode == 77,
            $"no user namespaces here: {complaints.Trim()}");
        Assert.True(process.ExitCode == 0, complaints + output);
        return output;
    }

    // Root gives itself up: what works for nobody works for everybody.
    private string[] AsNobody()
    {
        if (Environment.UserName != "root" || !IsInstalled("setpriv") || !MayReadProgram())
        {
            return [];
        }

        using Process chown = Process.Start("chown", ["-R", "nobody", Root]);
        chown.WaitForExit();
        return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    }

    private static bool MayReadProgram()
    {
        const UnixFileMode Others = UnixFileMode.OtherExecute;
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if ((folder.UnixFileMode & Others) == 0)
            {
                return false;
            }
        }

        return true;
    }

    private static bool IsInstalled(string program) => (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':')
        .Any(folder => File.Exists(Path.Combine(folder, program)));
}
