using System.ComponentModel;
using System.Diagnostics;

namespace Wayleave.Lab.Machine;

/// <summary>Runs a program of the host to its end.</summary>
internal static class Tool
{
    /// <summary>
    /// Where PATH, or the administrator's folders that a user's PATH may lack, have the program; else null.
    /// </summary>
    internal static string? Find(string name) =>
        $"{Environment.GetEnvironmentVariable("PATH")}:/usr/local/sbin:/usr/sbin:/sbin".Split(':')
            .Where(folder => folder.Length > 0)
            .Select(folder => Path.Combine(folder, name))
            .FirstOrDefault(File.Exists);

    /// <summary>Runs it and takes what it printed, both streams apart.</summary>
    /// <exception cref="LabException">There is no such program.</exception>
    internal static ToolResult Run(
        string file, IEnumerable<string> arguments, IReadOnlyDictionary<string, string>? environment = null,
        string? folder = null)
    {
        ProcessStartInfo info = new(file, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = folder ?? "",
        };
        foreach ((string name, string value) in environment ?? new Dictionary<string, string>())
        {
            info.Environment[name] = value;
        }

        try
        {
            using Process process = Process.Start(info)!;
            process.StandardInput.Close();
            Task<string> errors = process.StandardError.ReadToEndAsync();
            string output = process.StandardOutput.ReadToEnd();
            string error = errors.GetAwaiter().GetResult();
            process.WaitForExit();
            return new ToolResult(process.ExitCode, output, error);
        }
        catch (Win32Exception e)
        {
            throw new LabException(ExitCodes.NotSupported, $"{file}: {e.Message}", "the lab needs a Debian system");
        }
    }
}
