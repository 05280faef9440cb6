using System.CommandLine;
using System.CommandLine.Parsing;
using Wayleave.Cli.Output;
using Wayleave.Devices.Rdma;
using Wayleave.Host;
using Wayleave.Host.Control;
using Wayleave.Host.Tracing;

namespace Wayleave.Cli;

/// <summary>A program and its own arguments, which may look like options of ours.</summary>
internal sealed class ProgramArgument(string name) : Argument<string[]>(name);

/// <summary>Arguments and options that several commands have, read the same way everywhere.</summary>
internal static class Parsing
{
    private const string TokenFile = "--token-file";
    private const string Socket = "--socket";

    /// <summary>URL: a host, a device or an object, or nothing for the only host that runs here.</summary>
    public static Argument<WlUrl?> OptionalUrl(string description) => new("URL")
    {
        Description = description,
        Arity = ArgumentArity.ZeroOrOne,
        CustomParser = result => ReadUrl(result, WlUrl.TryParse),
    };

    /// <summary>URL: an object.</summary>
    public static Argument<WlUrl?> ObjectUrl(string description) => new("URL")
    {
        Description = description,
        CustomParser = result => ReadUrl(result, WlUrl.TryParseObject),
    };

    /// <summary>A size such as 64MiB, in bytes.</summary>
    public static Option<long?> SizeOption(string name, string description) => new(name)
    {
        Description = description,
        HelpName = "SIZE",
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            if (ByteSize.TryParse(text, out long bytes))
            {
                return bytes;
            }

            result.AddError($"{name}: '{text}' is not {ByteSize.Forms}");
            return null;
        },
    };

    /// <summary>Sizes, one per use of an option.</summary>
    public static long[] Sizes(ArgumentResult result, string name)
    {
        List<long> sizes = [];
        foreach (Token token in result.Tokens)
        {
            if (ByteSize.TryParse(token.Value, out long bytes))
            {
                sizes.Add(bytes);
            }
            else
            {
                result.AddError($"{name}: '{token.Value}' is not {ByteSize.Forms}");
            }
        }

        return [.. sizes];
    }

    /// <summary>A time such as 5s.</summary>
    public static Option<TimeSpan?> DurationOption(string name, string description) => new(name)
    {
        Description = description,
        HelpName = "TIME",
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            if (Durations.TryParse(text, out TimeSpan duration))
            {
                return duration;
            }

            result.AddError($"{name}: '{text}' is not {Durations.Forms}");
            return null;
        },
    };

    /// <summary>A capture of the own ports, for <see cref="Capture"/>.</summary>
    public static Option<string?> PcapOption() =>
        new("--pcap") { Description = "Write the packets of the own ports to a capture", HelpName = "FILE" };

    /// <summary>The file of <see cref="PcapOption"/>, which outlives the host; null for none.</summary>
    /// <exception cref="WayleaveException">It cannot be written.</exception>
    public static PcapFile? Capture(string? path) => path is null ? null : new PcapFile(path, TimeProvider.System);

    /// <summary>Faults that the NICs inflict on themselves (docs/faults.md).</summary>
    public static Option<FaultOptions?> FaultsOption() => new("--faults")
    {
        Description = "Disturb the own NICs: hostile, or loss=1%,reorder=5%,seed=7,... (docs/faults.md)",
        HelpName = "SPEC",
        CustomParser = result =>
        {
            if (FaultOptions.TryParse(result.Tokens[0].Value, out FaultOptions faults, out string problem))
            {
                return faults;
            }

            result.AddError($"--faults: {problem}");
            return null;
        },
    };

    /// <summary>
    /// Adds the options by which a command finds its way into a host; <see cref="OpenClient"/> reads them.
    /// </summary>
    public static void AddClientOptions(this Command command)
    {
        command.Add(
            new Option<string?>(TokenFile) { Description = "The file with the host's token", HelpName = "FILE" });
        command.Add(
            new Option<string?>(Socket) { Description = "Talk to the host over its Unix socket", HelpName = "PATH" });
    }

    /// <summary>
    /// A client for the host that a URL names, or for the only one here; the command has
    /// <see cref="AddClientOptions"/>.
    /// </summary>
    public static ControlClient OpenClient(this ParseResult parsed, WlUrl? url) =>
        ControlClient.Open(url, parsed.ReadClientOptions());

    /// <summary>How to reach hosts, as the options say.</summary>
    public static ControlClientOptions ReadClientOptions(this ParseResult parsed) => new()
    {
        TokenFile = parsed.GetValue<string?>(TokenFile),
        SocketPath = parsed.GetValue<string?>(Socket),
    };

    private delegate bool UrlReader(string text, out WlUrl? url, out string problem);

    private static WlUrl? ReadUrl(ArgumentResult result, UrlReader read)
    {
        if (result.Tokens.Count == 0)
        {
            return null;
        }

        string text = result.Tokens[0].Value;
        if (!read(text, out WlUrl? url, out string problem))
        {
            result.AddError($"{text}: {problem}");
        }

        return url;
    }
}
