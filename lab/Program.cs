using System.Text.Json;
using Wayleave.Lab;
using Wayleave.Lab.Machine;
using Wayleave.Lab.Packages;
using Wayleave.Lab.Tests;

if (args is ["program", string program, .. string[] rest] && TestPrograms.Find(program) is { } run)
{
    return run(rest);
}

using CancellationTokenSource interrupt = new();
Console.CancelKeyPress += (_, e) =>
{
    e.Cancel = true;
    interrupt.Cancel();
};
void Say(string line) => Console.Error.WriteLine($"lab: {line}");

try
{
    CommandLine line = CommandLine.Parse(args);
    string root = FindRoot();
    if (line.Help)
    {
        Console.WriteLine(CommandLine.Usage);
        return ExitCodes.Done;
    }

    IReadOnlyList<LabTest> tests = LabTest.Load(Path.Combine(root, "lab", "tests"));
    return line switch
    {
        { List: true } => List(tests, line.Json),
        { Fetch: true } => Fetch(tests),
        { Command.Count: > 0 } => Command(line, root),
        _ => Tests(Choose(tests, line), line, root),
    };
}
catch (LabException e)
{
    Say(e.Message);
    return e.ExitCode;
}
catch (OperationCanceledException)
{
    return ExitCodes.Interrupted;
}

static string FindRoot()
{
    for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
    {
        if (File.Exists(Path.Combine(folder.FullName, "Wayleave.slnx")))
        {
            return folder.FullName;
        }
    }

    throw new LabException(ExitCodes.Usage, "not inside a clone of Wayleave", "start it as lab/run");
}

static IReadOnlyList<LabTest> Choose(IReadOnlyList<LabTest> tests, CommandLine line)
{
    string? unknown = line.Tests.FirstOrDefault(name => tests.All(t => t.Name != name));
    return unknown is null
        ? line.All ? tests : [.. tests.Where(t => line.Tests.Contains(t.Name))]
        : throw new LabException(
            ExitCodes.Usage, $"no test {unknown}", "there are: " + string.Join(' ', tests.Select(t => t.Name)));
}

static int List(IReadOnlyList<LabTest> tests, bool json)
{
    if (json)
    {
        Print(writer =>
        {
            writer.WriteString("schema", "wayleave.lab.list/1");
            writer.WriteStartArray("tests");
            foreach (LabTest test in tests)
            {
                writer.WriteStartObject();
                writer.WriteString("name", test.Name);
                writer.WriteString("summary", test.Summary);
                writer.WriteNumber("boots", test.Boots.Count);
                writer.WriteEndObject();
            }

            writer.WriteEndArray();
        });
        return ExitCodes.Done;
    }

    foreach (LabTest test in tests)
    {
        Console.WriteLine($"{test.Name,-10} {test.Summary}");
    }

    return ExitCodes.Done;
}

int Fetch(IReadOnlyList<LabTest> tests)
{
    LabCache cache = new();
    (KernelImage kernel, _, _) = Lab.Open(cache, [], refresh: true, Say);
    foreach (LabTest test in tests)
    {
        Lab.Open(cache, test.Packages, refresh: false, Say);
    }

    Console.WriteLine($"kernel {kernel.Version} ({kernel.Package}) in {cache.Folder}");
    return ExitCodes.Done;
}

int Command(CommandLine line, string root)
{
    LabCache cache = new();
    (KernelImage kernel, ToolLayer tools, ToolLayer extra) = Lab.Open(cache, line.Packages, refresh: false, Say);
    string share = Directory.CreateTempSubdirectory("wayleave-lab.").FullName;
    try
    {
        GuestOptions options = new() { Environment = Lab.Environment(root, root) };
        options = options with { TimeLimit = line.TimeLimit ?? options.TimeLimit };
        GuestResult result = new Guest(cache, kernel, tools, extra).Run(
            options, Shell.Quote(line.Command), share, beside: null,
            (text, isError) => (isError ? Console.Error : Console.Out).WriteLine(text), interrupt.Token);
        if (result.TimedOut)
        {
            Say($"stopped after {result.Elapsed.TotalSeconds:F0} s, the time limit");
        }
        else if (result.ExitCode is null)
        {
            Console.Error.Write(result.Console);
            Say("the machine ended without saying how the command did");
        }

        return result.ExitCode ?? ExitCodes.Failed;
    }
    finally
    {
        if (line.Keep)
        {
            Say($"kept {share}");
        }
        else
        {
            PackageTree.Delete(share);
        }
    }
}

int Tests(IReadOnlyList<LabTest> chosen, CommandLine line, string root)
{
    TestRunnerOptions options = new() { TimeLimit = line.TimeLimit, Keep = line.Keep, Record = line.Record };
    TestRunner runner = new(new LabCache(), root, options, Say);
    List<LabOutcome> outcomes = [];
    foreach (LabTest test in chosen)
    {
        LabOutcome outcome = runner.Run(test, interrupt.Token);
        outcomes.Add(outcome);
        if (line.Verbose || outcome.Status == LabOutcome.Failed)
        {
            Console.Error.Write(outcome.Detail);
        }

        string text = $"{outcome.Status}  {outcome.Name} ({outcome.Elapsed.TotalSeconds:F0} s)"
            + (outcome.Reason.Length > 0 ? ": " + outcome.Reason : "");
        (line.Json ? Console.Error : Console.Out).WriteLine(text);
    }

    int Count(string status) => outcomes.Count(o => o.Status == status);
    if (line.Json)
    {
        Print(writer =>
        {
            writer.WriteString("schema", "wayleave.lab/1");
            writer.WriteStartArray("tests");
            foreach (LabOutcome outcome in outcomes)
            {
                writer.WriteStartObject();
                writer.WriteString("name", outcome.Name);
                writer.WriteString("status", outcome.Status);
                writer.WriteString("reason", outcome.Reason);
                writer.WriteNumber("elapsed_s", Math.Round(outcome.Elapsed.TotalSeconds, 1));
                writer.WriteString("output", outcome.Detail);
                writer.WriteEndObject();
            }

            writer.WriteEndArray();
        });
    }
    else
    {
        Console.WriteLine(
            $"{Count(LabOutcome.Passed)} passed, {Count(LabOutcome.Failed)} failed, "
            + $"{Count(LabOutcome.Skipped)} skipped");
    }

    return Count(LabOutcome.Failed) > 0 ? ExitCodes.Failed
        : Count(LabOutcome.Passed) == 0 ? ExitCodes.NotSupported
        : ExitCodes.Done;
}

static void Print(Action<Utf8JsonWriter> write)
{
    using Stream output = Console.OpenStandardOutput();
    using (Utf8JsonWriter writer = new(output))
    {
        writer.WriteStartObject();
        write(writer);
        writer.WriteEndObject();
    }

    output.WriteByte((byte)'\n');
}
