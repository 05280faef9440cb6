using System.Globalization;
using System.Text;
using Wayleave.Lab.Machine;

namespace Wayleave.Lab.Packages;

/// <summary>
/// An apt of the lab's own: sources, lists and downloads below the cache, nothing of the system's written, no root
/// needed. The mirror is the one that the machine's own sources name, and apt checks what comes from it: the
/// signature of the release by Debian's keyring, the lists by the release, each package by the lists.
/// </summary>
internal sealed class AptRoot
{
    private const string Remedy =
        "the lab fetches from the mirror of this machine's own apt sources; is the network there?";

    private static readonly string[] s_keyrings =
        ["/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"];

    private readonly LabCache _cache;
    private readonly string _folder;
    private readonly Dictionary<string, string> _environment;

    /// <param name="cache">Where it lives.</param>
    /// <param name="name">Folder of this root: each set of suites has its own.</param>
    /// <param name="suites">
    /// What it may fetch from: lines of the mirror are made for each. Empty: those of the machine itself.
    /// </param>
    internal AptRoot(LabCache cache, string name, params IReadOnlyList<string> suites)
    {
        _cache = cache;
        _folder = cache.Of("apt", name);
        foreach (string sub in (ReadOnlySpan<string>)["lists/partial", "archives/partial", "empty"])
        {
            Directory.CreateDirectory(Path.Combine(_folder, sub));
        }

        string sources = Path.Combine(_folder, "sources.list");
        File.WriteAllText(sources, Sources(suites));
        string configuration = Path.Combine(_folder, "apt.conf");
        File.WriteAllText(configuration, Configuration(sources));
        _environment = new Dictionary<string, string> { ["APT_CONFIG"] = configuration, ["LC_ALL"] = "C" };
    }

    /// <summary>Where <see cref="Download"/> and <see cref="DownloadMissing"/> put their files.</summary>
    private string Archives => Path.Combine(_folder, "archives");

    /// <summary>Fetches the lists. Everything below reads them.</summary>
    internal void Update()
    {
        ToolResult result = Apt("apt-get", "update", "--error-on=any");
        if (result.ExitCode != 0)
        {
            throw new LabException(ExitCodes.NotSupported, $"apt-get update: {result.Complaint}", Remedy);
        }
    }

    /// <summary>Fields of the newest version of a package, or none when no suite has it.</summary>
    internal IReadOnlyDictionary<string, string> Show(string package)
    {
        Dictionary<string, string> fields = [];
        ToolResult result = Apt("apt-cache", "show", "--no-all-versions", package);
        foreach (string line in result.ExitCode == 0 ? result.Output.Split('\n') : [])
        {
            int colon = line.IndexOf(": ", StringComparison.Ordinal);
            if (colon > 0 && line[0] != ' ')
            {
                fields.TryAdd(line[..colon], line[(colon + 2)..].Trim());
            }
        }

        return fields;
    }

    /// <summary>Fetches exactly these packages, checked.</summary>
    /// <returns>Their files; the caller deletes them when they were unpacked.</returns>
    internal IReadOnlyList<string> Download(IReadOnlyList<string> packages)
    {
        Clear();
        ToolResult result = AptIn(Archives, "apt-get", ["download", .. packages]);
        return result.ExitCode == 0
            ? Directory.GetFiles(Archives, "*.deb")
            : throw new LabException(ExitCodes.NotSupported, $"apt-get download: {result.Complaint}", Remedy);
    }

    /// <summary>
    /// Fetches these packages and what they depend on, as far as this machine has not installed it; checked.
    /// </summary>
    /// <returns>Their files; the caller deletes them when they were unpacked.</returns>
    internal IReadOnlyList<string> DownloadMissing(IReadOnlyList<string> packages)
    {
        Clear();
        ToolResult result = Apt("apt-get", [
            "install", "--download-only", "--no-install-recommends", "--yes", .. packages]);
        return result.ExitCode == 0
            ? Directory.GetFiles(Archives, "*.deb")
            : throw new LabException(
                ExitCodes.NotSupported,
                $"apt-get install --download-only {string.Join(' ', packages)}: {result.Complaint}", Remedy);
    }

    /// <summary>Deletes what was downloaded, and apt's own index of the lists, which it makes again.</summary>
    internal void Clear()
    {
        foreach (string file in
            (IEnumerable<string>)[.. Directory.GetFiles(Archives, "*.deb"), .. Directory.GetFiles(_folder, "*.bin")])
        {
            File.Delete(file);
        }
    }

