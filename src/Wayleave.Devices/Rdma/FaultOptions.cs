using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>Which packets a path's faults hit.</summary>
[Flags]
public enum FaultDirections
{
    None = 0,
    Arriving = 1,
    Departing = 2,
    Both = Arriving | Departing,
}

/// <summary>
/// Faults that a port inflicts on itself, for testing what runs over it: nothing here that a real path or a legal peer
/// could not do. The same seed makes the same faults for the same packets.
/// </summary>
public sealed partial record FaultOptions
{
    public ulong Seed { get; init; } = 1;

    /// <summary>Which packets are lost, doubled, damaged, overtaken and late.</summary>
    public FaultDirections Directions { get; init; } = FaultDirections.Arriving;

    /// <summary>Packets lost, in a thousand.</summary>
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
    /// Acknowledgements offer no end-to-end credit, where they otherwise say that credits are not counted (AETH,
    /// roce.md A1): a peer that counts them sends one message and waits for its answer before the next.
    /// </summary>
    public bool OffersNoCredits { get; init; }

    /// <summary>How long a region that must be mapped first waits before anybody begins to map it.</summary>
    public TimeSpan MapLatency { get; init; }

    /// <summary>
    /// The WRITE whose packet reaches this many bytes, counted over all that peers write here, finds its key dead, as
    /// behind a revoke: that packet is answered with NAK 0x62 and not placed. Null for never. Once.
    /// </summary>
    public long? RevokeAtByte { get; init; }

    /// <summary>
    /// Each queue pair fails, by the peer's view with a remote operational error, at that packet of the peer's
    /// requests, counted from 0. Null for never.
    /// </summary>
    public int? FailAtPacket { get; init; }

    /// <summary>
    /// After that many arrived packets nothing arrives and nothing leaves any more, as if the machine were off. Null
    /// for never.
    /// </summary>
    public long? DeathAfterPackets { get; init; }

    /// <summary>Every completion becomes visible that much later; their order stays.</summary>
    public TimeSpan CompletionDelay { get; init; }

    /// <summary>
    /// The freedom of the specification, used up: 5 % of the packets are lost and as many duplicated or overtaken,
    /// every third message finds no receive at first, twice; no credit is offered; completions come 0.2 ms late, and a
    /// fault takes 2 ms.
    /// </summary>
    public static FaultOptions HostileButLegal(ulong seed) => new()
    {
        Seed = seed,
        LossPerMille = 50,
        DuplicationPerMille = 50,
        ReorderingPerMille = 50,
        NotReadyPerMille = 333,
        NotReadyBurst = 2,
        OffersNoCredits = true,
        CompletionDelay = TimeSpan.FromMicroseconds(200),
        MapLatency = TimeSpan.FromMilliseconds(2),
    };

    /// <summary>The syndrome of an ACK under these faults, or under none.</summary>
    internal static byte AcknowledgeOf(FaultOptions? faults) =>
        faults is { OffersNoCredits: true } ? Aeth.AckWithoutCredit : Aeth.AckUnlimited;

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

        bool isNegative = HoldTime < TimeSpan.Zero || Delay < TimeSpan.Zero || MapLatency < TimeSpan.Zero
            || CompletionDelay < TimeSpan.Zero || RevokeAtByte < 0 || FailAtPacket < 0 || DeathAfterPackets < 0;
        if (isNegative || NotReadyBurst < 1)
        {
            problems.Add("times and places of faults must not be negative, and a burst is at least 1");
        }
    }
}
