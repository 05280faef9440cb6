using System.CommandLine;
using Wayleave.Cli.Output;
using Wayleave.Core.Retirement;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave revoke</c>: takes an object back and says why nobody can write to it any more.</summary>
internal static class RevokeCommand
{
    private static readonly TimeSpan s_timeoutMax = TimeSpan.FromHours(1);

    public static Command Create()
    {
        Argument<WlUrl?> url = Parsing.ObjectUrl("wl://HOST[:PORT]/DEVICE/NAME");
        Option<RetirementGrade> grade = new("--grade")
        {
            Description = "The proof that is needed before the memory may be used again; below it the memory stays in "
                + "quarantine",
            HelpName = "G",
            DefaultValueFactory = _ => RetirementGrade.Retired,
        };
        grade.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, "Acknowledged", "KeyDead", "Drained", "Retired");
        Option<TimeSpan?> timeout = Parsing.DurationOption("--timeout", "How long to wait for the proof (default 5s)");
        Option<bool> explain = new("--explain") { Description = "Tell what happened, step by step" };
        Command command = new("revoke", "Take an object back from everyone who uses it, and prove it")
        {
            url,
            grade,
            timeout,
            explain,
        };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            WlUrl target = parsed.GetRequiredValue(url)!;
            TimeSpan limit = parsed.GetValue(timeout) ?? new RevokePolicy().Timeout;
            if (limit > s_timeoutMax)
            {
                throw new UsageException($"--timeout: at most {Durations.Format(s_timeoutMax)}");
            }

            RevokeObjectDocument request = new()
            {
                Grade = parsed.GetValue(grade),
                TimeoutMs = (int)Math.Ceiling(limit.TotalMilliseconds),
            };
            using ControlClient client = parsed.OpenClient(target);
            ProofDocument proof = await client
                .RevokeAsync(target.Device!, target.Name!, request, cancellation).ConfigureAwait(false);
            Print(new CommandContext(parsed), target, proof, parsed.GetValue(explain));
            return proof.Sufficient ? ExitCode.Done : ExitCode.Failed;
        });
        return command;
    }

    private static void Print(CommandContext context, WlUrl target, ProofDocument proof, bool isExplained)
    {
        if (context.IsJson)
        {
            context.WriteJson(proof, ControlJson.Default.ProofDocument);
        }
        else if (isExplained)
        {
            ProofStory.Write(proof, context.Out);
        }
        else
        {
            string duration = Durations.Format(TimeSpan.FromMicroseconds(proof.DurationUs));
            context.Out.WriteLine($"{target}: {proof.Grade} in {duration}, {proof.Importers.Count} importers");
        }

        if (!proof.Sufficient)
        {
            context.Error.WriteLine(
                $"wayleave: revoke {target}: only {proof.Grade}, {proof.RequiredGrade} is needed; "
                + "the memory stays in quarantine until its users stop");
        }
    }
}
