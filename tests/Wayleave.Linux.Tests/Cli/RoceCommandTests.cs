using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Json;
using Wayleave.Cli;
using Xunit;

namespace Wayleave.Linux.Tests.Cli;

/// <summary><c>wayleave roce check</c> and <c>wayleave roce replay</c> as a script meets them.</summary>
public sealed class RoceCommandTests : IDisposable
{
    private static readonly string s_vectors = Path.GetFullPath(Path.Combine(ThisFolder(), "../../vectors"));

    // Those of this run: another folder, or the repository's.
    private static readonly string s_found =
        Environment.GetEnvironmentVariable("WAYLEAVE_VECTORS") is { Length: > 0 } folder ? folder : s_vectors;

    private static readonly string[] s_always = ["index", "t_us", "opcode", "psn", "dest_qpn", "icrc"];

    private readonly string _folder = Directory.CreateTempSubdirectory("wayleave-roce-").FullName;

    public static TheoryData<string> Names =>
        [.. Directory.EnumerateFiles(s_found, "*.json").Select(f => Path.GetFileNameWithoutExtension(f)!)];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Names))]
    public async Task Every_capture_is_checked_and_replayed_or_said_to_be_not_supported(string name)
    {
        string pcap = Path.Combine(s_found, name + ".pcap");
        Outcome check = await Run("roce", "check", pcap, "--json");
        Assert.Equal(0, check.ExitCode);
        using JsonDocument packets = JsonDocument.Parse(check.Output);
        Assert.All(packets.RootElement.GetProperty("packets").EnumerateArray(), p =>
        {
            Assert.Equal("ok", p.GetProperty("icrc_verdict").GetString());
            Assert.All(s_always, field => Assert.True(p.TryGetProperty(field, out _), field));
        });

        foreach (string role in new[] { "responder", "requester" })
        {
            string json = Path.ChangeExtension(pcap, "json");
            Outcome replay = await Run("roce", "replay", pcap, json, "--role", role, "--json");
            using JsonDocument report = JsonDocument.Parse(replay.Output);
            string? result = report.RootElement.GetProperty("result").GetString();
            Assert.Equal((replay.ExitCode, ""), (result == "match" ? 0 : 3, replay.Error));
            Assert.Equal(result == "match" ? "match" : "not_supported", result);
        }
    }

    [Fact]
    public async Task A_check_prints_a_line_per_packet_and_the_counts()
    {
        Outcome outcome = await Run("roce", "check", Pcap("send_only"));
        Assert.Equal(0, outcome.ExitCode);
        string[] lines = outcome.Output.TrimEnd().Split('\n');
        Assert.Equal(3, lines.Length);
        Assert.EndsWith("data[64]=11181f262d343b424950575e.. icrc=d10b8bd4 ok", lines[0], StringComparison.Ordinal);
        Assert.Equal("2 packets: 2 ok", lines[2]);
    }

    [Fact]
    public async Task A_bad_packet_fails_the_check_and_the_replay()
    {
        byte[] file = File.ReadAllBytes(Pcap("send_only"));
        file[^1] ^= 1;
        string damaged = Write("damaged.pcap", file);
        Outcome check = await Run("roce", "check", damaged);
        Assert.Equal(1, check.ExitCode);
        Assert.EndsWith("2 packets: 1 ok, 1 bad\n", check.Output, StringComparison.Ordinal);

        Outcome replay = await Run("roce", "replay", damaged, Json("send_only"), "--role", "responder");
        Assert.Equal(1, replay.ExitCode);
        Assert.StartsWith("packet 1: icrc: expected 63aeda47, got 63aeda46\n", replay.Output, StringComparison.Ordinal);
        Assert.Contains("damaged: 1 mismatch: responder B", replay.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task What_is_not_supported_is_decoded_and_checked_all_the_same()
    {
        string described = File.ReadAllText(Json("send_only"));
        string windows = described.Replace(
            "\"mws\": []", "\"mws\": [{\"name\": \"w\"}]", StringComparison.Ordinal);
        Assert.NotEqual(described, windows);
        string json = Write("windows.json", Encoding.UTF8.GetBytes(windows));
        Outcome outcome = await Run("roce", "replay", Pcap("send_only"), json, "--role", "responder");
        Assert.Equal(3, outcome.ExitCode);
        Assert.Contains(" RC_SEND_ONLY qp=", outcome.Output, StringComparison.Ordinal);
        Assert.EndsWith(
            "send_only: not supported yet: memory windows\n", outcome.Output, StringComparison.Ordinal);

        byte[] file = File.ReadAllBytes(Pcap("send_only"));
        file[^1] ^= 1;
        outcome = await Run("roce", "replay", Write("bad.pcap", file), json, "--role", "responder", "--json");
        Assert.Equal(1, outcome.ExitCode);
    }

    [Theory]
    [InlineData("cm_rping", "requester")]
    [InlineData("cm_reject", "responder")]
    [InlineData("userspace_peer_v6", "responder")]
    public async Task A_capture_without_a_replay_object_is_replayed_from_its_packets(string name, string role)
    {
        Outcome outcome = await Run("roce", "replay", Pcap(name), Json(name), "--role", role);
        Assert.Equal(0, outcome.ExitCode);
        Assert.StartsWith($"{name}: match: {role} ", outcome.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_file_that_is_no_capture_is_refused_in_one_line_that_names_it()
    {
        byte[] good = File.ReadAllBytes(Pcap("send_only"));
        byte[] otherLink = [.. good];
        otherLink[20] = 113; // Linux cooked capture
        byte[] nextGeneration = [0x0A, 0x0D, 0x0D, 0x0A, .. new byte[24]];
        await AssertRefused(Path.Combine(_folder, "missing.pcap"), 1, "does not exist");
        await AssertRefused(_folder, 1, "a folder");
        await AssertRefused(Write("empty.pcap", []), 1, "empty");
        await AssertRefused(Write("short.pcap", good[..20]), 1, "too short");
        await AssertRefused(Write("text.pcap", "no packets here, only text"u8.ToArray()), 1, "not a packet capture");
        await AssertRefused(Write("cooked.pcap", otherLink), 3, "link type");
        await AssertRefused(Write("next.pcap", nextGeneration), 3, "pcapng");
    }

    [Fact]
    public async Task A_capture_that_breaks_off_is_shown_as_far_as_it_goes_and_fails()
    {
        byte[] good = File.ReadAllBytes(Pcap("send_only"));
        string path = Write("cut.pcap", good[..^3]);
        Outcome outcome = await Run("roce", "check", path);
        Assert.Equal(1, outcome.ExitCode);
        Assert.Contains("1 packet: 1 ok", outcome.Output, StringComparison.Ordinal);
        Assert.Equal(
            $"wayleave: check {path}: cut off inside a packet, or damaged before that; capture again for the rest\n",
            outcome.Error);

        outcome = await Run("roce", "replay", path, Json("send_only"), "--role", "responder");
        Assert.Equal(1, outcome.ExitCode);
        Assert.Contains("cut off inside a packet", outcome.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Packets_to_another_port_are_found_when_it_is_named()
    {
        byte[] file = File.ReadAllBytes(Pcap("send_only"));
        int port = 24 + 16 + 14 + 20 + 2; // of the first packet
        (file[port], file[port + 1]) = (0x12, 0x34);
        string path = Write("ports.pcap", file);
        Outcome outcome = await Run("roce", "check", path);
        Assert.Equal(0, outcome.ExitCode);
        Assert.EndsWith("1 packet: 1 ok; 1 other frame skipped\n", outcome.Output, StringComparison.Ordinal);

        outcome = await Run("roce", "check", path, "--port", "4660", "--port", "4791");
        // Bad, because the ICRC covers the port.
        Assert.EndsWith("2 packets: 1 ok, 1 bad\n", outcome.Output, StringComparison.Ordinal);

        outcome = await Run("roce", "check", path, "--port", "1");
        Assert.Equal("0 packets: 0 ok; 2 other frames skipped\n", outcome.Output);
        Assert.EndsWith("--port names others, such as 4660, 4791\n", outcome.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("{", "not the description of a capture")]
    [InlineData("null", "not the description")]
    [InlineData("{\"case\": \"x\", \"replay\": null, \"packets\": []}", "they do not belong together")]
    public async Task A_description_that_is_none_is_refused_in_one_line_that_names_it(string json, string reason)
    {
        string path = Write("broken.json", System.Text.Encoding.UTF8.GetBytes(json));
        Outcome outcome = await Run("roce", "replay", Pcap("send_only"), path, "--role", "responder");
        Assert.Equal(1, outcome.ExitCode);
        Assert.StartsWith($"wayleave: replay {path}: ", outcome.Error, StringComparison.Ordinal);
        Assert.Contains(reason, outcome.Error, StringComparison.Ordinal);
        Assert.Equal(1, outcome.Error.Count(c => c == '\n'));
    }

    [Theory]
    [InlineData("roce", "check")]
    [InlineData("roce", "replay", "a.pcap", "a.json")]
    [InlineData("roce", "replay", "a.pcap", "a.json", "--role", "both")]
    [InlineData("roce", "check", "a.pcap", "--port", "70000")]
    public async Task A_wrong_command_line_is_exit_2(params string[] arguments)
    {
        Outcome outcome = await Run(arguments);
        Assert.Equal((2, ""), (outcome.ExitCode, outcome.Output));
    }

    private static async Task<Outcome> Run(params string[] arguments)
    {
        using StringWriter output = new() { NewLine = "\n" };
        using StringWriter error = new() { NewLine = "\n" };
        int exitCode = await CommandLine.RunAsync(arguments, output, error, TestContext.Current.CancellationToken);
        return new Outcome(exitCode, output.ToString(), error.ToString());
    }

    private static async Task AssertRefused(string path, int exitCode, string reason)
    {
        Outcome outcome = await Run("roce", "check", path);
        Assert.Equal((exitCode, ""), (outcome.ExitCode, outcome.Output));
        Assert.StartsWith($"wayleave: read {path}: ", outcome.Error, StringComparison.Ordinal);
        Assert.Contains(reason, outcome.Error, StringComparison.Ordinal);
        Assert.Contains("; ", outcome.Error, StringComparison.Ordinal); // and what to do
        Assert.Equal(1, outcome.Error.Count(c => c == '\n'));
    }

    private static string Pcap(string name) => Path.Combine(s_vectors, name + ".pcap");

    private static string Json(string name) => Path.Combine(s_vectors, name + ".json");

    private static string ThisFolder([CallerFilePath] string source = "") => Path.GetDirectoryName(source)!;

    private string Write(string name, byte[] bytes)
    {
        string path = Path.Combine(_folder, name);
        File.WriteAllBytes(path, bytes);
        return path;
    }

    private sealed record Outcome(int ExitCode, string Output, string Error);
}
