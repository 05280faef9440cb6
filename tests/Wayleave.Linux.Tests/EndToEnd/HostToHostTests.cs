using System.Text.Json;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// <c>wayleave cp wl://A/... wl://B/...</c>: three processes, of which one only introduces the other two. Whoever of
/// them dies, nothing half-written stays.
/// </summary>
public class HostToHostTests : EndToEndTest
{
    private const long LengthBytes = 768 << 20;
    private const string Died = "the host died or cut the connection; look at its output, then try again";

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Bytes_go_from_one_host_straight_to_the_other()
    {
        HostProcess a = await StartHostAsync("a"), b = await StartHostAsync();
        foreach (long lengthBytes in (long[])[1, 4095, 4096, 4097, (3 << 20) + 1])
        {
            string source = MakeFile("source", lengthBytes), name = $"object-{lengthBytes}";
            await RunWellAsync("cp", source, a.UrlOf(name));
            long sent = await a.ReadCounterAsync("bytes_sent"), placed = await b.ReadCounterAsync("bytes_placed");
            Assert.Equal("", await RunWellAsync("cp", a.UrlOf(name), b.UrlOf(name)));
            ObjectDocument there = (await b.ListAsync()).Single(o => o.Name == name);
            Assert.Equal(
                ((ulong)lengthBytes, ObjectState.Ready, Sha256(source)), (there.SizeBytes, there.State, there.Sha256));

            // Every byte left the one host's port and landed by the other's: none came from the process that asked.
            Assert.True(await a.ReadCounterAsync("bytes_sent") >= sent + lengthBytes);
            Assert.Equal(placed + lengthBytes, await b.ReadCounterAsync("bytes_placed"));
            await RunWellAsync("cp", b.UrlOf(name), InFolder("back"));
            Assert.Equal(Sha256(source), Sha256(InFolder("back")));
        }
    }

    [Fact]
    public async Task A_copy_replaces_an_object_of_the_same_name_and_tells_what_it_did_as_JSON()
    {
        HostProcess a = await StartHostAsync("a"), b = await StartHostAsync();
        string old = MakeFile("old", 3 << 20), source = MakeFile("source", 4097);
        await RunWellAsync("cp", old, b.UrlOf("object"));
        await RunWellAsync("cp", source, a.UrlOf("object"));
        string output = await RunWellAsync("cp", "--json", a.UrlOf("object"), b.UrlOf("object"));
        using JsonDocument copy = JsonDocument.Parse(output);
        JsonElement root = copy.RootElement;
        Assert.Equal("wayleave.cp.v1", root.GetProperty("schema").GetString());
        Assert.Equal(a.UrlOf("object"), root.GetProperty("source").GetString());
        Assert.Equal(b.UrlOf("object"), root.GetProperty("target").GetString());
        Assert.Equal(
            (4097, Sha256(source)), (root.GetProperty("bytes").GetInt64(), root.GetProperty("sha256").GetString()));
        Assert.True(root.GetProperty("elapsed_us").GetInt64() > 0);
        Assert.True(root.GetProperty("bytes_per_s").GetDouble() > 0);
        ObjectDocument there = Assert.Single(await b.ListAsync());
        Assert.Equal((4097UL, Sha256(source)), (there.SizeBytes, there.Sha256));
        await ExpectNothingHeldAsync(a, objects: 1);
        await ExpectNothingHeldAsync(b, objects: 1);
    }

    [Fact]
    public async Task Within_one_host_an_object_is_copied_too()
    {
        HostProcess a = await StartHostAsync("a");
        string source = MakeFile("source", (3 << 20) + 1);
        await RunWellAsync("cp", source, a.UrlOf("one"));
        await RunWellAsync("cp", a.UrlOf("one"), a.UrlOf("two"));
        Assert.Equal(
            [("one", Sha256(source)), ("two", Sha256(source))], (await a.ListAsync()).Select(o => (o.Name, o.Sha256!)));
    }

