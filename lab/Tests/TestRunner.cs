using System.Diagnostics;
using System.Text;
using System.Text.Json;
using Wayleave.Lab.Machine;
using Wayleave.Lab.Packages;

namespace Wayleave.Lab.Tests;

/// <summary>Runs tests one after the other: each boots, runs, and is compared with its record.</summary>
internal sealed class TestRunner(LabCache cache, string root, TestRunnerOptions options, Action<string> say)
{
    /// <summary>Runs one test. What keeps the lab from running at all makes it skipped, with the reason.</summary>
    internal LabOutcome Run(LabTest test, CancellationToken cancellation)
    {
        Stopwatch watch = Stopwatch.StartNew();
        StringBuilder detail = new();
        LabOutcome End(string status, string reason) =>
            new(test.Name, status, reason, detail.ToString(), watch.Elapsed);
        string share = Directory.CreateTempSubdirectory("wayleave-lab.").FullName;
        try
        {
            if (test.Network && HostNetwork.Missing() is string why)
            {
                return End(LabOutcome.Skipped, why);
            }

            (KernelImage kernel, ToolLayer tools, ToolLayer extra) =
                Lab.Open(cache, test.Packages, refresh: false, say);
            Guest guest = new(cache, kernel, tools, extra);
            List<string> records = [];
            foreach (LabBoot boot in test.Boots)
            {
                string folder = Directory.CreateDirectory(Path.Combine(share, boot.Name)).FullName;
                GuestOptions machine = test.Options(boot, Lab.Environment(root, test.Folder));
                machine = machine with { TimeLimit = options.TimeLimit ?? machine.TimeLimit };
                GuestResult result = guest.Run(
                    machine, "bash " + Shell.Quote(test.GuestScript), folder, Beside(test, folder), echo: null,
                    cancellation);
                string again = result.Boots == 1
                    ? ""
                    : $", started {result.Boots} times: the emulator crashed its kernel";
                detail.Append($"--- {test.Name}, {boot.Name}: {result.Elapsed.TotalSeconds:F1} s{again}\n")
                    .Append(result.Output).Append(result.Error);
                (string status, string reason) = Judge(test, boot, result, folder, detail);
                if (status != LabOutcome.Passed)
                {
                    return End(status, reason);
                }

                records.AddRange(RecordFile.ReadLines(Path.Combine(folder, "records.jsonl")));
            }

            string? different = Hold(test, kernel, records, detail);
            return different is null ? End(LabOutcome.Passed, "") : End(LabOutcome.Failed, different);
        }
        catch (LabException e) when (e.ExitCode == ExitCodes.NotSupported)
        {
            return End(LabOutcome.Skipped, e.Message.Replace("\n  ", "; ", StringComparison.Ordinal));
        }
        finally
        {
            if (options.Keep)
            {
                say($"kept {share}");
            }
            else
            {
                PackageTree.Delete(share);
            }
        }
    }

    private static string? Beside(LabTest test, string share) => test.HostScript is not string script
        ? null
        : $"export LAB={Shell.Quote(Lab.Program)} LAB_SHARE={Shell.Quote(share)} LAB_HOST={HostNetwork.HostAddress} "
            + $"LAB_GUEST={HostNetwork.GuestAddress}; bash {Shell.Quote(script)}";

    private static (string Status, string Reason) Judge(
        LabTest test, LabBoot boot, GuestResult result, string folder, StringBuilder detail)
    {
        string where = test.Boots.Count > 1 ? $"{boot.Name}: " : "";
        if (result.ExitCode is not int code)
        {
            detail.Append(result.Console);
            return (LabOutcome.Failed, $"{where}the machine ended without saying how the test did");
        }

        if (result.TimedOut)
        {
            detail.Append(result.Console);
            return (LabOutcome.Failed, $"{where}stopped after {result.Elapsed.TotalSeconds:F0} s, the time limit");
        }

        string last = (result.Output + result.Error).Trim().Split('\n')[^1];
        if (code != 0)
        {
            detail.Append(result.Console);
            return code == ExitCodes.Skip
                ? (LabOutcome.Skipped, where + last)
                : (LabOutcome.Failed, $"{where}exit {code}: {last}");
        }

        string log = Path.Combine(folder, "beside.log");
        if (test.HostScript is not null)
        {
            string said = File.Exists(log) ? File.ReadAllText(log) : "";
            string its = File.Exists(log + ".exit") ? File.ReadAllText(log + ".exit").Trim() : "";
            detail.Append("host.sh: ").Append(said);
            if (its != "0")
            {
                return (LabOutcome.Failed, $"{where}host.sh {(its.Length == 0 ? "did not end" : "exit " + its)}: "
                    + said.Trim().Split('\n')[^1]);
            }
        }

        return (LabOutcome.Passed, "");
    }

    // Null when the guest saw what is recorded, or when the record is what was asked for.
    private string? Hold(LabTest test, KernelImage kernel, List<string> records, StringBuilder detail)
    {
        if (test.Record is null)
        {
            return null;
        }

        if (records.Count == 0)
        {
            return "it wrote no records";
        }

        string path = Path.Combine(root, test.Record);
        if (options.Record)
        {
            RecordFile.Write(path, test.Schema ?? "wayleave.lab/1", kernel.Version, records);
            say($"recorded {records.Count} records in {test.Record}");
            return null;
        }

        IReadOnlyList<string> differences;
        try
        {
            differences = RecordFile.Compare(RecordFile.Read(path), records);
        }
        catch (JsonException e)
        {
            return $"{test.Record}: {e.Message}";
        }

        foreach (string line in differences)
        {
            detail.Append(line).Append('\n');
        }

        return differences.Count == 0
            ? null
            : $"{differences.Count} lines differ from {test.Record}: "
                + $"if it is the kernel that changed, lab/run {test.Name} --record";
    }
}
