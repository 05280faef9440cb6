using System.Text.Json.Nodes;
using Wayleave.Linux.Facilities;

namespace Wayleave.Lab.Guests;

/// <summary>
/// What <c>wayleave doctor</c> finds in the guest: a record of each facility and its state. The words beside the state
/// are printed and not recorded, because they hold what differs from run to run.
/// </summary>
internal static class DoctorReport
{
    /// <summary>The argument says as whom it runs, for the records.</summary>
    internal static int Run(string[] arguments)
    {
        if (arguments is not [string user])
        {
            return ExitCodes.Usage;
        }

        Records records = new();
        foreach (Facility facility in new FacilitySurvey().Look())
        {
            records.Add(new JsonObject
            {
                ["user"] = user,
                ["facility"] = facility.Name,
                ["state"] = facility.State.ToString().ToLowerInvariant(),
                ["has_remedy"] = facility.Remedy is not null,
            });
            Console.WriteLine($"  {facility.Found}");
        }

        return ExitCodes.Done;
    }
}
