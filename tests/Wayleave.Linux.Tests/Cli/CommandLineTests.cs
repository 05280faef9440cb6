using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Wayleave.Cli;
using Xunit;

namespace Wayleave.Linux.Tests.Cli;

/// <summary>Exit codes and the exact lines, with the command line in this process.</summary>
public class CommandLineTests
{
    public static TheoryData<string, int, string> Mistakes => new()
    {
        { "", 2, "Required command was not provided; see wayleave --help" },
        { "nope", 2, "wayleave knows no 'nope'; see wayleave --help" },
        { "ls --nope", 2, "wayleave ls knows no '--nope'; see wayleave ls --help" },
        { "ls wl://h wl://i", 2, "wayleave ls knows no 'wl://i'; see wayleave ls --help" },
        { "ls http://h",
            2, "http://h: does not start with wl://; write wl://HOST[:PORT]/DEVICE/NAME; see wayleave ls --help" },
        { "ls wl://[::1", 2, "wl://[::1: has '[' without ']'; write an IPv6 address as [::1]; see wayleave ls --help" },
        { "revoke", 2, "Required argument 'URL' missing for command: 'revoke'; see wayleave revoke --help" },
        { "revoke wl://h/gpu0",
            2, "wl://h/gpu0: names no object; write wl://HOST[:PORT]/DEVICE/NAME; see wayleave revoke --help" },
        { "revoke wl://h/g/a --timeout 5",
            2, "--timeout: '5' is not a time such as 500ms, 5s or 2m; see wayleave revoke --help" },
        { "revoke wl://h/g/a --timeout 2h", 2, "--timeout: at most 3600 s" },
        { "revoke wl://h/g/a --grade none", 2, "Argument 'none' not recognized. Must be one of: 'Acknowledged' "
            + "'KeyDead' 'Drained' 'Retired'; see wayleave revoke --help" },
        { "host --port 70000",
            2, "configuration: --port: 70000 is not a port; ports are 1 to 65535, and 0 lets the system choose" },
        { "host --vram", 2, "Required argument missing for option: '--vram'; see wayleave host --help" },
        { "host --config /nonexistent",
            1, "read the configuration /nonexistent: does not exist; name another file by --config" },
        { "ls wl://127.0.0.250:7999", 4, "list objects on 127.0.0.250:7999: nobody listens there; start it: wayleave "
            + "host --address 127.0.0.250 --port 7999" },
        { "ls --socket /nonexistent",
            4, "list objects on /nonexistent: there is no such socket; start it again: wayleave host" },
        { "ls --token-file /nonexistent wl://127.0.0.250", 1, "read the token file /nonexistent: does not exist; the "
            + "host that wrote it prints its path when it starts" },
        { "proof check", 2, "Required argument 'FILE' missing for command: 'check'; see wayleave proof check --help" },
        { "proof check /nonexistent",
            1, "read the proof /nonexistent: does not exist; wayleave revoke --json prints one" },
        { "proof check /", 1, "read the proof /: it is a folder" },
        { "proof check -- --nope",
            1, "read the proof --nope: does not exist; wayleave revoke --json prints one" },
        { "cp --nope a gpu0/x", 2, "wayleave cp knows no '--nope'; see wayleave cp --help" },
        { "cp / gpu0/x --socket /nonexistent", 1, "read /: it is a folder; name a file" },
        { "host --config /", 1, "read the configuration /: it is a folder; name a file by --config" },
        { "proof check x --grade Best", 2, "Argument 'Best' not recognized. Must be one of: 'Acknowledged' "
            + "'KeyDead' 'Drained' 'Retired'; see wayleave proof check --help" },
        { "completion csh",
            2, "Argument 'csh' not recognized. Must be one of: 'bash' 'zsh' 'fish'; see wayleave completion --help" },
    };

    [Theory]
    [MemberData(nameof(Mistakes))]
    public async Task A_mistake_is_one_line_on_stderr_and_a_number(string command, int exitCode, string line)
    {
        (int code, string output, string error) = await RunAsync(command);
        Assert.Equal($"wayleave: {line}\n", error);
        Assert.Equal(exitCode, code);
        Assert.Empty(output);
    }

    [Fact]
    public async Task Several_problems_of_the_configuration_are_all_told()
    {
        (int code, _, string error) = await RunAsync("host --port x --vram 3");
        Assert.Equal(2, code);
        Assert.Equal(
            "wayleave: configuration: 2 problems\n  --port: 'x' is not a whole number\n  --vram: 3 is out of range; "
            + "allowed are 64KiB to 1TiB\n",
            error);
    }

