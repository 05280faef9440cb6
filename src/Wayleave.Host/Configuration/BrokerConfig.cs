using System.Text;
using Wayleave.Host.Broker;

namespace Wayleave.Host.Configuration;

/// <summary>The broker: which programs of this machine share the devices, and how much each may have.</summary>
public sealed record BrokerConfig
{
    internal const int SocketPathBytesMax = 107; // sun_path is 108 bytes with its final zero

    /// <summary>
    /// The Unix socket; null for NAME.broker.sock in the runtime directory, <see cref="ControlConfig.None"/> for none.
    /// </summary>
    public string? SocketPath { get; init; }

    /// <summary>Users besides this one and root who may connect, by number.</summary>
    public IReadOnlyList<uint> Users { get; init; } = [];

    /// <summary>What one program may have.</summary>
    public BrokerLimits Limits { get; init; } = new();

    internal void Validate(List<ConfigProblem> problems)
    {
        if (SocketPath is { } path && path != ControlConfig.None
            && (!Path.IsPathFullyQualified(path) || Encoding.UTF8.GetByteCount(path) > SocketPathBytesMax))
        {
            problems.Add(new ConfigProblem(
                "broker.socket", $"'{path}' is not an absolute path of at most {SocketPathBytesMax} bytes"));
        }

        if (Users.Count > 0 && SocketPath is null)
        {
            problems.Add(new ConfigProblem(
                "broker.users", "other users do not reach the runtime directory; give a socket that they do"));
        }

        if (Limits.BytesMax is 0 or > long.MaxValue)
        {
            problems.Add(new ConfigProblem("broker.bytes_per_program_max", "a program needs at least one page"));
        }

        if (Limits.QuarantinedBytesMax is 0 or > long.MaxValue)
        {
            problems.Add(new ConfigProblem(
                "broker.quarantined_bytes_per_program_max", "a program needs at least one page"));
        }

        foreach ((string key, int value) in new[]
        {
            ("buffers", Limits.BuffersMax), ("descriptors", Limits.DescriptorsMax), ("mappings", Limits.MappingsMax),
            ("connections", Limits.ConnectionsMax), ("keys", Limits.KeysMax),
            ("queue_pairs", Limits.QueuePairsMax), ("queues", Limits.QueuesMax), ("jobs", Limits.JobsMax),
        })
        {
            if (value is < 1 or > 1 << 20)
            {
                problems.Add(new ConfigProblem(
                    $"broker.{key}_per_program_max", $"{value} is out of range; allowed are 1 to {1 << 20}"));
            }
        }
    }
}
