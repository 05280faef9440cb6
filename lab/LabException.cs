namespace Wayleave.Lab;

/// <summary>
/// What keeps the lab from doing what it was asked, as the user reads it: what is wrong, and what helps.
/// </summary>
internal sealed class LabException : Exception
{
    internal LabException(int exitCode, string message, string? remedy = null)
        : base(remedy is null ? message : $"{message}\n  {remedy}") => ExitCode = exitCode;

    /// <summary>One of <see cref="ExitCodes"/>.</summary>
    internal int ExitCode { get; }
}
