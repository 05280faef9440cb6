#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false

// wayleave check beside spin: the scenario move-once, which drives the shipped code, and compare-explore.pml, which
// states the same move as a model. The programs take turns, round by round; medians of the rounds and of the rounds'
// ratios are printed. Installs nothing. Exit codes: 0 measured, 1 a program failed, 2 usage, 3 a peer is missing.

using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;

const int SmallRounds = 2; // of each importer, as in the scenario
const int LargeRounds = 16; // for spin alone: the small model is over before it can be timed well
const int SmallRuns = 50; // of the verifier, in one measurement
const int DrawnOrders = 40_000;

int rounds = 5;
bool json = false;
for (int i = 0; i < args.Length; i++)
{
    if (args[i] == "--json")
    {
        json = true;
    }
    else if (args[i] == "--rounds" && i + 1 < args.Length && int.TryParse(args[++i], out rounds) && rounds > 0)
    {
    }
    else
    {
        Console.Error.WriteLine("usage: compare-explore [--rounds N] [--json]");
        return 2;
    }
}

(string Program, string Package)[] peers = [("spin", "spin"), ("gcc", "gcc")];
string[] missing = [.. peers.Where(p => FindProgram(p.Program) is null).Select(p => p.Package)];
if (missing.Length > 0)
{
    Console.Error.WriteLine($"compare-explore: a peer is missing: apt-get install {string.Join(' ', missing)}");
    return 3;
}

string here = AppContext.GetData("EntryPointFileDirectoryPath") as string ?? ".";
string wayleave = Path.GetFullPath(Path.Combine(here, "..", "wayleave"));
string folder = Directory.CreateTempSubdirectory("wayleave-compare-explore-").FullName;
try
{
    Run(wayleave, ["--version"]); // builds it, if it has to be built
    string small = Compile(SmallRounds), large = Compile(LargeRounds);
    List<Measured> measured = [];
    for (int round = 0; round < rounds; round++)
    {
        Search spinSmall = MeasureSpin(small, SmallRuns), spinLarge = MeasureSpin(large, runs: 1);
        measured.Add(new Measured(MeasureOurs(), MeasureDrawn(), spinSmall, spinLarge));
        Console.Error.WriteLine($"round {round + 1} of {rounds}");
    }

    Print(measured);
    return 0;
}
catch (PeerException e)
{
    Console.Error.WriteLine($"compare-explore: {e.Message}");
    return 1;
}
finally
{
    Directory.Delete(folder, recursive: true);
}

void Print(List<Measured> measured)
{
    Row[] rows =
    [
        Compare("wayleave check, every state", SmallRounds, measured, m => m.Ours),
        Compare("spin, every state", SmallRounds, measured, m => m.Small),
        Compare("spin, every state", LargeRounds, measured, m => m.Large),
    ];
    double orders = Median(measured, m => DrawnOrders / m.Drawn.Seconds);
    if (json)
    {
        WriteJson(rows, orders);
        return;
    }

    Console.WriteLine(
        $"{"",-28} {"rounds",6} {"states",9} {"steps",9} {"states/s",10} {"steps/s",11} {"to ours",8}");
    foreach (Row row in rows)
    {
        string size = $"{row.ImporterRounds,6} {row.First.States,9} {row.First.Steps,9}";
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{row.Name,-28} {size} {row.StatesPerS,10:F0} {row.StepsPerS,11:F0} {row.Ratio,8:F1}"));
    }

    Console.WriteLine(string.Create(
        CultureInfo.InvariantCulture,
        $"complete orders, drawn, of wayleave check: {orders:F0} per second; {measured.Count} rounds"));
}

static Row Compare(string name, int importerRounds, List<Measured> measured, Func<Measured, Search> of) => new(
    name,
    importerRounds,
    of(measured[0]),
    Median(measured, m => of(m).StatesPerS),
    Median(measured, m => of(m).StepsPerS),
    Median(measured, m => of(m).StatesPerS / m.Ours.StatesPerS));

void WriteJson(Row[] rows, double orders)
{
    using Stream output = Console.OpenStandardOutput();
    using Utf8JsonWriter writer = new(output, new JsonWriterOptions { Indented = true });
    writer.WriteStartObject();
    writer.WriteString("schema", "wayleave.compare_explore/1");
    writer.WriteNumber("rounds", rounds);
    writer.WriteNumber("complete_orders_per_s", orders);
    writer.WriteStartArray("searches");
    foreach (Row row in rows)
    {
        writer.WriteStartObject();
        writer.WriteString("name", row.Name);
        writer.WriteNumber("importer_rounds", row.ImporterRounds);
        writer.WriteNumber("states", row.First.States);
        writer.WriteNumber("steps", row.First.Steps);
        writer.WriteNumber("median_states_per_s", row.StatesPerS);
        writer.WriteNumber("median_steps_per_s", row.StepsPerS);
        writer.WriteNumber("median_ratio_to_ours", row.Ratio);
        writer.WriteEndObject();
    }

    writer.WriteEndArray();
    writer.WriteEndObject();
    writer.Flush();
    output.WriteByte((byte)'\n');
}

