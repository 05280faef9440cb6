using System.CommandLine;
using System.Text.Json.Serialization;
using Wayleave.Cli.Output;
using Wayleave.Linux;
using Wayleave.Linux.Facilities;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave doctor</c>: what of this machine Wayleave can use, and what to do about the rest.</summary>
internal static class DoctorCommand
{
    public static Command Create()
    {
        Option<string> root = new("--root")
        {
            Description = "The folder that holds sys, proc and dev",
            HelpName = "DIR",
            DefaultValueFactory = _ => "/",
        };
        Command command = new("doctor", "Print what this machine offers: present, absent or denied, and the remedy")
        {
            root,
        };
        command.SetAction(parsed =>
        {
            CommandContext context = new(parsed);
            IReadOnlyList<Facility> facilities = new FacilitySurvey(parsed.GetValue(root)!).Look();
            Print(context, facilities);
            return ExitCode.Done;
        });
        return command;
    }

    private static void Print(CommandContext context, IReadOnlyList<Facility> facilities)
    {
        if (context.IsJson)
        {
            context.WriteJson(DoctorDocument.Of(facilities), DoctorJson.Default.DoctorDocument);
            return;
        }

        TablePrinter table = new("AREA", "FACILITY", "STATE", "FOUND");
        foreach (Facility facility in facilities)
        {
            table.Add(facility.Area, facility.Name, DoctorDocument.Word(facility.State), facility.Found);
        }

        table.WriteTo(context.Out);
        Facility[] remedies = [.. facilities.Where(f => f.Remedy is not null)];
        if (remedies.Length == 0)
        {
            return;
        }

        context.Out.WriteLine();
        TablePrinter what = new("FACILITY", "WHAT CAN BE DONE");
        foreach (Facility facility in remedies)
        {
            what.Add(facility.Name, facility.Remedy!);
        }

        what.WriteTo(context.Out);
    }
}

/// <summary>What <c>wayleave doctor --json</c> prints.</summary>
internal sealed record DoctorDocument
{
    public string Schema { get; init; } = "wayleave.doctor.v1";

    public required uint UserId { get; init; }

    public required IReadOnlyList<DoctorFacility> Facilities { get; init; }

    public static DoctorDocument Of(IReadOnlyList<Facility> facilities) => new()
    {
        UserId = FileStatus.CurrentUserId,
        Facilities = [.. facilities.Select(f => new DoctorFacility(f.Area, f.Name, Word(f.State), f.Found, f.Remedy))],
    };

    public static string Word(FacilityState state) => state switch
    {
        FacilityState.Present => "present",
        FacilityState.Absent => "absent",
        _ => "denied",
    };
}

/// <summary>One facility; <c>state</c> is present, absent or denied.</summary>
internal sealed record DoctorFacility(string Area, string Name, string State, string Found, string? Remedy);

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(DoctorDocument))]
internal sealed partial class DoctorJson : JsonSerializerContext;
