using System.Text;
using System.Text.Json;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>
/// Every parser of text from outside, fed with damaged text by seed: it refuses in its own words or reads it, in
/// bounded time.
/// </summary>
public sealed class HostileTextTests : IDisposable
{
    private const int RoundsPerSeed = 4000;

    private readonly string _file = Path.GetTempFileName();

    public static TheoryData<ulong> Seeds => [1, 2, 3];

    public void Dispose() => File.Delete(_file);

    [Theory(Timeout = Patience.TestMs)]
    [MemberData(nameof(Seeds))]
    public async Task A_damaged_url_size_or_time_is_read_or_refused(ulong seed)
    {
        SplitMix64 random = new(seed);
        await Task.Run(() =>
        {
            for (int i = 0; i < RoundsPerSeed; i++)
            {
                string text = Damage(random, "wl://[2001:db8::1]:7471/gpu0/model-1.bin");
                Assert.Equal(WlUrl.TryParse(text, out WlUrl? url, out string problem), problem.Length == 0);
                Assert.True(url is null || WlUrl.Parse(url.ToString()) == url, text);
                string size = Damage(random, "1.5GiB");
                Assert.True(!ByteSize.TryParse(size, out long bytes) || bytes >= 0, size);
                string time = Damage(random, "1.5ms");
                Assert.True(!Durations.TryParse(time, out TimeSpan duration) || duration >= TimeSpan.Zero, time);
            }
        }, TestContext.Current.CancellationToken);
    }

    [Theory(Timeout = Patience.TestMs)]
    [MemberData(nameof(Seeds))]
    public async Task A_damaged_configuration_is_read_or_refused_with_its_problems(ulong seed)
    {
        const string Whole = """
            { "name": "b", "gpus": [ { "name": "g", "vram_bytes": "64MiB", "system_pool_bytes": 0 } ],
              "nics": [ { "address": "::1", "udp_port": 0, "path_mtu_bytes": 1024 } ],
              "control": { "address": "127.0.0.9", "port": 0, "socket": "none", "token_file": "/run/t" } }
            """;
        SplitMix64 random = new(seed);
        for (int i = 0; i < RoundsPerSeed / 10; i++)
        {
            await File.WriteAllTextAsync(_file, Damage(random, Whole), TestContext.Current.CancellationToken);
            try
            {
                Assert.Empty(
                    ConfigurationLoader.Load(_file, new Dictionary<string, string>(), _ => null).Config.Validate());
            }
            catch (ConfigurationException e)
            {
                Assert.NotEmpty(e.Problems);
            }
        }
    }

    [Theory(Timeout = Patience.TestMs)]
    [MemberData(nameof(Seeds))]
    public async Task A_damaged_document_is_read_or_refused(ulong seed)
    {
        const string Lease = """
            {"access":"write","region":"dynamic",
            "peer":{"gid":"127.0.0.3","udp_port":1,"qp_number":1,"psn":1,"path_mtu_bytes":256}}
            """;
        const string Proof = """
            {"schema":"wayleave.proof.v1","version":1,
            "buffer_id":7,"buffer":"b","exporter":"g","size_bytes":1,"reason":"r",
            "grade":"Retired","required_grade":"Retired","sufficient":true,
            "started_at_us":1,"completed_at_us":2,"duration_us":1,
            "importers":[{"importer":"i","device":"d","kind":"dynamic","grade":"Retired","was_mapped":true,
            "inside_at_close":0}],
            "fences":[{"fence":"f","signaled_at_us":1,"forced":false,"ended":true}]}
            """;
        SplitMix64 random = new(seed);
        await Task.Run(() =>
        {
            for (int i = 0; i < RoundsPerSeed; i++)
            {
                try
                {
                    JsonSerializer.Deserialize(Damage(random, Lease), ControlJson.Default.LeaseRequestDocument)?.Peer
                        .ToEnd();
                    ProofDocument proof = ProofDocument.Parse(Encoding.UTF8.GetBytes(Damage(random, Proof)), "test");
                    ProofStory.Write(ProofDocument.From(proof.ToProof()), TextWriter.Null);
                }
                catch (Exception e) when (e is JsonException or WayleaveException)
                {
                    Assert.NotEmpty(e.Message);
                }
            }
        }, TestContext.Current.CancellationToken);
    }

    /// <summary>Cuts, repeats, replaces or inserts a few characters.</summary>
    private static string Damage(SplitMix64 random, string text)
    {
        const string Interesting = "/:[]{}\",.-+0123456789aKMGes\\\0\n\u00e4\u202e ";
        StringBuilder damaged = new(text);
        for (int count = random.Next(4); count > 0 && damaged.Length > 0; count--)
        {
            int at = random.Next(damaged.Length);
            int length = Math.Min(random.Next(8), damaged.Length - at);
            switch (random.Next(4))
            {
                case 0:
                    damaged.Remove(at, length);
                    break;
                case 1:
                    damaged.Insert(at, damaged.ToString(at, length));
                    break;
                case 2:
                    damaged[at] = Interesting[random.Next(Interesting.Length)];
                    break;
                default:
                    damaged.Insert(at, new string(Interesting[random.Next(Interesting.Length)], length));
                    break;
            }
        }

        return damaged.ToString();
    }
}
