using System.Text.Json;
using System.Text.Json.Serialization;
using Wayleave.Lab.Machine;

namespace Wayleave.Lab.Tests;

/// <summary>
/// A test of the lab: a folder of <c>lab/tests</c> with <c>test.json</c>, which is this record, and <c>guest.sh</c>,
/// which runs in the guest and says by its exit code how it went: 0 passed, 77 skipped, anything else failed.
/// </summary>
internal sealed record LabTest
{
    private static readonly JsonSerializerOptions s_form = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        ReadCommentHandling = JsonCommentHandling.Skip,
        AllowTrailingCommas = true,
    };

    /// <summary>What it shows, in one line.</summary>
    public required string Summary { get; init; }

    /// <summary>For each boot, in seconds.</summary>
    public int TimeLimitS { get; init; } = 120;

    /// <summary>Debian packages that the guest needs; fetched when the machine lacks them.</summary>
    public IReadOnlyList<string> Packages { get; init; } = [];

    /// <summary>
    /// Whether guest and host share a network; <c>host.sh</c> of the folder then runs on the host meanwhile.
    /// </summary>
    public bool Network { get; init; }

    /// <summary>
    /// Path of the data that the guest's records are compared with, from the root of the repository; null: it writes
    /// none.
    /// </summary>
    public string? Record { get; init; }

    /// <summary>The <c>schema</c> of that data.</summary>
    public string? Schema { get; init; }

    /// <summary>Disk images of every boot: name to MiB.</summary>
    public IReadOnlyDictionary<string, int> Images { get; init; } = new Dictionary<string, int>();

    /// <summary>Devices of every boot, after the boot's own.</summary>
    public IReadOnlyList<string> Devices { get; init; } = [];

    /// <summary>The machines to run it on, one after the other; none: the default one.</summary>
    public IReadOnlyList<LabBoot> Boots { get; init; } = [];

    [JsonIgnore]
    internal string Name { get; private init; } = "";

    [JsonIgnore]
    internal string Folder { get; private init; } = "";

    /// <summary>The script for the guest.</summary>
    internal string GuestScript => Path.Combine(Folder, "guest.sh");

    /// <summary>The script for the host, or null.</summary>
    internal string? HostScript
    {
        get
        {
            string path = Path.Combine(Folder, "host.sh");
            return File.Exists(path) ? path : null;
        }
    }

    /// <summary>Every test of the folder, by name.</summary>
    /// <exception cref="LabException">One of them is not what it should be.</exception>
    internal static IReadOnlyList<LabTest> Load(string folder) =>
        [.. Directory.GetDirectories(folder).Order(StringComparer.Ordinal).Select(Read)];

    /// <summary>The options of a machine for one of its boots.</summary>
    internal GuestOptions Options(LabBoot boot, IReadOnlyDictionary<string, string> environment) => new()
    {
        Cpu = boot.Cpu,
        Machine = boot.Machine,
        KernelArguments = boot.KernelArguments,
        Devices = [.. boot.Devices, .. Devices],
        Images = Images,
        HasNetwork = Network,
        TimeLimit = TimeSpan.FromSeconds(TimeLimitS),
        Environment = new Dictionary<string, string>(environment) { ["LAB_BOOT"] = boot.Name },
    };

    private static LabTest Read(string folder)
    {
        string file = Path.Combine(folder, "test.json");
        string name = Path.GetFileName(folder);
        try
        {
            LabTest test = JsonSerializer.Deserialize<LabTest>(File.ReadAllBytes(file), s_form)!;
            IReadOnlyList<LabBoot> boots = test.Boots.Count > 0 ? test.Boots : [new LabBoot()];
            return File.Exists(Path.Combine(folder, "guest.sh"))
                ? test with { Name = name, Folder = folder, Boots = boots }
                : throw new LabException(ExitCodes.Usage, $"test {name}: no guest.sh");
        }
        catch (Exception e) when (e is JsonException or IOException)
        {
            throw new LabException(ExitCodes.Usage, $"test {name}: test.json: {e.Message}");
        }
    }
}
