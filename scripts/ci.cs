#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false

// What CI runs after .ci/run has prepared the machine: the steps below in order, each to its end, then the skipped
// tests with their reasons, then what failed with what it said, then one line that sums the real results: every test,
// and every step that is not itself a test run.

using System.Diagnostics;
using System.Text.Json;

string root = Path.GetFullPath(Path.Combine(AppContext.GetData("EntryPointFileDirectoryPath") as string ?? ".", ".."));
string artifacts = Path.Combine(root, "artifacts", "ci");
string reports = Path.Combine(artifacts, "reports");
string packages = Path.Combine(artifacts, "packages");
if (Directory.Exists(artifacts))
{
    Directory.Delete(artifacts, recursive: true);
}

Directory.CreateDirectory(reports);

// How much of what a failure said is shown at the end.
const int EvidenceLines = 60;
const int ShortLength = 400;

int passed = 0, failed = 0, skipped = 0;
List<(string What, string Said)> failures = [];
List<string> skips = [];

// ---- the steps ----
Step("restore, locked", "dotnet", ["restore"]);
Step("format", "dotnet", ["format", "--verify-no-changes", "--no-restore", "--severity", "warn"]);
Ibverbs(); // which guests of the lab use as well
Lab();
Tests();
Step("pack", "dotnet", ["pack", "-c", "Release", "-o", packages], check: _ => Packages());
foreach (string sample in Projects("samples"))
{
    Step($"sample {Path.GetFileNameWithoutExtension(sample)}", "dotnet", ["run", "-c", "Release", "--project", sample]);
}

Script("image", "dotnet", ["run", "scripts/image.cs"]);
Step("demo", Path.Combine(root, "wayleave"), ["demo", "--json"], check: output => Demo(output, isBroken: false));
Step(
    "demo without the gate must be caught",
    Path.Combine(root, "wayleave"),
    ["demo", "--json", "--size", "32MiB", "--break", "revoke-gate"],
    expectedExit: 1,
    check: output => Demo(output, isBroken: true));

// ---- the result ----
Console.WriteLine();
foreach (string skip in skips)
{
    Console.WriteLine($"skipped  {skip}");
}

foreach ((string what, string said) in failures)
{
    Console.WriteLine($"FAILED   {what}{InShort(said)}");
    if (said.Length != 0)
    {
        Console.WriteLine("         " + said.Replace("\n", "\n         "));
    }
}

Console.WriteLine($"{passed} passed, {failed} failed, {skipped} skipped");
return failed == 0 ? 0 : 1;

// A command that is one result. Its output is shown when it fails; `check` looks at what it printed and names what is
// wrong.
void Step(string name, string file, string[] arguments, int expectedExit = 0, Func<string, string?>? check = null)
{
    Stopwatch watch = Stopwatch.StartNew();
    (int exit, string output) = Run(file, arguments, TimeSpan.FromMinutes(15), show: false);
    string? wrong = exit != expectedExit ? $"exit {exit}, expected {expectedExit}" : check?.Invoke(output);
    if (wrong is null)
    {
        passed++;
        Console.WriteLine($"passed   {name} ({watch.Elapsed.TotalSeconds:F0} s)");
    }
    else
    {
        Console.WriteLine(output);
        Fail($"{name}: {wrong}", End(output));
    }
}

// The report of the demo says what its exit code says: nothing late, or, without the defence, late bytes in both ways.
string? Demo(string output, bool isBroken)
{
    string line = output.Split('\n').FirstOrDefault(l => l.StartsWith('{')) ?? "";
    using JsonDocument document = JsonDocument.Parse(line.Length == 0 ? "{}" : line);
    JsonElement report = document.RootElement;
    if (!report.TryGetProperty("late_writes", out JsonElement lateWrites))
    {
        return "no report on the output";
    }

    long late = lateWrites.GetInt64(), read = report.GetProperty("late_reads").GetInt64();
    if (isBroken)
    {
        return late > 0 && read > 0 ? null : $"{late} late writes and {read} late reads were found; both must be";
    }

    bool isGood = late == 0 && read == 0
        && report.GetProperty("sha256_match").GetBoolean()
        && report.GetProperty("moves").GetInt32() >= 4
        && report.GetProperty("staging_bytes").GetInt64() == 0
        && report.GetProperty("bytes_rejected_after_revoke").GetInt64() > 0
        && report.GetProperty("revoke_grade").GetString() == "Retired"
        && !report.GetProperty("key_reused").GetBoolean();
    return isGood ? null : $"the report is not that of a good run: {line}";
}

// A real kernel in an emulated machine, before the tests and alone, because it takes every processor. Its tests are
// counted where the tests read the report; what keeps the lab from running here is their reason to be skipped.
void Lab()
{
    (int exit, string output) =
        Run(Path.Combine(root, "lab", "run"), ["--all", "--json"], TimeSpan.FromMinutes(40), show: false);
    ILookup<bool, string> lines = output.Split('\n').ToLookup(
        l => l.StartsWith("{\"schema\":\"wayleave.lab/1\"", StringComparison.Ordinal));
    Console.WriteLine(string.Join('\n', lines[false]));
    string? report = lines[true].FirstOrDefault();
    if (report is null)
    {
        Fail($"the lab left no report: exit {exit}", End(output));
        return;
    }

    string file = Path.Combine(artifacts, "lab.json");
    File.WriteAllText(file, report);
    Environment.SetEnvironmentVariable("WAYLEAVE_LAB_REPORT", file);
}

// The library for C programs. Where it cannot be made, the tests that run programs over it are skipped.
void Ibverbs() => Script("library for C programs", Path.Combine(root, "scripts", "build-ibverbs"), []);

