using System.Text;

namespace Wayleave.Host.Configuration;

/// <summary>
/// A NIC of the kernel that this host may bind memory to: <c>{ "interface": "eth0" }</c>. Whoever may use the host may
/// then have payload of its queues placed in memory of the host's GPUs.
/// </summary>
public sealed record LinuxNicConfig
{
    private const int InterfaceNameBytesMax = 15;

    /// <summary>What the host calls it; by default as the kernel does.</summary>
    public required string Name { get; init; }

    /// <summary>As the kernel names it; it need not be there yet.</summary>
    public required string Interface { get; init; }

    /// <inheritdoc cref="NicConfig.Function"/>
    public string? Function { get; init; }

    internal void Validate(List<ConfigProblem> problems, string path)
    {
        if (Interface.Length == 0
            || Encoding.UTF8.GetByteCount(Interface) > InterfaceNameBytesMax
            || Interface.AsSpan().ContainsAny("/: \t\n"))
        {
            problems.Add(new ConfigProblem(path + ".interface", $"'{Interface}' is no name of a network interface"));
        }
    }
}
