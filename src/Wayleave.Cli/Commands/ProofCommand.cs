using System.CommandLine;
using System.Text.Json.Serialization;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave proof</c>: looks at a proof without trusting whoever wrote it (docs/proof.md).</summary>
internal static class ProofCommand
{
    public static Command Create() => new("proof", "Check the proof of a revoke, or print its form")
    {
        CreateCheck(),
        CreateSchema(),
    };

    private static Command CreateCheck()
    {
        Argument<string> file = new("FILE")
        {
            Description = "What revoke --json or demo --json printed; - reads standard input",
        };
        Option<RetirementGrade?> grade = new("--grade")
        {
            Description = "Also fail when a proof is below this grade",
            HelpName = "G",
        };
        grade.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, "Acknowledged", "KeyDead", "Drained", "Retired");
        Command command = new("check", "Derive a proof's conclusions again from its evidence") { file, grade };
        command.SetAction(parsed =>
        {
            CommandContext context = new(parsed);
            string path = parsed.GetRequiredValue(file);
            ProofCheckDocument report = Check(path, ReadFile(path), parsed.GetValue(grade));
            if (context.IsJson)
            {
                context.WriteJson(report, ProofCheckJson.Default.ProofCheckDocument);
            }
            else
            {
                Print(context.Out, report);
            }

            return report.Holds ? ExitCode.Done : ExitCode.Failed;
        });
        return command;
    }

    private static Command CreateSchema()
    {
        Command command = new("schema", "Print the JSON schema of a proof");
        command.SetAction(parsed =>
        {
            parsed.InvocationConfiguration.Output.Write(ProofSchema.Read());
            return ExitCode.Done;
        });
        return command;
    }

    private static ProofCheckDocument Check(string path, byte[] text, RetirementGrade? gradeMin)
    {
        ProofFile file = ProofFile.Parse(text, path);
        List<CheckedProofDocument> proofs = [];
        foreach (ProofDocument proof in file.Proofs)
        {
            IReadOnlyList<string> problems = ProofCheck.FindProblems(proof);
            proofs.Add(new CheckedProofDocument
            {
                Buffer = proof.Buffer,
                Exporter = proof.Exporter,
                Grade = proof.Grade.ToString(),
                RequiredGrade = proof.RequiredGrade.ToString(),
                Sufficient = proof.Sufficient,
                Importers = proof.Importers.Count,
                Problems = proof.Grade < gradeMin
                    ? [.. problems, $"its grade is {proof.Grade}; {gradeMin} is asked for"]
                    : problems,
            });
        }

        List<string> late = [];
        if (file.LateWriteBytes is > 0 and long written)
        {
            late.Add($"{written} bytes changed after the proofs");
        }

        if (file.LateReadBytes is > 0 and long read)
        {
            late.Add($"{read} bytes of the new owner were read after the proofs");
        }

        return new ProofCheckDocument
        {
            File = path,
            Proofs = proofs,
            Problems = late,
            Holds = late.Count == 0 && proofs.All(p => p.Problems.Count == 0),
        };
    }

    private static void Print(TextWriter output, ProofCheckDocument report)
    {
        foreach (CheckedProofDocument proof in report.Proofs)
        {
            string importers = $"{proof.Importers} importer{(proof.Importers == 1 ? "" : "s")}";
            string verdict = proof.Problems.Count > 0 ? "does not hold"
                : proof.Sufficient ? "holds"
                : $"holds, and {proof.RequiredGrade} is needed: the memory is in quarantine";
            output.WriteLine($"{proof.Buffer} of {proof.Exporter}: {proof.Grade}, {importers}: {verdict}");
            foreach (string problem in proof.Problems)
            {
                output.WriteLine($"  {problem}");
            }
        }

        foreach (string problem in report.Problems)
        {
            output.WriteLine(problem);
        }
    }

    private static byte[] ReadFile(string path)
    {
        string operation = $"read the proof {path}";
        try
        {
            using Stream stream = path == "-" ? Console.OpenStandardInput()
                : Directory.Exists(path) ? throw new WayleaveException(Errno.EINVAL, operation, "it is a folder")
                : File.OpenRead(path);
            using MemoryStream text = new();
            byte[] buffer = new byte[1 << 16];
            while (stream.Read(buffer) is > 0 and int count)
            {
                text.Write(buffer, 0, count);
                if (text.Length > ProofFile.BytesMax)
                {
                    throw new WayleaveException(
                        Errno.E2BIG, operation, $"it is longer than {ByteSize.ToText(ProofFile.BytesMax)}");
                }
            }

            return text.ToArray();
        }
        catch (Exception e) when (e is IOException and not WayleaveException or UnauthorizedAccessException)
        {
            throw ErrnoMap.ToException(e, operation, "wayleave revoke --json prints one");
        }
    }
}

/// <summary>What <c>wayleave proof check --json</c> prints.</summary>
internal sealed record ProofCheckDocument
{
    public string Schema { get; init; } = "wayleave.proof_check.v1";

    public required string File { get; init; }

    /// <summary>Whether every proof holds and nothing was late.</summary>
    public required bool Holds { get; init; }

    public required IReadOnlyList<CheckedProofDocument> Proofs { get; init; }

    /// <summary>What a report in the file counted against its own proofs.</summary>
    public required IReadOnlyList<string> Problems { get; init; }
}

/// <summary>One proof, and what is wrong with it.</summary>
internal sealed record CheckedProofDocument
{
    public required string Buffer { get; init; }

    public required string Exporter { get; init; }

    public required string Grade { get; init; }

    public required string RequiredGrade { get; init; }

    public required bool Sufficient { get; init; }

    public required int Importers { get; init; }

    public required IReadOnlyList<string> Problems { get; init; }
}

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower)]
[JsonSerializable(typeof(ProofCheckDocument))]
internal sealed partial class ProofCheckJson : JsonSerializerContext;