    // Every one, with as many arguments before it as it may have.
    [Fact]
    public async Task No_command_takes_an_option_that_it_does_not_know_for_something_else()
    {
        int commands = 0;
        await ExpectRefused(CommandLine.CreateRoot(), "wayleave");
        Assert.InRange(commands, 40, 1000);

        async Task ExpectRefused(Command command, string path)
        {
            commands++;
            string words = path["wayleave".Length..];
            string behind = command.Arguments is [ProgramArgument] ? "" : " a"; // a program has options of its own
            foreach (string line in (string[])[words + " --nosuch a b", $"{words}{behind} --nosuch"])
            {
                (int code, string output, string error) = await RunAsync(line);
                Assert.Equal((2, ""), (code, output));
                Assert.StartsWith("wayleave: ", error, StringComparison.Ordinal);
                Assert.EndsWith($" knows no '--nosuch'; see {path} --help\n", error, StringComparison.Ordinal);
            }

            foreach (Command child in command.Subcommands)
            {
                await ExpectRefused(child, $"{path} {child.Name}");
            }
        }
    }

    [Theory]
    [InlineData("--help")]
    [InlineData("-h")]
    [InlineData("ls --help")]
    public async Task Help_is_data(string command)
    {
        (int code, string output, string error) = await RunAsync(command);
        Assert.Equal(0, code);
        Assert.Contains("--json", output, StringComparison.Ordinal);
        Assert.Empty(error);
    }

    [Fact]
    public async Task The_version_is_that_of_the_package()
    {
        (int code, string output, _) = await RunAsync("--version");
        Assert.Equal(0, code);
        Assert.StartsWith("0.", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_configuration_is_printed_with_its_origins()
    {
        (int code, string output, _) = await RunAsync("config --port 9 --name b");
        Assert.Equal(0, code);
        Assert.Matches("(?m)^control\\.port +9 +--port$", output);
        Assert.Matches("(?m)^name +b +--name$", output);
        Assert.Matches("(?m)^nics\\[0\\]\\.path_mtu_bytes +4096 +default$", output);
    }

    [Fact]
    public async Task The_configuration_as_json_has_the_same_values()
    {
        (int code, string output, _) = await RunAsync("--json config --port 9");
        Assert.Equal(0, code);
        using JsonDocument document = JsonDocument.Parse(output);
        Assert.Equal("wayleave.config.v1", document.RootElement.GetProperty("schema").GetString());
        JsonElement port = document.RootElement
            .GetProperty("values").EnumerateArray().Single(v => v.GetProperty("path").GetString() == "control.port");
        Assert.Equal(("9", "--port"), (port.GetProperty("value").GetString(), port.GetProperty("origin").GetString()));
    }

    [Theory]
    [InlineData("bash", "complete -o default -F _wayleave wayleave")]
    [InlineData("zsh", "compdef _wayleave wayleave")]
    [InlineData("fish", "complete --command wayleave")]
    public async Task A_completion_script_asks_the_program(string shell, string registration)
    {
        (int code, string output, _) = await RunAsync("completion " + shell);
        Assert.Equal(0, code);
        Assert.Contains("[suggest:", output, StringComparison.Ordinal);
        Assert.Contains(registration, output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_program_suggests_its_commands()
    {
        StringWriter output = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        int code = await CommandLine
            .RunAsync(["[suggest:10]", "wayleave r"], output, TextWriter.Null, TestContext.Current.CancellationToken);
        Assert.Equal(0, code);
        Assert.Contains("revoke", output.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void Every_command_has_a_description_and_so_has_every_option()
    {
        Assert.All(CommandLine.CreateRoot().Subcommands, command =>
        {
            Assert.False(string.IsNullOrEmpty(command.Description), command.Name);
            Assert.All(
                command.Options.Where(o => !o.Hidden),
                o => Assert.False(string.IsNullOrEmpty(o.Description), $"{command.Name} {o.Name}"));
            Assert.All(
                command.Arguments, a => Assert.False(string.IsNullOrEmpty(a.Description), $"{command.Name} {a.Name}"));
        });
    }

    private static async Task<(int Code, string Output, string Error)> RunAsync(string command)
    {
        StringWriter output = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        StringWriter error = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        string[] arguments = command.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        int code = await CommandLine.RunAsync(arguments, output, error, TestContext.Current.CancellationToken);
        return (code, output.ToString(), error.ToString());
    }
}
