using System.Text.Json;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary><c>wayleave cp</c> and what looks at its results, as separate processes.</summary>
public class CopyTests : EndToEndTest
{
    [Fact]
    public async Task Files_come_back_as_they_went_from_one_byte_to_more_than_three_messages()
    {
        HostProcess host = await StartHostAsync();
        foreach (long lengthBytes in (long[])[1, 4095, 4096, 4097, (3 << 20) + 1])
        {
            string source = MakeFile("source", lengthBytes), name = $"object-{lengthBytes}";
            Assert.Equal("", await RunWellAsync("cp", source, host.UrlOf(name)));
            ObjectDocument there = (await host.ListAsync()).Single(o => o.Name == name);
            Assert.Equal(
                ((ulong)lengthBytes, ObjectState.Ready, Sha256(source)), (there.SizeBytes, there.State, there.Sha256));

            Assert.Equal("", await RunWellAsync("cp", host.UrlOf(name), InFolder("back")));
            Assert.True(File.ReadAllBytes(source).AsSpan().SequenceEqual(File.ReadAllBytes(InFolder("back"))));
        }
    }

    [Fact]
    public async Task A_copy_replaces_an_object_and_a_file_of_the_same_name()
    {
        HostProcess host = await StartHostAsync();
        string large = MakeFile("large", 3 << 20), small = MakeFile("small", 4097);
        await RunWellAsync("cp", large, host.UrlOf("object"));
        await RunWellAsync("cp", small, host.UrlOf("object"));
        ObjectDocument there = Assert.Single(await host.ListAsync());
        Assert.Equal((4097UL, Sha256(small)), (there.SizeBytes, there.Sha256));

        // Into a folder the file takes the object's name, and what was there before is replaced.
        string target = MakeFile("object", 5 << 20);
        await RunWellAsync("cp", host.UrlOf("object"), Root);
        Assert.Equal(Sha256(small), Sha256(target));
        Assert.Equal(
            ["large", "object", "small", "tmp", "wayleave"],
            Directory.GetFileSystemEntries(Root).Select(Path.GetFileName).Order());
    }

    [Fact]
    public async Task A_copy_tells_what_it_did_as_JSON()
    {
        HostProcess host = await StartHostAsync();
        string source = MakeFile("source", 4097);
        using JsonDocument copy = JsonDocument.Parse(await RunWellAsync("cp", "--json", source, host.UrlOf("object")));
        JsonElement root = copy.RootElement;
        Assert.Equal("wayleave.cp.v1", root.GetProperty("schema").GetString());
        Assert.Equal(4097, root.GetProperty("bytes").GetInt64());
        Assert.Equal(Sha256(source), root.GetProperty("sha256").GetString());
        Assert.True(root.GetProperty("elapsed_us").GetInt64() > 0);
        Assert.True(root.GetProperty("bytes_per_s").GetDouble() > 0);
        Assert.False(root.TryGetProperty("explanation", out _));
    }

    [Fact]
    public async Task A_copy_explains_by_which_way_its_bytes_went_and_what_crossed_each_link()
    {
        HostProcess host = await StartHostAsync();
        string source = MakeFile("source", 1 << 20);

        string text = await RunWellAsync("cp", "--explain", source, host.UrlOf("object"));
        Assert.StartsWith(
            """
            at this process: rdma0 (0000:04:00.0) to memory of gpu0 (0000:03:00.0)
                    route:       bus address: the request stays below a common bridge
                    distance:    4

            """.ReplaceLineEndings("\n"),
            text,
            StringComparison.Ordinal);
        Assert.Contains("\nstaging_bytes: 0\n", text, StringComparison.Ordinal);

        using JsonDocument copy =
            JsonDocument.Parse(await RunWellAsync("cp", "--explain", "--json", source, host.UrlOf("object")));
        JsonElement ends = copy.RootElement.GetProperty("explanation").GetProperty("ends");
        Assert.Equal(2, ends.GetArrayLength());
        Assert.Equal("bus_address", ends[1].GetProperty("route").GetProperty("map_type").GetString());
        JsonElement path = ends[0].GetProperty("links").GetProperty("paths").EnumerateArray()
            .Single(p => p.GetProperty("client").GetString() == "rdma0");
        Assert.Equal(
            ("gpu0", "bus_address"), (path.GetProperty("owner").GetString(), path.GetProperty("route").GetString()));
        Assert.True(path.GetProperty("read_bytes").GetInt64() >= 1 << 20); // more when packets were sent again
        Assert.Equal(0, ends[0].GetProperty("staging_bytes").GetInt64());
    }

