using Wayleave.Core;

namespace Wayleave.Host.Configuration;

/// <summary>One thing that is wrong with a configuration.</summary>
/// <param name="Where">
/// The value's path in the file (<c>nics[0].udp_port</c>), or the option or variable it came from.
/// </param>
/// <param name="Message">What is wrong and what is allowed.</param>
public readonly record struct ConfigProblem(string Where, string Message)
{
    public override string ToString() => $"{Where}: {Message}";
}

/// <summary>A configuration cannot be used. Carries every problem that was found, not only the first.</summary>
public sealed class ConfigurationException : WayleaveException
{
    public ConfigurationException(IReadOnlyList<ConfigProblem> problems)
        : base(Errno.EINVAL, "configuration", string.Join("; ", problems)) => Problems = problems;

    public IReadOnlyList<ConfigProblem> Problems { get; }
}
