namespace Wayleave.Lab.Guests;

/// <summary>The programs that run inside the guest: <c>$LAB NAME ARGUMENT...</c> in a test's script.</summary>
internal static class GuestPrograms
{
    private static readonly Dictionary<string, Func<string[], int>> s_programs = new()
    {
        ["boot"] = BootReport.Run,
        ["dmabuf"] = DmaBufCases.Run,
        ["p2p"] = PeerToPeer.Run,
    };

    /// <summary>Runs one of them and gives its exit code.</summary>
    internal static int Run(string[] arguments)
    {
        if (arguments is [string name, .. string[] rest]
            && s_programs.TryGetValue(name, out Func<string[], int>? program))
        {
            return program(rest);
        }

        Console.Error.WriteLine($"lab guest: one of {string.Join(' ', s_programs.Keys)}");
        return ExitCodes.Usage;
    }
}