    private static string Sources(IReadOnlyList<string> suites)
    {
        // apt's own reading of all the forms that its sources have.
        ToolResult targets = Tool.Run(
            "apt-get", ["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]);
        string code = ReadCodeName();
        List<(string Uri, string Suite, string Component)> own = [.. targets.Output
            .Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Select(line => line.Split(' '))
            .Where(parts => parts.Length == 3 && parts[2] == "main")
            .Where(parts => parts[1].StartsWith(code, StringComparison.Ordinal))
            .Select(parts => (parts[0], parts[1], parts[2]))
            .Distinct()];
        string? mirror = own.Where(s => s.Suite == code).Select(s => s.Uri).FirstOrDefault();
        if (mirror is null)
        {
            throw new LabException(
                ExitCodes.NotSupported,
                $"this machine's apt sources name no Debian mirror for {code} main",
                "the lab takes Debian's kernel from the mirror that the machine itself uses");
        }

        string option = Keyring() is string keyring ? $"[signed-by={keyring}] " : "";
        StringBuilder text = new();
        foreach ((string uri, string suite, string component) in
            suites.Count == 0 ? own : [.. suites.Select(s => (mirror, s, "main"))])
        {
            text.Append(CultureInfo.InvariantCulture, $"deb {option}{uri} {suite} {component}\n");
        }

        return text.ToString();
    }

    /// <summary>The code name of the machine's release.</summary>
    /// <exception cref="LabException">It is not Debian.</exception>
    private static string ReadCodeName()
    {
        string[] release = File.Exists("/etc/os-release") ? File.ReadAllLines("/etc/os-release") : [];
        string Field(string name) => release
            .Where(l => l.StartsWith(name + "=", StringComparison.Ordinal))
            .Select(l => l[(name.Length + 1)..].Trim('"')).FirstOrDefault() ?? "";
        return Field("ID") == "debian" && Field("VERSION_CODENAME").Length > 0
            ? Field("VERSION_CODENAME")
            : throw new LabException(
                ExitCodes.NotSupported, $"this machine is {Field("PRETTY_NAME")}, not Debian",
                "the lab takes its kernel and its emulator from Debian by apt");
    }

    // The keyring of the package debian-archive-keyring; its name changed once. Without it apt's trusted keys count.
    private static string? Keyring() => s_keyrings.FirstOrDefault(File.Exists);

    private string Configuration(string sources)
    {
        // How this machine reaches its mirror (proxies, time-outs) stays; hooks and everything else of its set-up is
        // left out.
        ToolResult dump = Tool.Run("apt-config", ["dump"]);
        IEnumerable<string> transport = dump.Output.Split('\n').Where(l =>
            l.StartsWith("Acquire::", StringComparison.Ordinal)
            && !l.StartsWith("Acquire::IndexTargets", StringComparison.Ordinal)
            && !l.StartsWith("Acquire::AllowInsecure", StringComparison.Ordinal)
            && !l.StartsWith("Acquire::AllowWeak", StringComparison.Ordinal)
            && !l.StartsWith("Acquire::AllowDowngrade", StringComparison.Ordinal)
            && !l.EndsWith("\"\";", StringComparison.Ordinal));
        return $$"""
            Dir::Etc::main "/dev/null";
            Dir::Etc::parts "{{_folder}}/empty";
            Dir::Etc::sourcelist "{{sources}}";
            Dir::Etc::sourceparts "{{_folder}}/empty";
            Dir::Etc::preferences "/dev/null";
            Dir::Etc::preferencesparts "{{_folder}}/empty";
            Dir::State::lists "{{_folder}}/lists";
            Dir::Cache "{{_folder}}";
            Dir::Cache::archives "{{_folder}}/archives";
            Dir::Log "{{_folder}}";
            APT::Get::List-Cleanup "true";
            APT::Sandbox::User "";
            Debug::NoLocking "true";
            {{string.Join('\n', transport)}}
            Acquire::Languages "none";
            Acquire::Retries "2";
            Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";

            """;
    }

    private ToolResult Apt(string program, params string[] arguments) => AptIn(_cache.Folder, program, arguments);

    private ToolResult AptIn(string folder, string program, string[] arguments) =>
        Tool.Run(program, ["-q", .. arguments], _environment, folder);
}
