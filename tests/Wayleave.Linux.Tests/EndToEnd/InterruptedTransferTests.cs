using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

// A transfer with packets of 256 bytes is slow enough that whatever happens to it happens in its middle; that it did is
// asserted, by stopping the copying process as soon as the other side has counted bytes.

/// <summary>
/// What happens in the middle of a transfer, to either process: nothing half-written stays under the final name, the
/// memory is free again by a proof, and the host goes on.
/// </summary>
public class InterruptedTransferTests : EndToEndTest
{
    private const long LengthBytes = 64 << 20;
    private const string Died = "the host died or cut the connection; look at its output, then try again";

    [Fact]
    public async Task A_writer_that_is_killed_leaves_nothing()
    {
        HostProcess host = await StartSlowHostAsync();
        CliProcess copy = await StopInMidPushAsync(host);
        copy.Signal(CliProcess.SigKill);
        CliResult result = await copy.WaitAsync();
        Assert.Equal(137, result.ExitCode);
        await ExpectMemoryIsFreeAsync(host, objects: 0);
        await ExpectHostWorksAsync(host);
    }

    [Fact]
    public async Task A_writer_that_is_killed_while_it_replaces_an_object_leaves_the_old_one()
    {
        HostProcess host = await StartSlowHostAsync();
        string old = MakeFile("old", 4097);
        await RunWellAsync("cp", old, host.UrlOf("object"));
        CliProcess copy = await StopInMidPushAsync(host);
        copy.Signal(CliProcess.SigKill);
        await copy.WaitAsync();
        await ExpectMemoryIsFreeAsync(host, objects: 1);
        await RunWellAsync("cp", host.UrlOf("object"), InFolder("back"));
        Assert.Equal(Sha256(old), Sha256(InFolder("back")));
    }

    [Fact]
    public async Task A_reader_that_is_killed_leaves_the_object_and_no_lease()
    {
        HostProcess host = await StartSlowHostAsync();
        CliProcess copy = await StopInMidPullAsync(host);
        copy.Signal(CliProcess.SigKill);
        await copy.WaitAsync();
        await ExpectNoLeaseAsync(host);
        ExpectNoTarget();
        Assert.Equal(ObjectState.Ready, Assert.Single(await host.ListAsync()).State);
        await RunWellAsync("cp", host.UrlOf("object"), InFolder("target"));
        Assert.Equal(LengthBytes, new FileInfo(InFolder("target")).Length);
    }

    [Fact]
    public async Task A_host_that_is_killed_is_told_to_the_writer()
    {
        HostProcess host = await StartSlowHostAsync();
        CliProcess copy = await StopInMidPushAsync(host);
        host.Process.Signal(CliProcess.SigKill);
        await host.Process.WaitAsync();
        copy.Signal(CliProcess.SigCont);
        CliResult result = await copy.WaitAsync();
        ExpectFailure(1, $"{PushTo(host)}: {Died}", result);
        await ExpectInTimeAsync(result);

        // What it left behind does not hinder the next host of that name.
        HostProcess next = await StartHostAsync();
        Assert.Empty(await next.ListAsync());
        await ExpectHostWorksAsync(next);
    }

    [Fact]
    public async Task A_host_that_is_killed_is_told_to_the_reader_and_leaves_no_file()
    {
        HostProcess host = await StartSlowHostAsync();
        CliProcess copy = await StopInMidPullAsync(host);
        host.Process.Signal(CliProcess.SigKill);
        await host.Process.WaitAsync();
        copy.Signal(CliProcess.SigCont);
        CliResult result = await copy.WaitAsync();
        ExpectFailure(1, $"{PullFrom(host)}: {Died}", result);
        await ExpectInTimeAsync(result);
        ExpectNoTarget();
    }

