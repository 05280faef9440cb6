using System.Diagnostics;

namespace Wayleave.Linux.Tests.Lab;

/// <summary>The program behind <c>lab/run</c>, as it was built beside these tests.</summary>
internal static class LabProcess
{
    internal static (int ExitCode, string Output, string Error) Run(params string[] arguments) =>
        RunWith(new Dictionary<string, string>(), arguments);

    internal static (int ExitCode, string Output, string Error) RunWith(
        IReadOnlyDictionary<string, string> environment, params string[] arguments)
    {
        string program = Path.Combine(AppContext.BaseDirectory, "wayleave-lab.dll");
        ProcessStartInfo info = new("dotnet", [program, .. arguments])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach ((string name, string value) in environment)
        {
            info.Environment[name] = value;
        }

        using Process process = Process.Start(info)!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        string complaint = error.GetAwaiter().GetResult();
        process.WaitForExit();
        return (process.ExitCode, output, complaint);
    }
}
