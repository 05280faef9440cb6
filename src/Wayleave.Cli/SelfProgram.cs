using System.Diagnostics;

namespace Wayleave.Cli;

/// <summary>This program again, in a process of its own.</summary>
internal static class SelfProgram
{
    /// <summary>
    /// How to start it: its own executable, or, when this process is <c>dotnet wayleave.dll</c>, the runtime with that.
    /// </summary>
    public static ProcessStartInfo With(params string[] arguments)
    {
        string program = Environment.ProcessPath!;
        bool isRuntime = Path.GetFileNameWithoutExtension(program) == "dotnet";
        return new ProcessStartInfo(
            program, isRuntime ? [Path.Combine(AppContext.BaseDirectory, "wayleave.dll"), .. arguments] : arguments);
    }
}
