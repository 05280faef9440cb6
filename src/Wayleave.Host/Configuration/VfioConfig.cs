using System.Globalization;
using Wayleave.Core.Topology;

namespace Wayleave.Host.Configuration;

/// <summary>
/// A function in the hands of VFIO: memory BARs whose parts are objects, and that a reset takes back.
/// </summary>
public sealed record VfioConfig
{
    public string Name { get; init; } = "vfio0";

    /// <summary>One or more, each with another number.</summary>
    public IReadOnlyList<VfioBarConfig> Bars { get; init; } = [new VfioBarConfig()];

    /// <summary>How long a reset waits for importers before its proofs name who is late; it goes on waiting.</summary>
    public TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(5);

    /// <inheritdoc cref="NicConfig.Function"/>
    public string? Function { get; init; }

    internal void Validate(List<ConfigProblem> problems, string path)
    {
        if (Bars.Count == 0)
        {
            problems.Add(new ConfigProblem(path + ".bars", "a function without memory has nothing to share"));
        }

        if (Patience <= TimeSpan.Zero || Patience > TimeSpan.FromHours(1))
        {
            problems.Add(new ConfigProblem(
                path + ".patience_ms",
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"{Patience.TotalMilliseconds} is out of range; allowed are 1 to 3600000")));
        }

        for (int i = 0; i < Bars.Count; i++)
        {
            string bar = string.Create(CultureInfo.InvariantCulture, $"{path}.bars[{i}]");
            Bars[i].Validate(problems, bar);
            if (Bars.Take(i).Any(b => b.Index == Bars[i].Index))
            {
                problems.Add(new ConfigProblem(bar + ".index", $"BAR {Bars[i].Index} is there twice"));
            }
        }
    }
}

/// <summary>A memory BAR of a function in the hands of VFIO.</summary>
public sealed record VfioBarConfig
{
    /// <summary>The largest BAR: one window.</summary>
    public const long SizeBytesMax = 1L << 30;

    /// <summary>0 to 5.</summary>
    public int Index { get; init; }

    /// <summary>A power of two of 4 KiB to <see cref="SizeBytesMax"/>.</summary>
    public long SizeBytes { get; init; } = 64L << 20;

    internal void Validate(List<ConfigProblem> problems, string path)
    {
        if (Index is < 0 or >= PciFunction.BarCountMax)
        {
            problems.Add(new ConfigProblem(
                path + ".index", $"{Index} is not a BAR; they are 0 to {PciFunction.BarCountMax - 1}"));
        }

        if (SizeBytes is < 4096 or > SizeBytesMax || !long.IsPow2(SizeBytes))
        {
            string allowed = $"a power of two of 4KiB to {ByteSize.ToText(SizeBytesMax)}";
            problems.Add(new ConfigProblem(path + ".size_bytes", $"{SizeBytes} is not allowed; give {allowed}"));
        }
    }
}
