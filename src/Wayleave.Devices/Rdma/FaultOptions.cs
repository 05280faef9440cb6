namespace Wayleave.Devices.Rdma;

/// <summary>
/// Faults that a port inflicts on itself, for testing what runs over it: nothing here that a real path or a legal peer
/// could not do. The same seed makes the same faults for the same packets.
/// </summary>
public sealed record FaultOptions
{
    public ulong Seed { get; init; } = 1;

    /// <summary>Packets lost on arrival, in a thousand.</summary>
    public int LossPerMille { get; init; }

    /// <summary>Packets that arrive twice, in a thousand.</summary>
    public int DuplicationPerMille { get; init; }

    /// <summary>Packets that arrive with one bit flipped, in a thousand.</summary>
    public int CorruptionPerMille { get; init; }

    /// <summary>Packets held back by <see cref="HoldTime"/>, so that later ones overtake them, in a thousand.</summary>
    public int ReorderingPerMille { get; init; }

    /// <summary>How long a packet is held back.</summary>
    public TimeSpan HoldTime { get; init; } = TimeSpan.FromMicroseconds(100);

    /// <summary>Every packet is held back that long; zero for none.</summary>
    public TimeSpan Delay { get; init; }

    /// <summary>
    /// A message that takes a receive is refused with an RNR NAK first, as if none were posted, in a thousand.
    /// </summary>
    public int NotReadyPerMille { get; init; }

    /// <summary>How often the same message is refused in a row.</summary>
    public int NotReadyBurst { get; init; } = 1;

    /// <summary>
    /// The freedom of the specification, used up: 5 % of the packets are lost and as many duplicated or overtaken,
    /// every third message finds no receive at first, twice.
    /// </summary>
    public static FaultOptions HostileButLegal(ulong seed) => new()
    {
        Seed = seed,
        LossPerMille = 50,
        DuplicationPerMille = 50,
        ReorderingPerMille = 50,
        NotReadyPerMille = 333,
        NotReadyBurst = 2,
    };

    internal void Validate(List<string> problems)
    {
        (string Name, int Value)[] rates =
        [
            (nameof(LossPerMille), LossPerMille), (nameof(DuplicationPerMille), DuplicationPerMille),
            (nameof(CorruptionPerMille), CorruptionPerMille), (nameof(ReorderingPerMille), ReorderingPerMille),
            (nameof(NotReadyPerMille), NotReadyPerMille),
        ];
        foreach ((string name, int value) in rates)
        {
            if (value is < 0 or > 1000)
            {
                problems.Add($"{name} must be 0 to 1000, not {value}");
            }
        }

        if (HoldTime < TimeSpan.Zero || Delay < TimeSpan.Zero || NotReadyBurst < 1)
        {
            problems.Add("times of faults must not be negative, and a burst is at least 1");
        }
    }
}
