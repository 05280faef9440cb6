using System.Text.Json;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary><c>wayleave demo</c>: what scripts rely on, what people read, and a broken host that is caught.</summary>
public class DemoTests : EndToEndTest
{
    private const long LengthBytes = 8 << 20;

    [Fact]
    public async Task The_report_has_every_field_with_the_value_that_passes()
    {
        string trace = InFolder("trace.json"), capture = InFolder("a.pcap");
        CliResult result = await RunAsync("demo", "--json", "--size", "8MiB", "--trace", trace, "--pcap", capture);
        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        Assert.Equal(1, result.Out.Count(c => c == '\n'));
        using JsonDocument document = JsonDocument.Parse(result.Out);
        ExpectReport(document.RootElement);
        File.WriteAllText(InFolder("report.json"), result.Out);
        Assert.Equal(2, (await RunWellAsync("proof", "check", InFolder("report.json"))).Count(c => c == '\n'));
        ExpectTrace(trace);
        ExpectPackets(capture);
        ExpectNothingLeft();
    }

    [Fact]
    public async Task A_file_is_sent_and_the_end_is_told_as_a_story()
    {
        string file = MakeFile("source", (1 << 20) + 1);
        string story = await RunWellAsync("demo", file);
        string[] lines = story.Split('\n');
        Assert.StartsWith("host A   process ", lines[0], StringComparison.Ordinal);
        Assert.StartsWith("host B   process ", lines[1], StringComparison.Ordinal);
        string digest = Sha256(file)[..16];
        Assert.Equal($"loaded   1.00 MiB of {file} into the memory of A's gpu0, sha256 {digest}...", lines[2]);
        Assert.Equal(4, lines.Count(l => l.StartsWith("moved    B's buffer ", StringComparison.Ordinal)));
        Assert.Contains("checked  sha256 in the memory of B's gpu0: equal", lines);
        foreach (string kind in (string[])["dynamic", "pinned-revocable"])
        {
            string heading = $@"take back 16\.0 MiB, lent as a {kind} region under key 0x[0-9a-f]{{8}}, while A writes";
            Assert.Matches(heading, story);
        }

        Assert.Equal(2, lines.Count(l => l.Contains("last packet that landed: PSN", StringComparison.Ordinal)));
        Assert.Equal(2, lines.Count(l => l.Contains("8 times refused", StringComparison.Ordinal)));
        Assert.Equal(["nothing landed after the proofs, and nothing could be read", ""], lines[^2..]);
        ExpectNothingLeft();
    }

    [Fact]
    public async Task Without_the_gate_late_bytes_are_found_every_time()
    {
        for (int run = 0; run < 3; run++)
        {
            CliResult result = await RunAsync("demo", "--json", "--size", "1MiB", "--break", "revoke-gate");
            using JsonDocument document = JsonDocument.Parse(result.Out);
            Assert.Equal((1, ""), (result.ExitCode, result.Error));
            JsonElement report = document.RootElement;
            Assert.True(report.GetProperty("late_writes").GetInt64() > 0, result.Out);
            Assert.True(report.GetProperty("late_reads").GetInt64() > 0, result.Out);
            File.WriteAllText(InFolder("report.json"), result.Out);
            CliResult check = await RunAsync("proof", "check", InFolder("report.json"));
            Assert.Equal(1, check.ExitCode);
            Assert.Contains("bytes changed after the proofs", check.Out, StringComparison.Ordinal);
            Assert.False(report.GetProperty("passed").GetBoolean());
            Assert.True(report.GetProperty("sha256_match").GetBoolean());
        }
    }