// A program of ours that exits with 3 and says why where it cannot run.
void Script(string name, string file, string[] arguments)
{
    Stopwatch watch = Stopwatch.StartNew();
    (int exit, string output) = Run(file, arguments, TimeSpan.FromMinutes(15), show: false);
    if (exit == 3)
    {
        skipped++;
        skips.Add($"{name}: {output.Trim()}");
    }
    else if (exit == 0)
    {
        passed++;
        Console.WriteLine($"passed   {name} ({watch.Elapsed.TotalSeconds:F0} s)");
    }
    else
    {
        Console.WriteLine(output);
        Fail($"{name}: exit {exit}", End(output));
    }
}

// The README's test command, as it stands there. The reports are written because the variable names a folder for them.
void Tests()
{
    Environment.SetEnvironmentVariable("WAYLEAVE_TEST_REPORTS", reports);
    (int exit, string output) = Run("dotnet", ["test"], TimeSpan.FromMinutes(45), show: true);
    Environment.SetEnvironmentVariable("WAYLEAVE_TEST_REPORTS", null);

    int before = failed, executed = 0;
    // What else is there are programs that tests run.
    foreach (string project in Projects("tests").Where(p => p.EndsWith(".Tests.csproj", StringComparison.Ordinal)))
    {
        string name = Path.GetFileNameWithoutExtension(project);
        string report = Path.Combine(reports, name + ".json");
        if (!File.Exists(report))
        {
            Fail($"{name} left no report: it did not run to its end", End(output));
            continue;
        }

        using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(report));
        foreach (JsonElement test in document.RootElement.GetProperty("results").GetProperty("tests").EnumerateArray())
        {
            string title = test.GetProperty("name").GetString()!;
            switch (test.GetProperty("status").GetString())
            {
                case "passed":
                    passed++;
                    executed++;
                    break;
                case "skipped":
                    skipped++;
                    skips.Add($"{title}: {test.GetProperty("extra").GetProperty("reason").GetString()}");
                    break;
                default:
                    executed++;
                    Fail(title, Evidence(test));
                    break;
            }
        }
    }

    if (executed == 0)
    {
        Fail("no test was executed", End(output));
    }

    if (exit != 0 && failed == before)
    {
        Fail($"dotnet test: exit {exit} although no test failed", End(output));
    }
}

string[] Projects(string folder)
{
    string path = Path.Combine(root, folder);
    return Directory.Exists(path) ? [.. Directory.GetFiles(path, "*.csproj", SearchOption.AllDirectories).Order()] : [];
}

// The libraries and nothing else: null when they are there, else what is wrong.
string? Packages()
{
    string[] expected =
        ["Wayleave.Client", "Wayleave.Core", "Wayleave.Devices", "Wayleave.Linux", "Wayleave.Simulation"];
    string[] missing = [.. expected.Where(id => Directory.GetFiles(packages, id + ".*.nupkg").Length != 1)];
    return missing.Length == 0 ? null : "no package of " + string.Join(", ", missing);
}

// What failed, and what is shown of it at the end.
void Fail(string what, string said)
{
    failed++;
    failures.Add((what, said));
    Console.WriteLine($"FAILED   {what}");
}

// What a test says of its failure, as it stands in the report: the message, in which tests put what their programs
// printed, where it was, and what it wrote besides.
string Evidence(JsonElement test)
{
    IEnumerable<string> lines = Lines(test, "message").Concat(Lines(test, "trace"));
    if (test.TryGetProperty("extra", out JsonElement extra))
    {
        lines = lines.Concat(Lines(extra, "output"));
    }

    string[] all = [.. lines];
    return string.Join('\n', all.Length <= EvidenceLines
        ? all
        : [.. all[..EvidenceLines], $"... and {all.Length - EvidenceLines} lines more"]);
}

IEnumerable<string> Lines(JsonElement from, string property) => from.TryGetProperty(property, out JsonElement text)
    ? (text.GetString() ?? "").TrimEnd().Split('\n').Where(l => l.Length != 0)
    : [];

// For who reads only the lines that begin with a verdict: how it begins, and how it ends.
string InShort(string said)
{
    string line = said.Replace("\n", " | ");
    return line.Length == 0 ? ""
        : line.Length <= 2 * ShortLength ? $": {line}"
        : $": {line[..ShortLength]} ... {line[^ShortLength..]}";
}

string End(string output)
{
    string[] all = output.TrimEnd().Split('\n');
    return string.Join('\n', all.Length <= EvidenceLines
        ? all
        : [$"{all.Length - EvidenceLines} lines, and then", .. all[^EvidenceLines..]]);
}

(int Exit, string Output) Run(string file, string[] arguments, TimeSpan limit, bool show)
{
    Console.WriteLine($"$ {file} {string.Join(' ', arguments)}");
    ProcessStartInfo info = new(file, arguments)
    {
        WorkingDirectory = root,
        RedirectStandardInput = true,
        RedirectStandardOutput = true,
        RedirectStandardError = true,
    };
    using Process process = Process.Start(info)!;
    process.StandardInput.Close();
    List<string> lines = [];
    void Take(string? line)
    {
        if (line is null)
        {
            return;
        }

        lock (lines)
        {
            lines.Add(line);
            if (show)
            {
                Console.WriteLine(line);
            }
        }
    }

    process.OutputDataReceived += (_, e) => Take(e.Data);
    process.ErrorDataReceived += (_, e) => Take(e.Data);
    process.BeginOutputReadLine();
    process.BeginErrorReadLine();
    if (!process.WaitForExit(limit))
    {
        process.Kill(entireProcessTree: true);
        Take($"killed: it ran longer than {limit.TotalMinutes:F0} minutes");
    }

    process.WaitForExit();
    lock (lines)
    {
        return (process.ExitCode, string.Join('\n', lines));
    }
}
