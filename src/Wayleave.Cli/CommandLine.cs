using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using System.CommandLine.Parsing;
using System.Text.RegularExpressions;
using Wayleave.Cli.Commands;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Configuration;

namespace Wayleave.Cli;

// Data goes to stdout and talk to stderr; a failure is one line on stderr that starts with "wayleave: ". To add a
// command: a file in Commands/ with `public static Command Create()`, and its line in the list below.

/// <summary>The program, without the process around it: tests run it with writers of their own.</summary>
internal static partial class CommandLine
{
    private const string Name = "wayleave";

    /// <summary>Parses, runs, and says how it went.</summary>
    /// <param name="arguments">Without the name of the program.</param>
    /// <param name="output">For data.</param>
    /// <param name="error">For talk and failures.</param>
    /// <param name="cancellation">Ends the command as a signal would.</param>
    /// <returns>A number of <see cref="ExitCode"/>.</returns>
    public static async Task<int> RunAsync(
        string[] arguments, TextWriter output, TextWriter error, CancellationToken cancellation = default)
    {
        using Interruption interruption = new(cancellation);
        try
        {
            ParseResult parsed = CreateRoot().Parse(
                arguments, new ParserConfiguration { ResponseFileTokenReplacer = null });
            if (parsed.Action is not HelpAction && FindUnknownOption(parsed) is { } option)
            {
                return ReportUsage(parsed, $"{CommandOf(parsed)} knows no '{option}'", error);
            }

            if (parsed.Action is ParseErrorAction)
            {
                return ReportUsage(parsed, DescribeProblem(parsed), error);
            }

            InvocationConfiguration invocation = new()
            {
                Output = output,
                Error = error,
                EnableDefaultExceptionHandler = false,
                ProcessTerminationTimeout = null, // signals are ours: Interruption
            };
            return await parsed.InvokeAsync(invocation, interruption.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (
            e is OperationCanceledException or IOException && interruption.Token.IsCancellationRequested)
        {
            // Ctrl-C reaches every process of the terminal, so that a peer may fail us before our own wait is
            // cancelled.
            error.WriteLine($"{Name}: interrupted");
            return ExitCode.Interrupted;
        }
        catch (ConfigurationException e) when (e.Problems.Count > 1)
        {
            error.WriteLine($"{Name}: configuration: {e.Problems.Count} problems");
            foreach (ConfigProblem problem in e.Problems)
            {
                error.WriteLine($"  {problem}");
            }

            return ExitCode.From(e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or UsageException)
        {
            // In a host's own words, perhaps.
            new PlainTextWriter(error).WriteLine($"{Name}: {ErrnoMap.FirstLine(e.Message)}");
            return ExitCode.From(e);
        }
        catch (Exception e)
        {
            // A bug: everything that may happen is one of the above.
            error.WriteLine($"{Name}: internal error, please report it: {e}");
            return ExitCode.Failed;
        }
    }

    internal static RootCommand CreateRoot()
    {
        RootCommand root = new("Peer-to-peer device memory in user space, which its owner can take back with a proof.")
        {
            new Option<bool>("--json") { Description = "Print data as JSON", Recursive = true },
            DemoCommand.Create(),
            HostCommand.Create(),
            CpCommand.Create(),
            DevicesCommand.Create(),
            TopoCommand.Create(),
            ExplainCommand.Create(),
            LinksCommand.Create(),
            TopCommand.Create(),
            ProbeCommand.Create(),
            ResetCommand.Create(),
            UnplugCommand.Create(),
            ResourcesCommand.Create(),
            BuffersCommand.Create(),
            FencesCommand.Create(),
            LsCommand.Create(),
            GpuCommand.Create(),
            RevokeCommand.Create(),
            ProofCommand.Create(),
            BenchCommand.Create(),
            CompareCommand.Create(),
            RpingCommand.Create(),
            PerftestCommand.Create(),
            RunCommand.Create(),
            FaultCommand.Create(),
            NicCommand.Create(),
            NetRecvCommand.Create(),
            NetSendCommand.Create(),
            CheckCommand.Create(),
            RoceCommand.Create(),
            DoctorCommand.Create(),
            ConfigCommand.Create(),
            CompletionCommand.Create(),
        };

        // The library also offers /h and -?, which would show up in completions.
        root.Options.Remove(root.Options.OfType<HelpOption>().Single());
        root.Options.Add(new HelpOption("--help", "-h"));
        return root;
    }

    // The parser takes an option that it does not know for an argument, where a command has some. What follows "--" is
    // none, and neither are numbers, "-" for a standard stream, and what follows the name of a program.
    private static string? FindUnknownOption(ParseResult parsed)
    {
        HashSet<Token> free = new(
            parsed.Tokens.SkipWhile(t => t.Type != TokenType.DoubleDash), ReferenceEqualityComparer.Instance);
        return parsed.UnmatchedTokens
            .Concat(parsed.CommandResult.Children.OfType<ArgumentResult>()
                .SelectMany(a => a.Argument is ProgramArgument ? a.Tokens.Take(1) : a.Tokens)
                .Where(t => !free.Contains(t))
                .Select(t => t.Value))
            .FirstOrDefault(IsOption);
    }

    private static bool IsOption(string text) =>
        text.Length > 1 && text[0] == '-' && text[1] != '.' && !char.IsAsciiDigit(text[1]);

    private static string DescribeProblem(ParseResult parsed) => parsed.UnmatchedTokens is [{ } unknown, ..]
        ? $"{CommandOf(parsed)} knows no '{unknown}'"
        : InWords(
            string.Join(' ', parsed.Errors[0].Message.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries))
                .TrimEnd('.'));

    private static int ReportUsage(ParseResult parsed, string problem, TextWriter error)
    {
        error.WriteLine($"{Name}: {problem}; see {CommandOf(parsed)} --help");
        return ExitCode.Usage;
    }

    // "Cannot parse argument 'abc' for option '--seed' as expected type 'System.UInt64'": people know no such types.
    private static string InWords(string message)
    {
        Match match = UnparsedArgument().Match(message);
        return match.Success
            ? $"{match.Groups["option"].Value}: '{match.Groups["value"].Value}' is not a number that it takes"
            : message;
    }

    [GeneratedRegex(
        "^Cannot parse argument '(?<value>.*)' for (option|argument|command) '(?<option>[^']*)' as expected type '.*"
        + "(Int|Double|Single|Decimal|Byte)")]
    private static partial Regex UnparsedArgument();

    private static string CommandOf(ParseResult parsed)
    {
        Stack<string> names = [];
        for (SymbolResult? at = parsed.CommandResult; at is not null; at = at.Parent)
        {
            if (at is CommandResult { Command: not RootCommand } result)
            {
                names.Push(result.Command.Name);
            }
        }

        return string.Join(' ', names.Prepend(Name));
    }
}
