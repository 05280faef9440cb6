using System.Globalization;
using System.Text.Json;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Output;

/// <summary>What a host does as lines of text: totals first, then devices, quarantine and holders.</summary>
internal static class ActivityView
{
    /// <summary>The lines of one frame.</summary>
    /// <param name="now">What is shown.</param>
    /// <param name="before">The sample before it, from which rates follow; null for the first, which has none.</param>
    public static IReadOnlyList<string> Render(ActivityDocument now, ActivityDocument? before)
    {
        ArgumentNullException.ThrowIfNull(now);
        using StringWriter text = new(CultureInfo.InvariantCulture);
        RetirementsDocument retirements = now.Retirements;
        TimeSpan uptime = TimeSpan.FromMicroseconds(now.UptimeUs);
        text.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"host {now.Host}, up {(int)uptime.TotalHours}:{uptime.Minutes:00}:{uptime.Seconds:00}, "
            + $"{now.Holders.Count} holders, staged {ByteSize.Format(now.StagingBytes)}"));
        string grades = string.Concat(retirements.Grades.Select(g => $", {g.Key} {g.Value}"));
        text.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"revokes {retirements.Revokes}{grades}; under way {retirements.InProgress}, "
            + $"in quarantine {now.Quarantine.Count}, released late {retirements.ReleasedLate}"));
        text.WriteLine();
        WriteDevices(text, now, before);
        WriteQuarantine(text, now.Quarantine);
        WritePrograms(text, now.Programs);
        WriteHolders(text, now.Holders);
        return text.ToString().TrimEnd('\n').Split('\n');
    }

    private static void WriteDevices(StringWriter text, ActivityDocument now, ActivityDocument? before)
    {
        double seconds = before is null ? 0 : (now.UptimeUs - before.UptimeUs) / 1e6;
        Dictionary<string, DeviceActivityDocument> earlier =
            before?.Devices.ToDictionary(d => d.Name, StringComparer.Ordinal) ?? [];
        TablePrinter table = new(
            "DEVICE", "TYPE", ">MEMORY", ">USED", ">QUARANTINED", ">IN/S", ">OUT/S", ">FAULTS/S", ">MOVES", "STATE");
        foreach (DeviceActivityDocument device in now.Devices)
        {
            DeviceActivityDocument? was = earlier.GetValueOrDefault(device.Name);
            table.Add(
                device.Name,
                device.Type,
                Size(device.MemoryTotalBytes),
                Size(device.MemoryUsedBytes),
                Size(device.MemoryQuarantinedBytes),
                Rate(device.InBytes, was?.InBytes, seconds) is { } input ? ByteSize.Format(input) : "-",
                Rate(device.OutBytes, was?.OutBytes, seconds) is { } output ? ByteSize.Format(output) : "-",
                Rate(device.Faults, was?.Faults, seconds) is { } faults ? Number(faults) : "-",
                device.Moves is { } moves ? Number(moves) : "-",
                device.Failure ?? "ok");
        }

        table.WriteTo(text);
    }

    private static void WriteQuarantine(StringWriter text, IReadOnlyList<QuarantinedDocument> quarantine)
    {
        if (quarantine.Count == 0)
        {
            return;
        }

        text.WriteLine();
        TablePrinter table = new("QUARANTINED", ">ID", ">SIZE", "GRADE", "WAITS FOR");
        foreach (QuarantinedDocument o in quarantine)
        {
            table.Add(
                $"{o.Device}/{o.ObjectName}",
                o.Id.ToString(CultureInfo.InvariantCulture),
                ByteSize.Format(o.SizeBytes),
                o.Grade.ToString(),
                o.WaitsFor.Count == 0 ? "a fence" : string.Join(", ", o.WaitsFor));
        }

        table.WriteTo(text);
    }

    private static void WritePrograms(StringWriter text, IReadOnlyList<ProgramDocument> programs)
    {
        if (programs.Count == 0)
        {
            return;
        }

        text.WriteLine();
        TablePrinter table = new(
            "PROGRAM", ">PID", ">USER", ">MEMORY", ">QUARANTINED", ">BUFFERS", ">MAPPED", ">DESCRIPTORS", ">KEYS",
            ">JOBS", "STATE");
        foreach (ProgramDocument program in programs)
        {
            table.Add(
                program.Name,
                program.ProcessId.ToString(CultureInfo.InvariantCulture),
                program.UserId.ToString(CultureInfo.InvariantCulture),
                ByteSize.Format((ulong)Of("bytes")),
                ByteSize.Format((ulong)Of("quarantined_bytes")),
                Number(Of("buffers")),
                Number(Of("mappings")),
                Number(Of("descriptors")),
                Number(Of("keys")),
                Number(Of("jobs")),
                program.Dead ? "dead" : "live");

            long Of(string account) => program.Accounts.GetValueOrDefault(account);
        }

        table.WriteTo(text);
    }

    private static void WriteHolders(StringWriter text, IReadOnlyList<HolderDocument> holders)
    {
        if (holders.Count == 0)
        {
            return;
        }

        text.WriteLine();
        TablePrinter table = new("HOLDER", "KIND", ">ID", "OBJECT", ">SIZE", "ACCESS", "REGION", "STATE");
        foreach (HolderDocument holder in holders)
        {
            table.Add(
                holder.Holder,
                ToWord(holder.Kind),
                holder.Id == 0 ? "-" : holder.Id.ToString(CultureInfo.InvariantCulture),
                holder.ObjectName.Length == 0 ? holder.Device : $"{holder.Device}/{holder.ObjectName}",
                holder.SizeBytes == 0 ? "-" : ByteSize.Format(holder.SizeBytes),
                holder.Access is { } access ? ToWord(access) : holder.Kind == HoldKind.Transfer ? "read" : "-",
                holder.Region is { } region ? ToWord(region) : "-",
                holder.Ending ? "ending" : "live");
        }

        table.WriteTo(text);
    }

    // A device that was replaced under its name between two samples counts from zero again: that is no rate.
    private static double? Rate(long? now, long? before, double seconds) =>
        seconds > 0 && now >= before ? (now - before) / seconds : null;

    private static string Size(ulong? bytes) => bytes is { } b ? ByteSize.Format(b) : "-";

    private static string Number(double value) => value.ToString("F0", CultureInfo.InvariantCulture);

    private static string ToWord<T>(T value)
        where T : struct, Enum => JsonNamingPolicy.SnakeCaseLower.ConvertName(value.ToString());
}
