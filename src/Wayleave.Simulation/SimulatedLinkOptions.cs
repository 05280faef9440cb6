namespace Wayleave.Simulation;

/// <summary>
/// How a <see cref="SimulatedLink{TAddress}"/> treats a datagram. The default delivers everything at once and in order.
/// </summary>
public sealed record SimulatedLinkOptions
{
    /// <summary>Datagrams lost, in a thousand.</summary>
    public int LossPerMille { get; init; }

    /// <summary>Datagrams that arrive twice, in a thousand.</summary>
    public int DuplicationPerMille { get; init; }

    /// <summary>Datagrams held back so that later ones overtake them, in a thousand.</summary>
    public int ReorderingPerMille { get; init; }

    /// <summary>Datagrams that arrive with one bit flipped, in a thousand.</summary>
    public int CorruptionPerMille { get; init; }

    /// <summary>From sending to arrival.</summary>
    public TimeSpan Delay { get; init; }

    /// <summary>
    /// Up to this much is added to the delay of each datagram, in steps of a microsecond. Without reordering a datagram
    /// still waits for the one before it.
    /// </summary>
    public TimeSpan Jitter { get; init; }

    /// <summary>How long a reordered datagram is held back beyond its time.</summary>
    public TimeSpan ReorderingDelay { get; init; } = TimeSpan.FromMicroseconds(100);

    /// <summary>
    /// Faults after which the link behaves, so that a search over all of them ends. Each loss, duplicate, reordering
    /// and corruption counts as one.
    /// </summary>
    public int FaultLimit { get; init; } = int.MaxValue;

    /// <summary>Datagrams under way to one endpoint; the next is lost, as in a full socket buffer.</summary>
    public int QueueDatagrams { get; init; } = 4096;

    /// <summary>Throws one exception that names every option out of its range.</summary>
    /// <exception cref="ArgumentException">At least one is.</exception>
    public void Validate()
    {
        List<string> problems = [];
        Rate(LossPerMille, nameof(LossPerMille));
        Rate(DuplicationPerMille, nameof(DuplicationPerMille));
        Rate(ReorderingPerMille, nameof(ReorderingPerMille));
        Rate(CorruptionPerMille, nameof(CorruptionPerMille));
        AtLeast(Delay, TimeSpan.Zero, nameof(Delay));
        AtLeast(Jitter, TimeSpan.Zero, nameof(Jitter));
        AtLeast(ReorderingDelay, TimeSpan.Zero, nameof(ReorderingDelay));
        AtLeast(FaultLimit, 0, nameof(FaultLimit));
        AtLeast(QueueDatagrams, 1, nameof(QueueDatagrams));
        if (problems.Count > 0)
        {
            throw new ArgumentException("the link's options are wrong: " + string.Join("; ", problems));
        }

        void Rate(int value, string name)
        {
            if (value is < 0 or > 1000)
            {
                problems.Add($"{name} is {value}, not within 0 to 1000");
            }
        }

        void AtLeast<T>(T value, T least, string name)
            where T : IComparable<T>
        {
            if (value.CompareTo(least) < 0)
            {
                problems.Add($"{name} is {value}, below {least}");
            }
        }
    }
}