    [Fact]
    public async Task Each_host_is_asked_with_its_own_token()
    {
        HostProcess a = await StartHostAsync("a"), b = await StartHostAsync();
        await RunWellAsync("cp", MakeFile("source", 4097), a.UrlOf("object"));

        // Nothing is registered where this looks, as when both hosts are other machines.
        string tokenOfA = Path.Combine(Root, "wayleave", "a.token"),
        tokenOfB = Path.Combine(Root, "wayleave", "b.token");
        Variables["XDG_RUNTIME_DIR"] = Directory.CreateDirectory(InFolder("elsewhere")).FullName;
        string[] copy = ["cp", a.UrlOf("object"), b.UrlOf("object")];
        await ExpectFailureAsync(
            1,
            $"create gpu0/object on {b.Authority}: its token is another; "
            + "give the file that the host named when it started: --token-file FILE",
            [.. copy, "--token-file", tokenOfA]);
        await ExpectFailureAsync(
            1,
            $"find gpu0/object on {a.Authority}: it needs a token and none is known; "
            + "give the file that the host named when it started: --token-file FILE",
            [.. copy, "--dst-token-file", tokenOfB]);
        await RunWellAsync([.. copy, "--src-token-file", tokenOfA, "--dst-token-file", tokenOfB]);
        Assert.Single(await b.ListAsync());
    }

    [Fact]
    public async Task What_is_wrong_is_told_with_the_host_that_it_is_about()
    {
        HostProcess a = await StartHostAsync("a"), b = await StartHostAsync();
        string nowhere = NextAddress().ToString();
        await RunWellAsync("cp", MakeFile("source", 32 << 20), a.UrlOf("object"));
        await RunWellAsync("cp", MakeFile("source", 48 << 20), b.UrlOf("other"));
        await ExpectFailureAsync(
            1,
            $"{a.Authority}: find gpu0/none: there is no such object; wayleave ls shows what there is",
            "cp", a.UrlOf("none"), b.UrlOf("object"));
        await ExpectFailureAsync(
            1,
            $"{b.Authority}: find device gpu9: this host has no such device with memory; it has gpu0, nvme0",
            "cp", a.UrlOf("object"), $"{b.Url}/gpu9/object");
        await ExpectFailureAsync(
            2, $"SRC and DST are the same object, {a.UrlOf("object")}", "cp", a.UrlOf("object"), a.UrlOf("object"));
        await ExpectFailureAsync(
            2,
            "--socket names one host, and SRC and DST are on two; leave it out",
            "cp", a.UrlOf("object"), b.UrlOf("object"), "--socket", "/nonexistent");
        await ExpectFailureAsync(
            4,
            $"create gpu0/object on {nowhere}:7471: nobody listens there; start it: wayleave host --address {nowhere}",
            "cp", a.UrlOf("object"), $"wl://{nowhere}/gpu0/object");
        await ExpectFailureAsync(
            4,
            $"find gpu0/object on {nowhere}:7471: nobody listens there; start it: wayleave host --address {nowhere}",
            "cp", $"wl://{nowhere}/gpu0/object", b.UrlOf("object"));
        await ExpectFailureAsync(
            2,
            "--stall-timeout: 50.0 ms is shorter than a busy peer may need; give at least 100 ms",
            "cp", a.UrlOf("object"), b.UrlOf("object"), "--stall-timeout", "50ms");
        Assert.Equal("other", Assert.Single(await b.ListAsync()).Name);
    }

    [Theory]
    [InlineData(CliProcess.SigKill, 137, "")]
    [InlineData(CliProcess.SigInt, 130, "wayleave: interrupted\n")]
    [InlineData(CliProcess.SigTerm, 130, "wayleave: interrupted\n")]
    public async Task When_the_asking_process_ends_both_hosts_give_up(int signal, int exitCode, string error)
    {
        (HostProcess a, HostProcess b, CliProcess copy) = await CopyInTheMiddleAsync();
        copy.Signal(signal);
        CliResult result = await copy.WaitAsync();
        Assert.Equal((exitCode, error, ""), (result.ExitCode, result.Error, result.Out));
        await ExpectInTimeAsync(result);
        await ExpectNothingHeldAsync(a, objects: 1);
        await ExpectNothingHeldAsync(b, objects: 0);
        await ExpectBothWorkAsync(a, b);
    }

