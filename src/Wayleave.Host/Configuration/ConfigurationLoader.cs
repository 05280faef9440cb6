using System.Text.Json;
using System.Text.Json.Nodes;

namespace Wayleave.Host.Configuration;

// A value comes from the first of these that has it:
//
//   command line   --port 7472
//   environment    WAYLEAVE_PORT=7472
//   file           --config FILE, else WAYLEAVE_CONFIG, else /etc/wayleave/wayleave.json if there is one
//   default        HostConfig
//
// The file is parsed into a tree; the other two write texts into the same tree; one reader turns the tree into a
// HostConfig and collects what is wrong, and the path of a value leads back to where it came from.

/// <summary>Makes a <see cref="HostConfig"/> from its sources and remembers where each value came from.</summary>
public static class ConfigurationLoader
{
    /// <summary>Read when nobody names another file.</summary>
    public const string DefaultFile = "/etc/wayleave/wayleave.json";

    private const long FileBytesMax = 1 << 20;
    private const UnixFileMode OthersMayRead = UnixFileMode.GroupRead | UnixFileMode.OtherRead;

    /// <summary>Every value that has a variable or an option besides its place in the file.</summary>
    public static IReadOnlyList<ConfigSetting> Settings { get; } =
    [
        new("name", "WAYLEAVE_NAME", "--name"),
        new("gpus[0].vram_bytes", "WAYLEAVE_VRAM", "--vram"),
        new("gpus[0].system_pool_bytes", "WAYLEAVE_SYSTEM_POOL", null),
        new("nics[0].address", "WAYLEAVE_ADDRESS", "--address"),
        new("nics[0].udp_port", "WAYLEAVE_UDP_PORT", "--udp-port"),
        new("nics[0].path_mtu_bytes", "WAYLEAVE_MTU", "--mtu"),
        new("control.address", "WAYLEAVE_CONTROL_ADDRESS", null),
        new("control.port", "WAYLEAVE_PORT", "--port"),
        new("control.socket", "WAYLEAVE_SOCKET", "--socket"),
        new("control.token_file", "WAYLEAVE_TOKEN_FILE", "--token-file"),
        new("control.token", "WAYLEAVE_TOKEN", null), // no option: everybody can read the arguments of a process
    ];

    /// <summary>Loads and validates.</summary>
    /// <param name="file">The file the user named, or null.</param>
    /// <param name="options">Texts by option name (<c>--port</c>), as typed.</param>
    /// <param name="environment">
    /// Looks a variable up; <see cref="Environment.GetEnvironmentVariable(string)"/> outside tests.
    /// </param>
    /// <exception cref="ConfigurationException">Something is wrong; the exception names all of it.</exception>
    /// <exception cref="WayleaveException">The file cannot be read.</exception>
    public static LoadedConfiguration Load(
        string? file, IReadOnlyDictionary<string, string> options, Func<string, string?> environment)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(environment);
        List<ConfigProblem> problems = [];
        Dictionary<string, string> origins = new(StringComparer.Ordinal);
        file ??= NullIfEmpty(environment("WAYLEAVE_CONFIG")) ?? (File.Exists(DefaultFile) ? DefaultFile : null);
        JsonObject tree = file is null ? [] : ReadFile(file, problems);
        foreach (ConfigSetting setting in Settings)
        {
            if (setting.Option is not null && options.TryGetValue(setting.Option, out string? typed))
            {
                Override(tree, setting, typed, setting.Option, origins, problems);
            }
            else if (NullIfEmpty(environment(setting.Variable)) is string value)
            {
                Override(tree, setting, value, setting.Variable, origins, problems);
            }
        }

        // A token and a token file cannot both be given in one place, but the nearer place may replace the farther
        // one's choice.
        DropFartherToken(tree, origins);
        ConfigurationReader reader = new(tree, file, origins, problems);
        HostConfig config = reader.Read();
        if (file is not null && config.Control.Token is not null && !origins.ContainsKey("control.token")
            && (File.GetUnixFileMode(file) & OthersMayRead) != 0)
        {
            problems.Add(new ConfigProblem("control.token", $"others can read the token in {file}; chmod 600 {file}"));
        }

        foreach (ConfigProblem problem in config.Validate())
        {
            problems.Add(problem with { Where = origins.GetValueOrDefault(problem.Where, problem.Where) });
        }