    [Fact]
    public async Task A_host_that_is_stopped_is_told_within_ten_seconds()
    {
        HostProcess host = await StartSlowHostAsync();
        CliProcess copy = await StopInMidPushAsync(host);
        host.Process.Signal(CliProcess.SigStop);
        copy.Signal(CliProcess.SigCont);
        CliResult result = await copy.WaitAsync();
        ExpectFailure(
            1,
            $"{PushTo(host)}: {host.Authority} does not answer any more; "
            + "see whether that host is still running, then start again",
            result);
        await ExpectInTimeAsync(result);
        host.Process.Signal(CliProcess.SigCont);
        await ExpectMemoryIsFreeAsync(host, objects: 0);
        await ExpectHostWorksAsync(host);
    }

    [Fact]
    public async Task A_host_that_is_stopped_before_the_copy_begins_is_told_within_ten_seconds()
    {
        HostProcess host = await StartHostAsync();
        string source = MakeFile("source", 4097);
        host.Process.Signal(CliProcess.SigStop);
        CliResult result = await RunAsync("cp", source, host.UrlOf("object"));
        ExpectFailure(
            1,
            $"list devices on {host.Authority}: no answer for 8 s; "
            + "check that the host is not stopped or overloaded",
            result);
        await ExpectInTimeAsync(result);
        host.Process.Signal(CliProcess.SigCont);

        // The request that nobody waits for any more is served, and given up, when its client is found gone.
        await ExpectMemoryIsFreeAsync(host, objects: 0);
        await ExpectHostWorksAsync(host);
    }

    [Theory]
    [InlineData(CliProcess.SigInt)]
    [InlineData(CliProcess.SigTerm)]
    public async Task A_push_that_is_interrupted_cleans_up(int signal)
    {
        HostProcess host = await StartSlowHostAsync();
        CliProcess copy = await StopInMidPushAsync(host);
        copy.Signal(CliProcess.SigCont);
        copy.Signal(signal);
        ExpectFailure(130, "interrupted", await copy.WaitAsync());
        await ExpectMemoryIsFreeAsync(host, objects: 0);
        await ExpectHostWorksAsync(host);
    }

    [Fact]
    public async Task A_pull_that_is_interrupted_leaves_no_file()
    {
        HostProcess host = await StartSlowHostAsync();
        CliProcess copy = await StopInMidPullAsync(host);
        copy.Signal(CliProcess.SigCont);
        copy.Signal(CliProcess.SigInt);
        ExpectFailure(130, "interrupted", await copy.WaitAsync());
        ExpectNoTarget();
        await ExpectNoLeaseAsync(host);
    }

    [Theory]
    [InlineData(CliProcess.SigInt)]
    [InlineData(CliProcess.SigTerm)]
    public async Task A_host_that_is_ended_says_so_to_its_writers_and_leaves_no_files(int signal)
    {
        HostProcess host = await StartSlowHostAsync();
        CliProcess copy = await StopInMidPushAsync(host);
        copy.Signal(CliProcess.SigCont);
        host.Process.Signal(signal);
        CliResult ended = await host.Process.WaitAsync();
        Assert.Equal((0, ""), (ended.ExitCode, ended.Error));
        await ExpectInTimeAsync(ended);
        Assert.Empty(RuntimeFiles());
        ExpectFailure(1, $"{PushTo(host)}: the host stops", await copy.WaitAsync());
    }

    [Fact]
    public async Task Memory_that_is_being_read_is_taken_back_at_once()
    {
        HostProcess host = await StartSlowHostAsync();
        CliProcess copy = await StopInMidPullAsync(host);
        string story = await RunWellAsync("revoke", "--explain", host.UrlOf("object"));
        Assert.Contains("Retired: nobody can write to it any more", story, StringComparison.Ordinal);
        await ExpectMemoryIsFreeAsync(host, objects: 0, leases: 1);
        copy.Signal(CliProcess.SigCont);
        CliResult result = await copy.WaitAsync();
        ExpectFailure(1, $"{PullFrom(host)}: {TakenBack(host, result)}", result);
        ExpectNoTarget();
        await ExpectNoLeaseAsync(host);
    }