    [Fact]
    public async Task A_source_that_is_killed_is_told_and_leaves_nothing_at_the_target()
    {
        (HostProcess a, HostProcess b, CliProcess copy) = await CopyInTheMiddleAsync();
        copy.MeasureFromNow();
        a.Process.Signal(CliProcess.SigKill);
        CliResult result = await copy.WaitAsync();
        ExpectFailure(1, $"{Copy(a, b)}: {a.Authority}: {Died}", result);
        await ExpectInTimeAsync(result);
        await ExpectNothingHeldAsync(b, objects: 0);
    }

    [Fact]
    public async Task A_target_that_is_killed_is_told_and_the_source_goes_on()
    {
        (HostProcess a, HostProcess b, CliProcess copy) = await CopyInTheMiddleAsync();
        copy.MeasureFromNow();
        b.Process.Signal(CliProcess.SigKill);
        CliResult result = await copy.WaitAsync();
        ExpectFailure(1, $"{Copy(a, b)}: {b.Authority}: {Died}", result);
        await ExpectInTimeAsync(result);
        await ExpectNothingHeldAsync(a, objects: 1);
        await ExpectBothWorkAsync(a, await StartHostAsync());
    }

    [Fact]
    public async Task A_target_that_is_stopped_is_told_within_ten_seconds()
    {
        (HostProcess a, HostProcess b, CliProcess copy) = await CopyInTheMiddleAsync();
        copy.MeasureFromNow();
        b.Process.Signal(CliProcess.SigStop);
        CliResult result = await copy.WaitAsync();
        ExpectFailure(
            1,
            $"{Copy(a, b)}: {b.Authority} does not answer any more; "
            + "see whether that host is still running, then start again",
            result);
        await ExpectInTimeAsync(result);
        await ExpectNothingHeldAsync(a, objects: 1);
        b.Process.Signal(CliProcess.SigCont);
        await ExpectNothingHeldAsync(b, objects: 0);
        await ExpectBothWorkAsync(a, b);
    }

    [Fact]
    public async Task A_source_that_is_stopped_is_told_within_ten_seconds()
    {
        (HostProcess a, HostProcess b, CliProcess copy) = await CopyInTheMiddleAsync();
        copy.MeasureFromNow();
        a.Process.Signal(CliProcess.SigStop);
        CliResult result = await copy.WaitAsync();
        ExpectFailure(
            1,
            $"{Copy(a, b)}: {a.Authority}: the host has fallen silent; check that it is not stopped or overloaded",
            result);
        await ExpectInTimeAsync(result);
        await ExpectNothingHeldAsync(b, objects: 0);
        a.Process.Signal(CliProcess.SigCont);
        await ExpectNothingHeldAsync(a, objects: 1);
        await ExpectBothWorkAsync(a, b);
    }

    [Theory]
    [InlineData(CliProcess.SigInt)]
    [InlineData(CliProcess.SigTerm)]
    public async Task A_host_that_is_ended_says_so(int signal)
    {
        (HostProcess a, HostProcess b, CliProcess copy) = await CopyInTheMiddleAsync();
        a.Process.Signal(signal);
        CliResult ended = await a.Process.WaitAsync();
        Assert.Equal((0, ""), (ended.ExitCode, ended.Error));
        await ExpectInTimeAsync(ended);
        ExpectFailure(1, $"{Copy(a, b)}: {a.Authority}: the host stops", await copy.WaitAsync());
        await ExpectNothingHeldAsync(b, objects: 0);
    }

