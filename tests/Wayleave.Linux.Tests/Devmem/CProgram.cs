using System.ComponentModel;
using System.Diagnostics;
using Xunit;

namespace Wayleave.Linux.Tests.Devmem;

/// <summary>Small programs in C that say how the compiler and the installed headers lay something out.</summary>
internal static class CProgram
{
    /// <summary>Compiles and runs; skips without a compiler.</summary>
    /// <returns>What it wrote.</returns>
    public static string Run(string source)
    {
        DirectoryInfo folder = Directory.CreateTempSubdirectory("wayleave-c-");
        try
        {
            string program = Path.Combine(folder.FullName, "program");
            Start("gcc", $"-x c -Wall -Werror -o {program} -", source);
            return Start(program, "", null);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static string Start(string program, string arguments, string? input)
    {
        ProcessStartInfo start = new(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (Win32Exception)
        {
            Assert.Skip($"no {program}");
            return "";
        }

        using (process)
        {
            Task<string> errors = process.StandardError.ReadToEndAsync();
            process.StandardInput.Write(input);
            process.StandardInput.Close();
            string output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            Assert.True(process.ExitCode == 0, errors.GetAwaiter().GetResult());
            return output;
        }
    }
}
