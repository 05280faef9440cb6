using System.Globalization;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// What <c>/proc/pressure/cpu</c> says: for how long, since the machine was started, some program was ready to run and
/// no processor was free for it. A limit in seconds is a promise about a machine that has a processor for the program.
/// </summary>
internal static class ProcessorPressure
{
    private const string Path = "/proc/pressure/cpu";

    /// <summary>The kernel may be behind by this: it adds up its processors' times every two seconds.</summary>
    public static TimeSpan Lag { get; } = TimeSpan.FromSeconds(2.1);

    /// <summary>Zero for ever where the kernel does not tell.</summary>
    public static TimeSpan Read()
    {
        const string Key = "total=";
        string? some = File.Exists(Path)
            ? File.ReadLines(Path).FirstOrDefault(l => l.StartsWith("some ", StringComparison.Ordinal))
            : null;
        int at = some?.IndexOf(Key, StringComparison.Ordinal) ?? -1;
        return at < 0
            ? TimeSpan.Zero
            : TimeSpan.FromMicroseconds(long.Parse(some.AsSpan(at + Key.Length), CultureInfo.InvariantCulture));
    }
}
