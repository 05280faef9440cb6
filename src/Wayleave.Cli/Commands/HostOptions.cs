using System.CommandLine;
using Wayleave.Host.Configuration;

namespace Wayleave.Cli.Commands;

/// <summary>
/// The options of <c>host</c> and <c>config</c>: texts, so that the loader reports every problem of every source at
/// once.
/// </summary>
internal static class HostOptions
{
    private const string Config = "--config";

    private static readonly (string Name, string HelpName, string Description)[] s_options =
    [
        ("--name", "NAME", "The host's name; unique among your hosts on this machine"),
        ("--address", "A", "The address of its first NIC and of its control server: 127.0.0.2, 127.0.0.3, ..."),
        ("--port", "P", "The control port; 0 lets the system choose"),
        ("--udp-port", "P", "The RoCEv2 port of its first NIC; 0 lets the system choose"),
        ("--vram", "SIZE", "Device memory of its first GPU: 64MiB, 1G"),
        ("--mtu", "BYTES", "The path MTU of its first NIC: 256 to 4096"),
        ("--socket", "PATH", "The Unix socket, or none"),
        ("--token-file", "FILE", "Where to write the token"),
    ];

    public static void AddTo(Command command)
    {
        command.Add(new Option<string?>(Config) { Description = "The configuration, a JSON file", HelpName = "F" });
        foreach ((string name, string helpName, string description) in s_options)
        {
            command.Add(new Option<string?>(name) { Description = description, HelpName = helpName });
        }
    }

    /// <exception cref="ConfigurationException">Something is wrong; the exception names all of it.</exception>
    public static LoadedConfiguration Load(ParseResult parsed)
    {
        Dictionary<string, string> typed = new(StringComparer.Ordinal);
        foreach ((string name, _, _) in s_options)
        {
            if (parsed.GetValue<string?>(name) is { } text)
            {
                typed.Add(name, text);
            }
        }

        return ConfigurationLoader.Load(parsed.GetValue<string?>(Config), typed, Environment.GetEnvironmentVariable);
    }
}