        return problems.Count == 0
            ? new LoadedConfiguration(config, file, reader.Describe(config))
            : throw new ConfigurationException(problems);
    }

    private static JsonObject ReadFile(string file, List<ConfigProblem> problems)
    {
        string operation = $"read the configuration {file}";
        string text;
        if (Directory.Exists(file))
        {
            throw new WayleaveException(Core.Errno.EINVAL, operation, "it is a folder", "name a file by --config");
        }

        try
        {
            // A named pipe has no length, so the bound is on what is read.
            using FileStream stream = File.OpenRead(file);
            byte[] bytes = new byte[FileBytesMax + 1];
            int length = stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
            if (length > FileBytesMax)
            {
                throw new WayleaveException(
                    Core.Errno.E2BIG, operation, "more than 1 MiB; this is not a configuration");
            }

            text = System.Text.Encoding.UTF8.GetString(bytes, 0, length);
        }
        catch (Exception e) when (e is (IOException or UnauthorizedAccessException) and not WayleaveException)
        {
            throw ErrnoMap.ToException(e, operation, "name another file by --config");
        }

        try
        {
            JsonNode? node = JsonNode.Parse(text, documentOptions: new JsonDocumentOptions
            {
                CommentHandling = JsonCommentHandling.Skip,
                AllowTrailingCommas = true,
                AllowDuplicateProperties = false,
            });
            if (node is JsonObject tree)
            {
                return tree;
            }

            problems.Add(new ConfigProblem(file, "is not a JSON object"));
        }
        catch (JsonException e)
        {
            string message = e.Message.Split(" LineNumber", 2)[0].TrimEnd('.');
            problems.Add(new ConfigProblem($"{file}, line {(e.LineNumber ?? 0) + 1}", message));
        }

        return [];
    }

    private static void Override(
        JsonObject tree,
        ConfigSetting setting,
        string text,
        string origin,
        Dictionary<string, string> origins,
        List<ConfigProblem> problems)
    {
        string[] parts = setting.Path.Split('.');
        JsonObject? parent = parts.Length == 1 ? tree : GetParent(tree, parts[0]);
        if (parent is null)
        {
            problems.Add(new ConfigProblem(origin, $"there is no {parts[0]} in the file that this could be for"));
            return;
        }

        parent[parts[^1]] = JsonValue.Create(text);
        origins[setting.Path] = origin;
    }

    /// <summary>
    /// The object that a section names, made if the file leaves it to the default; null if the file says otherwise.
    /// </summary>
    private static JsonObject? GetParent(JsonObject tree, string section)
    {
        bool isList = section.EndsWith("[0]", StringComparison.Ordinal);
        string key = isList ? section[..^3] : section;
        if (!tree.ContainsKey(key))
        {
            tree[key] = isList ? new JsonArray(new JsonObject()) : new JsonObject();
        }

        return !isList ? tree[key] as JsonObject
            : tree[key] is JsonArray { Count: > 0 } list ? list[0] as JsonObject
            : null;
    }

    private static void DropFartherToken(JsonObject tree, Dictionary<string, string> origins)
    {
        if (tree["control"] is not JsonObject control
            || !control.ContainsKey("token")
            || !control.ContainsKey("token_file"))
        {
            return;
        }

        (int token, int file) = (Rank(origins, "control.token"), Rank(origins, "control.token_file"));
        if (token != file)
        {
            control.Remove(token < file ? "token" : "token_file");
        }
    }

    private static int Rank(Dictionary<string, string> origins, string path) =>
        !origins.TryGetValue(path, out string? origin) ? 0 : origin.StartsWith('-') ? 2 : 1;

    private static string? NullIfEmpty(string? text) => string.IsNullOrEmpty(text) ? null : text;
}

/// <summary>A value of the configuration and its other names.</summary>
/// <param name="Path">In the file: <c>nics[0].address</c>.</param>
/// <param name="Variable">In the environment.</param>
/// <param name="Option">On the command line of <c>wayleave host</c>, or null.</param>
public sealed record ConfigSetting(string Path, string Variable, string? Option);

/// <summary>One value in effect.</summary>
/// <param name="Path">In the file: <c>nics[0].address</c>.</param>
/// <param name="Value">As text; a token is hidden.</param>
/// <param name="Origin">The option, the variable, the file, or <c>default</c>.</param>
public sealed record ConfigValue(string Path, string Value, string Origin);

/// <summary>A valid configuration.</summary>
/// <param name="Config">The values.</param>
/// <param name="File">The file that was read, or null.</param>
/// <param name="Values">All of them, with their origins, in the order of the file.</param>
public sealed record LoadedConfiguration(HostConfig Config, string? File, IReadOnlyList<ConfigValue> Values);
