using System.CommandLine;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave completion SHELL</c>: a script that asks the program itself, through the parser's <c>[suggest]</c>
/// directive, so that it never falls behind.
/// </summary>
internal static class CompletionCommand
{
    private const string Bash = """
        # eval "$(wayleave completion bash)", for example in ~/.bashrc
        _wayleave() {
            local IFS=$'\n' candidates
            candidates=$(wayleave "[suggest:${COMP_POINT}]" "${COMP_LINE}" 2>/dev/null)
            # A word with colons is several words to bash, which then wants only the part after the last colon.
            COMPREPLY=($(compgen -W "${candidates}" -- "${COMP_WORDS[COMP_CWORD]}"))
        }
        complete -o default -F _wayleave wayleave
        """;

    private const string Zsh = """
        # eval "$(wayleave completion zsh)", for example in ~/.zshrc after compinit
        _wayleave() {
            local -a candidates
            candidates=("${(@f)$(wayleave "[suggest:${CURSOR}]" "${BUFFER}" 2>/dev/null)}")
            compadd -a candidates || _files
        }
        compdef _wayleave wayleave
        """;

    private const string Fish = """
        # wayleave completion fish | source, for example in ~/.config/fish/config.fish
        function __wayleave
            wayleave "[suggest:"(commandline --cursor)"]" (commandline | string collect) 2>/dev/null
        end
        complete --command wayleave --arguments "(__wayleave)"
        """;

    public static Command Create()
    {
        Argument<string> shell = new("SHELL") { Description = "bash, zsh or fish" };
        shell.AcceptOnlyFromAmong("bash", "zsh", "fish");
        Command command = new("completion", "Print a script that completes commands in a shell") { shell };
        command.SetAction(parsed =>
        {
            string script = parsed.GetRequiredValue(shell) switch
            {
                "bash" => Bash,
                "zsh" => Zsh,
                _ => Fish,
            };
            parsed.InvocationConfiguration.Output.WriteLine(script);
        });
        return command;
    }
}
