namespace Wayleave.Lab.Machine;

/// <summary>How a program ended and what it printed.</summary>
internal readonly record struct ToolResult(int ExitCode, string Output, string Error)
{
    /// <summary>The last lines of what it complained about, to be shown to the user.</summary>
    internal string Complaint => string.Join("; ", (Error.Trim().Length > 0 ? Error : Output)
        .Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).TakeLast(3));
}