    [Fact]
    public async Task A_device_that_hands_out_dead_keys_is_caught_although_nothing_landed()
    {
        CliResult result = await RunAsync("demo", "--json", "--size", "1MiB", "--break", "key-reuse");
        using JsonDocument document = JsonDocument.Parse(result.Out);
        JsonElement report = document.RootElement;
        Assert.Equal((1, ""), (result.ExitCode, result.Error));
        Assert.True(report.GetProperty("key_reused").GetBoolean());
        Assert.Equal(0, report.GetProperty("late_writes").GetInt64());
        Assert.Equal("Retired", report.GetProperty("revoke_grade").GetString());
        Assert.False(report.GetProperty("passed").GetBoolean());
        CliResult story = await RunAsync("demo", "--size", "1MiB", "--break", "key-reuse");
        Assert.Equal(1, story.ExitCode);
        Assert.EndsWith("FAILED: a dead key was handed out again\n", story.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_demo_runs_under_the_runtime_too()
    {
        CliResult result = await StartUnderRuntime("demo", "--json", "--size", "1MiB").WaitAsync();
        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        ExpectNothingLeft();
    }

    [Theory]
    [InlineData(CliProcess.SigInt)]
    [InlineData(CliProcess.SigTerm)]
    public async Task An_interrupted_demo_takes_its_other_host_with_it(int signal)
    {
        CliProcess demo = Start("demo", "--size", "256MiB");
        int other = await ReadOtherHostAsync(demo);
        Assert.True(Directory.Exists($"/proc/{other}"));
        demo.Signal(signal);
        CliResult result = await demo.WaitAsync();
        Assert.Equal((130, "wayleave: interrupted\n"), (result.ExitCode, result.Error));
        await ExpectInTimeAsync(result);
        Assert.False(Directory.Exists($"/proc/{other}"));
        ExpectNothingLeft();
    }

    [Fact]
    public async Task A_killed_demo_takes_its_other_host_with_it()
    {
        CliProcess demo = Start("demo", "--size", "256MiB");
        int other = await ReadOtherHostAsync(demo);
        demo.Signal(CliProcess.SigKill);
        await demo.WaitAsync();
        await UntilAsync("the other host is gone", () => Task.FromResult(!Directory.Exists($"/proc/{other}")));
        Assert.Empty(RuntimeFiles());
    }

    [Fact]
    public async Task What_cannot_be_sent_or_written_is_named()
    {
        string missing = InFolder("missing");
        await ExpectFailureAsync(1, $"read {missing}: does not exist; check the name", "demo", missing);
        await ExpectFailureAsync(2, "--size: a demo sends at least one byte", "demo", "--size", "0");
        CliResult large = await RunAsync("demo", "--size", "1000000TiB");
        const string TooLarge =
            @"^wayleave: send .* TiB: both hosts need 3 times that, and this machine has .* of memory; "
            + @"give a smaller FILE or --size\n$";
        Assert.Equal((1, ""), (large.ExitCode, large.Out));
        Assert.Matches(TooLarge, large.Error);
        string capture = $"{missing}/a.pcap";
        string noFolder = $"there is no folder {missing}; make it first";

        // Before anything is started: neither host says a word.
        await ExpectFailureAsync(1, $"write {capture}: {noFolder}", "demo", "--pcap", capture);
        await ExpectFailureAsync(1, $"write {missing}/t: {noFolder}", "demo", "--trace", $"{missing}/t");
        await ExpectFailureAsync(1, $"write {Root}: it is a folder; name the file too", "demo", "--trace", Root);
        ExpectNothingLeft();
    }

    private static void ExpectReport(JsonElement report)
    {
        Assert.Equal("wayleave.demo.v1", report.GetProperty("schema").GetString());
        Assert.Equal(LengthBytes, report.GetProperty("bytes").GetInt64());
        Assert.True(report.GetProperty("sha256_match").GetBoolean());
        Assert.Equal(0, report.GetProperty("staging_bytes").GetInt64());
        Assert.True(report.GetProperty("moves").GetInt32() >= 4);
        Assert.True(report.GetProperty("dynamic_faults").GetInt64() >= 0);
        Assert.True(report.GetProperty("retransmits").GetInt64() >= 0);
        Assert.True(report.GetProperty("throughput_bytes_per_s").GetDouble() > 0);
        Assert.Equal("Retired", report.GetProperty("revoke_grade").GetString());
        Assert.True(report.GetProperty("revoke_us").GetDouble() > 0);
        Assert.True(report.GetProperty("bytes_rejected_after_revoke").GetInt64() > 0);
        Assert.Equal(0, report.GetProperty("late_writes").GetInt64());
        Assert.Equal(0, report.GetProperty("late_reads").GetInt64());
        Assert.False(report.GetProperty("key_reused").GetBoolean());
        Assert.True(report.GetProperty("passed").GetBoolean());
        Assert.Equal(2, report.GetProperty("proof").GetArrayLength());
        foreach (JsonElement proof in report.GetProperty("proof").EnumerateArray())
        {
            JsonElement importer = Assert.Single(proof.GetProperty("importers").EnumerateArray());
            Assert.Equal("Retired", importer.GetProperty("grade").GetString());
            Assert.True(proof.GetProperty("sufficient").GetBoolean());
        }

        IEnumerable<string?> regions =
            report.GetProperty("taken_back").EnumerateArray().Select(r => r.GetProperty("region").GetString());
        Assert.Equal("dynamic pinned_revocable", string.Join(' ', regions));
    }

    // The JSON array form of Chrome's trace format, which ui.perfetto.dev reads: an array of events with ph, pid and,
    // but for the names of processes and threads, ts.
    private static void ExpectTrace(string path)
    {
        using JsonDocument trace = JsonDocument.Parse(File.ReadAllBytes(path));
        HashSet<int> processes = [];
        foreach (JsonElement e in trace.RootElement.EnumerateArray())
        {
            processes.Add(e.GetProperty("pid").GetInt32());
            string phase = e.GetProperty("ph").GetString()!;
            Assert.True(phase == "M" || e.GetProperty("ts").GetDouble() >= 0);
        }

        Assert.Equal([1, 2], processes.Order());
    }

    private static void ExpectPackets(string path)
    {
        Assert.Equal(PcapStatus.Success, PcapReader.TryOpen(File.ReadAllBytes(path), out PcapReader? reader));
        int packets = 0;
        HashSet<Opcode> opcodes = [];
        PcapStatus status;
        while ((status = reader!.TryRead(out PcapRecord record)) == PcapStatus.Success)
        {
            Assert.True(record.IsComplete);
            Assert.Equal(FrameError.None, FrameView.TryParse(record.Frame.Span, out FrameView frame));
            Assert.Equal(DropReason.None, PacketView.TryParse(frame.UdpPayload, out PacketView packet));
            Assert.True(Icrc.Verify(frame), $"ICRC of packet {packets}");
            opcodes.Add(packet.Opcode);
            packets++;
        }

        Assert.Equal(PcapStatus.End, status);
        Assert.True(packets > LengthBytes / 4096);
        HashSet<Opcode> expected =
            [Opcode.RcWriteFirst, Opcode.RcWriteMiddle, Opcode.RcWriteLast, Opcode.RcAcknowledge];
        Assert.Superset(expected, opcodes);
    }

    private static async Task<int> ReadOtherHostAsync(CliProcess demo)
    {
        const string Line = "host B   process ";
        await UntilAsync(
            "the other host is there", () => Task.FromResult(demo.OutSoFar.Contains(Line, StringComparison.Ordinal)));
        return int.Parse(demo.OutSoFar.Split(Line)[1].Split(',')[0], provider: null);
    }

    private void ExpectNothingLeft()
    {
        Assert.Empty(RuntimeFiles());
        Assert.Empty(TemporaryFiles());
    }
}
