using System.CommandLine;
using Wayleave.Host.Programs;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave run</c>: a program of libibverbs on a NIC in its own process.</summary>
internal static class RunCommand
{
    public static Command Create()
    {
        Option<string?> devices = new("--devices")
        {
            Description = "Its NICs, each with an address of its own; a free loopback address without this",
            HelpName = "NAME@ADDRESS,...",
        };
        Argument<string[]> program = new("command")
        {
            Description = "The program and its arguments, after --",
            Arity = ArgumentArity.OneOrMore,
        };
        Command command = new("run", "Run a program of libibverbs without a NIC") { devices, program };
        command.SetAction(async (parsed, cancellation) =>
        {
            CommandContext context = new(parsed);
            string[] run = parsed.GetValue(program)!;
            if (VerbsProgram.WhyDeaf(run[0]) is { } reason)
            {
                context.Error.WriteLine($"wayleave: {reason}");
            }

            string nics = parsed.GetValue(devices) ?? VerbsProgram.ChooseDevices();
            return await VerbsProgram.RunAsync(run, nics, cancellation).ConfigureAwait(false);
        });
        return command;
    }
}
