using System.Diagnostics;
using System.Text.Json;
using Xunit;

namespace Wayleave.Linux.Tests.Benchmarks;

/// <summary>
/// Each benchmark once, tiny, as the built program with its second process: what scripts rely on is there. How fast it
/// was is nobody's business here.
/// </summary>
public sealed class BenchCommandTests
{
    private static readonly string[] s_inOrder = ["min_us", "median_us", "p99_us", "p999_us", "max_us"];

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("write-bw", "--size", "64KiB")]
    [InlineData("write-bw", "--size", "5000", "--mtu", "1024", "--qps", "3", "--with-limit")]
    [InlineData("write-bw", "--size", "64KiB", "--qps", "8", "--depth", "2", "--with-one")]
    [InlineData("read-bw", "--size", "64KiB")]
    [InlineData("send-bw", "--size", "10000")]
    public async Task Bandwidth_is_reported_with_its_allocations_and_drops(string test, params string[] arguments)
    {
        JsonElement report = await RunAsync([test, .. arguments, "--rounds", "2", "--iterations", "50"]);
        Assert.Equal("wayleave.bench/1", report.GetProperty("schema").GetString());
        Assert.Equal(test, report.GetProperty("test").GetString());
        JsonElement bandwidth = report.GetProperty("bandwidth");
        Assert.Equal(100, bandwidth.GetProperty("operations").GetInt64());
        Assert.True(bandwidth.GetProperty("median_bytes_per_s").GetDouble() > 0);
        Assert.Equal(2, report.GetProperty("rounds").GetArrayLength());
        Assert.True(report.TryGetProperty("allocated_bytes_per_operation", out _));
        Assert.True(report.TryGetProperty("allocated_bytes_per_packet", out _));
        Assert.Equal(0, report.GetProperty("socket_drops").GetInt64());
        bool hasLimit = arguments.Contains("--with-limit");
        Assert.Equal(hasLimit, bandwidth.TryGetProperty("median_ratio", out _));
        Assert.Equal(hasLimit, report.GetProperty("rounds")[0].TryGetProperty("ratio", out _));
        bool hasOne = arguments.Contains("--with-one");
        Assert.Equal(hasOne, bandwidth.TryGetProperty("median_one_ratio", out _));
        Assert.Equal(hasOne, report.GetProperty("rounds")[0].TryGetProperty("one_bytes_per_s", out _));
    }

    [Theory]
    [InlineData("write-lat", "8")]
    [InlineData("write-lat", "3")]
    [InlineData("write-lat", "9000")]
    [InlineData("send-lat", "8")]
    public async Task Latency_is_reported_with_its_percentiles(string test, string size)
    {
        JsonElement report = await RunAsync([test, "--size", size, "--rounds", "2", "--iterations", "40"]);
        JsonElement latency = report.GetProperty("latency");
        Assert.Equal(80, latency.GetProperty("count").GetInt32());
        double[] inOrder = [.. s_inOrder.Select(name => latency.GetProperty(name).GetDouble())];
        Assert.Equal(inOrder.Order(), inOrder);
        Assert.False(report.TryGetProperty("beside", out _));
    }

    [Theory]
    [InlineData("write-lat")]
    [InlineData("send-lat")]
    public async Task Latency_is_measured_beside_queue_pairs_that_are_busy(string test)
    {
        JsonElement report = await RunAsync(
            [test, "--beside", "3", "--depth", "4", "--rounds", "2", "--iterations", "40"]);
        Assert.Equal(80, report.GetProperty("latency").GetProperty("count").GetInt32());
        Assert.Equal(3, report.GetProperty("beside").GetInt32());
        Assert.True(report.GetProperty("median_beside_bytes_per_s").GetDouble() > 0);
        Assert.All(
            report.GetProperty("rounds").EnumerateArray(),
            r => Assert.True(r.GetProperty("beside_bytes_per_s").GetDouble() > 0));
    }

    [Theory]
    [InlineData("write-bw", "--beside", "1")]
    [InlineData("write-lat", "--beside", "1024")]
    [InlineData("write-lat", "--beside", "-1")]
    [InlineData("write-lat", "--beside", "1", "--region", "65536")]
    public async Task What_can_not_be_beside_is_a_usage_error(params string[] arguments)
    {
        (int code, _, string error) = await RunProcessAsync(arguments);
        Assert.Equal(2, code);
        Assert.Contains(arguments.Contains("--region") ? "the region must hold" : "beside a latency", error);
    }

    [Fact]
    public async Task A_take_back_under_load_leaves_no_late_byte()
    {
        JsonElement takeBack = (await RunAsync(["revoke", "--iterations", "3"])).GetProperty("take_back");
        Assert.Equal(3, takeBack.GetProperty("retired").GetInt32());
        Assert.Equal(3, takeBack.GetProperty("time").GetProperty("count").GetInt32());
        Assert.Equal(0, takeBack.GetProperty("late_bytes").GetInt64());
        Assert.True(takeBack.GetProperty("placed_bytes").GetInt64() >= 3 << 20);
        Assert.True(takeBack.TryGetProperty("voluntary_switches", out _));
        Assert.True(takeBack.TryGetProperty("involuntary_switches", out _));
    }

    [Fact]
    public async Task A_buffer_is_handed_to_another_program_and_copied_there()
    {
        JsonElement report = await RunAsync(["local", "--size", "64KiB", "--iterations", "20", "--pin"]);
        Assert.Equal("wayleave.bench-local/1", report.GetProperty("schema").GetString());
        Dictionary<string, JsonElement> results =
            report.GetProperty("results").EnumerateArray().ToDictionary(r => r.GetProperty("name").GetString()!);
        string[] expected =
        [
            "export", "import_and_map", "first_byte", "hand_over", "touch", "unmap_and_close", "copy", "copy_mapped",
            "ring", "ring_copy", "rested_import_and_map", "rested_hand_over", "hand_over_alone", "import_with_pages",
        ];
        Assert.Subset(results.Keys.ToHashSet(), expected.ToHashSet());
        Assert.All(results.Values, r => Assert.Equal(20, r.GetProperty("latency").GetProperty("count").GetInt32()));
        Assert.True(results["copy_mapped"].GetProperty("ratio_to_copy").GetDouble() > 0);
    }

    [Fact]
    public async Task The_limit_is_what_arrives()
    {
        JsonElement report = await RunAsync(["udp-limit", "--rounds", "1", "--duration", "50ms"]);
        JsonElement round = Assert.Single(report.GetProperty("rounds").EnumerateArray());
        double arrived = round.GetProperty("bytes_per_s").GetDouble();
        Assert.InRange(arrived, 1, round.GetProperty("limit_sent_bytes_per_s").GetDouble());
    }

    [Fact]
    public async Task Columns_are_those_of_perftest()
    {
        (int code, string output, _) = await RunProcessAsync(["write-bw", "--rounds", "1", "--iterations", "20"]);
        Assert.Equal(0, code);
        Assert.Contains(
            " #bytes     #iterations    BW peak[MiB/sec]    BW average[MiB/sec]   MsgRate[Mpps]",
            output,
            StringComparison.Ordinal);
    }

    [Fact]
    public async Task Options_that_do_not_work_together_are_named_all_at_once()
    {
        (int code, string output, string error) = await RunProcessAsync(["write-bw", "--mtu", "77", "--depth", "0"]);
        Assert.Equal((2, ""), (code, output));
        Assert.Equal(
            "wayleave: the MTU must be 256, 512, 1024, 2048 or 4096, not 77; the depth must be 1 to 1024, not 0\n",
            error);
    }

    private static async Task<JsonElement> RunAsync(string[] arguments)
    {
        (int code, string output, string error) = await RunProcessAsync([.. arguments, "--json"]);
        Assert.True(code == 0, $"exit code {code}: {error}");
        using JsonDocument document = JsonDocument.Parse(output);
        return document.RootElement.Clone();
    }

    private static async Task<(int Code, string Output, string Error)> RunProcessAsync(string[] arguments)
    {
        // By our own runtime: an apphost would look for one in the usual places.
        string program = typeof(Wayleave.Cli.CommandLine).Assembly.Location;
        string? path = Environment.ProcessPath;
        string runtime = path is not null && Path.GetFileName(path) == "dotnet" ? path : "dotnet";
        ProcessStartInfo start = new(runtime, [program, "bench", .. arguments])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using Process process = Process.Start(start)!;
        Task<string> output = process.StandardOutput.ReadToEndAsync(Cancellation);
        Task<string> error = process.StandardError.ReadToEndAsync(Cancellation);
        await process.WaitForExitAsync(Cancellation);
        return (process.ExitCode, await output, await error);
    }
}