    [Fact]
    public async Task Listings_show_an_object_until_it_is_taken_back()
    {
        HostProcess host = await StartHostAsync();
        await RunWellAsync("cp", MakeFile("source", 1 << 20), host.UrlOf("object"));
        const string Table =
            @"^NAME +SIZE +STATE +PLACE +MOVES +CREATED +SHA256\n"
            + @"gpu0/object +1\.00 MiB +ready +vram +0 +\S+Z +[0-9a-f]{16}\n$";
        Assert.Matches(Table, await RunWellAsync("ls"));
        using (JsonDocument list = JsonDocument.Parse(await RunWellAsync("ls", "--json", host.Url)))
        {
            JsonElement o = Assert.Single(list.RootElement.GetProperty("objects").EnumerateArray());
            Assert.Equal("object", o.GetProperty("name").GetString());
            Assert.Equal("ready", o.GetProperty("state").GetString());
            Assert.Equal(1 << 20, o.GetProperty("size_bytes").GetInt64());
        }

        string devices = await RunWellAsync("devices", host.Url);
        Assert.Contains("vram_used:", devices, StringComparison.Ordinal);
        using (JsonDocument json = JsonDocument.Parse(await RunWellAsync("devices", "--json")))
        {
            JsonElement gpu = json.RootElement.GetProperty("gpus")[0];
            Assert.Equal(64L << 20, gpu.GetProperty("vram_total_bytes").GetInt64());
            Assert.Equal(1L << 20, gpu.GetProperty("vram_used_bytes").GetInt64());
            Assert.Equal("rdma0", json.RootElement.GetProperty("nics")[0].GetProperty("name").GetString());
        }

        string story = await RunWellAsync("revoke", "--explain", host.UrlOf("object"));
        Assert.Contains("Retired", story, StringComparison.Ordinal);
        Assert.Empty(await host.ListAsync());
        Assert.Equal(0UL, (await host.ReadGpuAsync()).VramUsedBytes);
        await ExpectFailureAsync(
            1,
            $"{host.Authority}: find gpu0/object: there is no such object; wayleave ls shows what there is",
            "revoke", host.UrlOf("object"));
    }

    [Fact]
    public async Task The_proof_of_a_revoke_is_checked_by_whoever_got_it()
    {
        HostProcess host = await StartHostAsync();
        await RunWellAsync("cp", MakeFile("source", 4097), host.UrlOf("object"));
        string proof = InFolder("proof.json");
        File.WriteAllText(proof, await RunWellAsync("revoke", "--json", host.UrlOf("object")));
        Assert.Equal(
            "object of gpu0 object: Retired, 0 importers: holds\n", await RunWellAsync("proof", "check", proof));
        await RunWellAsync("proof", "check", "--grade", "retired", proof);

        File.WriteAllText(proof, File.ReadAllText(proof).Replace(
            "\"grade\":\"Retired\"", "\"grade\":\"Drained\"", StringComparison.Ordinal));
        CliResult result = await RunAsync("proof", "check", "--json", "--grade", "Retired", proof);
        Assert.Equal((1, ""), (result.ExitCode, result.Error));
        using JsonDocument report = JsonDocument.Parse(result.Out);
        Assert.False(report.RootElement.GetProperty("holds").GetBoolean());
        JsonElement problems = report.RootElement.GetProperty("proofs")[0].GetProperty("problems");
        Assert.Equal("its grade is Drained; Retired is asked for", problems[problems.GetArrayLength() - 1].GetString());
        JsonDocument.Parse(await RunWellAsync("proof", "schema")).Dispose();
    }

    [Fact]
    public async Task Two_hosts_of_one_machine_use_the_same_port_at_distinct_addresses()
    {
        string first = NextAddress().ToString(), second = NextAddress().ToString();
        CliProcess a = Start("host", "--name", "a", "--address", first, "--vram", "64MiB");
        CliProcess b = Start("host", "--name", "b", "--address", second, "--vram", "64MiB");
        string rest = $"control port 7471, token in {InFolder("wayleave")}";
        Assert.Equal($"host a ready: wl://{first}, {rest}/a.token", await a.ReadFirstLineAsync());
        Assert.Equal($"host b ready: wl://{second}, {rest}/b.token", await b.ReadFirstLineAsync());
        string source = MakeFile("source", 4097);
        await RunWellAsync("cp", source, $"wl://{first}/gpu0/object");
        await RunWellAsync("cp", $"wl://{first}/gpu0/object", InFolder("between"));
        await RunWellAsync("cp", InFolder("between"), $"wl://{second}/gpu0/object");
        await RunWellAsync("cp", $"wl://{second}/gpu0/object", InFolder("back"));
        Assert.Equal(Sha256(source), Sha256(InFolder("back")));
    }
}
