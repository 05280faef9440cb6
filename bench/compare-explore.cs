#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false
#:project Wayleave.Compare

// wayleave check beside spin: the scenario move-once, which drives the shipped code, and compare-explore.pml, which
// states the same move as a model. The programs take turns, round by round; medians of the rounds and of the rounds'
// ratios are printed. Installs nothing. Exit codes: 0 measured, 1 a program failed, 2 usage, 3 a peer is missing.

using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;
using Wayleave.Compare;

const int SmallRounds = 2; // of each importer, as in the scenario
const int LargeRounds = 16; // for spin alone: the small model is over before it can be timed well
const int SmallRuns = 50; // of the verifier, in one measurement
const int DrawnOrders = 40_000;

if (ComparisonOptions.Parse("compare-explore", args) is not { } options)
{
    return 2;
}

if (PeerProgram.IsMissing("compare-explore", ("spin", "spin"), ("gcc", "gcc")))
{
    return 3;
}

string folder = Directory.CreateTempSubdirectory("wayleave-compare-explore-").FullName;
try
{
    PeerProgram.Run(PeerProgram.Wayleave, ["--version"]); // builds it, if it has to be built
    string small = Compile(SmallRounds), large = Compile(LargeRounds);
    List<Measured> measured = [];
    for (int round = 0; round < options.Rounds; round++)
    {
        Search spinSmall = MeasureSpin(small, SmallRuns), spinLarge = MeasureSpin(large, runs: 1);
        measured.Add(new Measured(MeasureOurs(), MeasureDrawn(), spinSmall, spinLarge));
        Console.Error.WriteLine($"round {round + 1} of {options.Rounds}");
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
    if (options.IsJson)
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
    writer.WriteNumber("rounds", options.Rounds);
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

static double Median(List<Measured> rounds, Func<Measured, double> of) => Statistics.Median(rounds.Select(of));

// The verifier without partial-order reduction, which our search has not either.
string Compile(int importerRounds)
{
    string work = Directory.CreateDirectory(Path.Combine(folder, $"{importerRounds}")).FullName;
    string model = Path.Combine(PeerProgram.Folder, "compare-explore.pml");
    PeerProgram.Run("spin", ["-a", $"-DROUNDS={importerRounds}", model], folder: work);
    PeerProgram.Run("gcc", ["-w", "-O2", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c"], folder: work);
    return Path.Combine(work, "pan");
}

Search MeasureOurs() => Ours(["check", "run", "move-once", "--json"]);

Search MeasureDrawn() =>
    Ours(["check", "run", "move-once", "--json", "--orders", "random", "--schedules", $"{DrawnOrders}"]);

// The time that the search itself took, without the start of the program.
Search Ours(string[] arguments)
{
    using JsonDocument report = JsonDocument.Parse(PeerProgram.Run(PeerProgram.Wayleave, arguments));
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
        output = PeerProgram.Run(pan, ["-w18", "-m1000000"], folder: Path.GetDirectoryName(pan));
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

/// <summary>One search: different states, steps made, seconds.</summary>
internal sealed record Search(long States, long Steps, double Seconds)
{
    public double StatesPerS => States / Seconds;

    public double StepsPerS => Steps / Seconds;
}

internal sealed record Measured(Search Ours, Search Drawn, Search Small, Search Large);

internal sealed record Row(
    string Name, int ImporterRounds, Search First, double StatesPerS, double StepsPerS, double Ratio);