    [Fact]
    public async Task Memory_that_is_being_written_is_taken_back_at_once()
    {
        HostProcess host = await StartSlowHostAsync();
        CliProcess copy = await StopInMidPushAsync(host);
        ObjectDocument writing = Assert.Single(await host.ListAsync());
        ProofDocument proof = await host.Client.DeleteObjectAsync(writing.Id, TestContext.Current.CancellationToken);
        Assert.True(proof.Sufficient);
        await ExpectMemoryIsFreeAsync(host, objects: 0, leases: 1);
        copy.Signal(CliProcess.SigCont);
        CliResult result = await copy.WaitAsync();
        ExpectFailure(1, $"{PushTo(host)}: {TakenBack(host, result)}", result);
        await ExpectNoLeaseAsync(host);
        await ExpectHostWorksAsync(host);
    }

    private string PushTo(HostProcess host) => $"copy {InFolder("source")} to {host.UrlOf("object")}";

    private string PullFrom(HostProcess host) => $"copy {host.UrlOf("object")} to {InFolder("target")}";

    // The refusal on the wire and the word on the stream of the lease race; either is true.
    private static string TakenBack(HostProcess host, CliResult result) =>
        result.Error.Contains("ask its owner", StringComparison.Ordinal)
            ? $"{host.Authority} took the memory back; ask its owner for a new object, then start again"
            : "the owner took the memory back";

    private Task<HostProcess> StartSlowHostAsync() => StartHostAsync("b", "128MiB", "--mtu", "256");

    private async Task<CliProcess> StopInMidPushAsync(HostProcess host)
    {
        using (FileStream file = File.Create(InFolder("source")))
        {
            file.SetLength(LengthBytes);
        }

        CliProcess copy = Start("cp", InFolder("source"), host.UrlOf("object"));
        await UntilAsync("the first bytes land", async () => await host.ReadCounterAsync("bytes_placed") > 1 << 20);
        copy.Signal(CliProcess.SigStop);
        Assert.Contains(await host.ListAsync(), o => o.State == ObjectState.Writing);
        Assert.InRange(await host.ReadCounterAsync("bytes_placed"), 1, LengthBytes - 1);
        return copy;
    }

    private async Task<CliProcess> StopInMidPullAsync(HostProcess host)
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        CreateObjectDocument create = new() { Device = "gpu0", Name = "object", SizeBytes = LengthBytes };
        ObjectDocument made = await host.Client.CreateObjectAsync(create, cancellation);
        await host.Client.CommitObjectAsync(made.Id, null, cancellation);
        long before = await host.ReadCounterAsync("bytes_sent");
        CliProcess copy = Start("cp", host.UrlOf("object"), InFolder("target"));
        await UntilAsync(
            "the first bytes leave", async () => await host.ReadCounterAsync("bytes_sent") > before + (1 << 20));
        copy.Signal(CliProcess.SigStop);
        Assert.InRange(await host.ReadCounterAsync("bytes_sent"), before, before + LengthBytes - 1);
        return copy;
    }

    private static async Task ExpectMemoryIsFreeAsync(HostProcess host, int objects, int leases = 0)
    {
        await UntilAsync("the lease and its object are gone", async () =>
            (await host.ListAsync()).Count == objects
            && (await host.Client.GetStatsAsync(TestContext.Current.CancellationToken)).Leases == leases);
        GpuDocument gpu = await host.ReadGpuAsync();
        Assert.Equal(0UL, gpu.VramQuarantinedBytes);
        Assert.Equal(objects == 0, gpu.VramUsedBytes == 0);
        Assert.InRange(gpu.VramUsedBytes, 0UL, 1UL << 20);
    }

    private static Task ExpectNoLeaseAsync(HostProcess host) => UntilAsync(
        "the lease is gone",
        async () => (await host.Client.GetStatsAsync(TestContext.Current.CancellationToken)).Leases == 0);

    private void ExpectNoTarget()
    {
        Assert.False(File.Exists(InFolder("target")));
        Assert.Empty(Directory.GetFiles(Root, ".target.*"));
    }

    private async Task ExpectHostWorksAsync(HostProcess host)
    {
        string small = MakeFile("small", 4097);
        await RunWellAsync("cp", small, host.UrlOf("after"));
        await RunWellAsync("cp", host.UrlOf("after"), InFolder("after"));
        Assert.Equal(Sha256(small), Sha256(InFolder("after")));
    }
}