    [Fact]
    public async Task An_object_that_its_owner_takes_back_meanwhile_is_not_copied()
    {
        (HostProcess a, HostProcess b, CliProcess copy) = await CopyInTheMiddleAsync();
        ProofDocument proof =
            await a.Client.RevokeAsync("gpu0", "object", new RevokeObjectDocument(), Cancellation);
        Assert.True(proof.Sufficient);
        ExpectFailure(1, $"{Copy(a, b)}: {a.Authority} took the object back", await copy.WaitAsync());
        await ExpectNothingHeldAsync(a, objects: 0);
        await ExpectNothingHeldAsync(b, objects: 0);
    }

    [Fact]
    public async Task Memory_that_the_target_takes_back_meanwhile_ends_the_copy()
    {
        (HostProcess a, HostProcess b, CliProcess copy) = await CopyInTheMiddleAsync();
        ObjectDocument writing = Assert.Single(await b.ListAsync());
        Assert.True((await b.Client.DeleteObjectAsync(writing.Id, Cancellation)).Sufficient);
        CliResult result = await copy.WaitAsync();
        string onTheWire = $"{b.Authority} took the memory back; ask its owner for a new object, then start again";
        string onTheStream = $"{b.Authority}: the owner took the memory back";
        bool isWire = result.Error.Contains("ask its owner", StringComparison.Ordinal);
        ExpectFailure(1, $"{Copy(a, b)}: {(isWire ? onTheWire : onTheStream)}", result);
        await ExpectNothingHeldAsync(a, objects: 1);
        await ExpectNothingHeldAsync(b, objects: 0);
    }

    private static string Copy(HostProcess a, HostProcess b) => $"copy {a.UrlOf("object")} to {b.UrlOf("object")}";

    /// <summary>
    /// A copy that is under way, between hosts whose packets of 256 bytes are so slow that it stays so: 768 MiB, of
    /// which some have landed.
    /// </summary>
    private async Task<(HostProcess A, HostProcess B, CliProcess Copy)> CopyInTheMiddleAsync()
    {
        HostProcess a = await StartHostAsync("a", "1GiB", "--mtu", "256");
        HostProcess b = await StartHostAsync("b", "1GiB", "--mtu", "256");
        CreateObjectDocument create = new() { Device = "gpu0", Name = "object", SizeBytes = LengthBytes };
        ObjectDocument made = await a.Client.CreateObjectAsync(create, Cancellation);
        await a.Client.CommitObjectAsync(made.Id, null, Cancellation);
        CliProcess copy = Start("cp", a.UrlOf("object"), b.UrlOf("object"));
        await UntilAsync("the first bytes land", async () =>
        {
            Assert.False(copy.HasExited, copy.ErrorSoFar);
            return await b.ReadCounterAsync("bytes_placed") > 1 << 18;
        });
        Assert.InRange(await b.ReadCounterAsync("bytes_placed"), 1, LengthBytes - 1);
        return (a, b, copy);
    }

    private static async Task ExpectNothingHeldAsync(HostProcess host, int objects)
    {
        await UntilAsync("what the copy held is gone", async () =>
            (await host.ListAsync()).Count == objects
            && (await host.Client.GetStatsAsync(Cancellation)).Leases == 0);
        GpuDocument gpu = await host.ReadGpuAsync();
        Assert.Equal((0UL, objects == 0), (gpu.VramQuarantinedBytes, gpu.VramUsedBytes == 0));
    }

    private async Task ExpectBothWorkAsync(HostProcess a, HostProcess b)
    {
        string small = MakeFile("small", 4097);
        await RunWellAsync("cp", small, a.UrlOf("after"));
        await RunWellAsync("cp", a.UrlOf("after"), b.UrlOf("after"));
        await RunWellAsync("cp", b.UrlOf("after"), InFolder("after"));
        Assert.Equal(Sha256(small), Sha256(InFolder("after")));
    }
}