static double Median(List<Measured> rounds, Func<Measured, double> of)
{
    double[] sorted = [.. rounds.Select(of).Order()];
    int middle = sorted.Length / 2;
    return sorted.Length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// The verifier without partial-order reduction, which our search has not either.
string Compile(int importerRounds)
{
    string work = Directory.CreateDirectory(Path.Combine(folder, $"{importerRounds}")).FullName;
    Run("spin", ["-a", $"-DROUNDS={importerRounds}", Path.Combine(here, "compare-explore.pml")], work);
    Run("gcc", ["-w", "-O2", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c"], work);
    return Path.Combine(work, "pan");
}

Search MeasureOurs() => Ours(["check", "run", "move-once", "--json"]);

Search MeasureDrawn() =>
    Ours(["check", "run", "move-once", "--json", "--orders", "random", "--schedules", $"{DrawnOrders}"]);

// The time that the search itself took, without the start of the program.
Search Ours(string[] arguments)
{
    using JsonDocument report = JsonDocument.Parse(Run(wayleave, arguments));
    JsonElement run = report.RootElement.GetProperty("runs")[0];
    if (run.GetProperty("result").GetString() != "holds")
    {
        throw new PeerException("move-once does not hold");
    }

    (long states, long steps) = (run.GetProperty("states").GetInt64(), run.GetProperty("steps").GetInt64());
    return new Search(states, steps, run.GetProperty("elapsed_s").GetDouble());
}

// Wall time of the process: pan tells its own in hundredths of a second.
Search MeasureSpin(string pan, int runs)
{
    string output = "";
    Stopwatch watch = Stopwatch.StartNew();
    for (int i = 0; i < runs; i++)
    {
        output = Run(pan, ["-w18", "-m1000000"], Path.GetDirectoryName(pan));
    }

    double seconds = watch.Elapsed.TotalSeconds / runs;
    return output.Contains("errors: 0", StringComparison.Ordinal)
        ? new Search(Number(output, "states, stored"), Number(output, "transitions"), seconds)
        : throw new PeerException($"spin finds an error in the model: {output}");
}

static long Number(string output, string what)
{
    Match match = Regex.Match(output, @"([0-9.e+]+) " + Regex.Escape(what));
    return match.Success
        ? (long)double.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture)
        : throw new PeerException($"pan does not say how many {what}");
}

static string Run(string program, string[] arguments, string? folder = null)
{
    ProcessStartInfo start = new(program, arguments)
    {
        RedirectStandardOutput = true,
        RedirectStandardError = true,
        WorkingDirectory = folder ?? "",
    };
    using Process process = Process.Start(start) ?? throw new PeerException($"{program} does not start");
    Task<string> errors = process.StandardError.ReadToEndAsync();
    Task<string> output = process.StandardOutput.ReadToEndAsync();
    if (!process.WaitForExit(TimeSpan.FromMinutes(5)))
    {
        process.Kill(entireProcessTree: true);
        throw new PeerException($"{program} {string.Join(' ', arguments)} did not end within 5 minutes");
    }

    string said = errors.GetAwaiter().GetResult().Trim();
    return process.ExitCode == 0
        ? output.GetAwaiter().GetResult()
        : throw new PeerException($"{program} {string.Join(' ', arguments)} exited with {process.ExitCode}: {said}");
}

static string? FindProgram(string name) => (Environment.GetEnvironmentVariable("PATH") ?? "")
    .Split(':', StringSplitOptions.RemoveEmptyEntries)
    .Select(folder => Path.Combine(folder, name))
    .FirstOrDefault(File.Exists);

/// <summary>One search: different states, steps made, seconds.</summary>
internal sealed record Search(long States, long Steps, double Seconds)
{
    public double StatesPerS => States / Seconds;

    public double StepsPerS => Steps / Seconds;
}

internal sealed record Measured(Search Ours, Search Drawn, Search Small, Search Large);

internal sealed record Row(
    string Name, int ImporterRounds, Search First, double StatesPerS, double StepsPerS, double Ratio);

internal sealed class PeerException(string message) : Exception(message);
