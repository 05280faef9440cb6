using System.Globalization;

namespace Wayleave.Devices.Rdma;

/// <summary>Faults as text, for command lines: <c>loss=1%,reorder=5%,seed=7</c>.</summary>
public sealed partial record FaultOptions
{
    /// <summary>What <see cref="TryParse"/> takes, for help and messages.</summary>
    public const string Forms =
        "hostile, seed=N, path=in|out|both, loss=P% (or drop=P%), duplicate=P%, corrupt=P%, reorder=P%, hold=TIME, "
        + "delay=TIME, rnr=P%, rnr-burst=N, no-credits, map-latency=TIME, late=TIME, revoke-at=BYTES, "
        + "fail-at=PACKET, die-after=PACKETS";

    /// <summary>
    /// Reads faults, separated by commas. <c>hostile</c> stands for <see cref="HostileButLegal"/>, and what follows it
    /// changes it. A share has at most one digit after the point; times end in us, ms or s.
    /// </summary>
    /// <param name="text">Without blanks.</param>
    /// <param name="faults">Default unless true; valid then.</param>
    /// <param name="problem">Why not, or empty.</param>
    public static bool TryParse(string text, out FaultOptions faults, out string problem)
    {
        ArgumentNullException.ThrowIfNull(text);
        faults = new FaultOptions { Directions = FaultDirections.Both };
        foreach (string part in text.Split(','))
        {
            int sign = part.IndexOf('=', StringComparison.Ordinal);
            string name = sign < 0 ? part : part[..sign];
            if (!TryApply(ref faults, name, sign < 0 ? "" : part[(sign + 1)..]))
            {
                problem = $"'{part}' is not one of: {Forms}";
                return false;
            }
        }

        List<string> problems = [];
        faults.Validate(problems);
        problem = string.Join("; ", problems);
        return problems.Count == 0;
    }

    /// <summary>
    /// The shortest text of which <see cref="TryParse"/> makes the same faults, to one thousandth and to a tenth of a
    /// microsecond; empty for none.
    /// </summary>
    public string ToText()
    {
        FaultOptions none = new();
        List<string> words = [];
        Add(Seed != none.Seed, "seed", Seed.ToString(CultureInfo.InvariantCulture));
        Add(Directions is FaultDirections.Arriving or FaultDirections.Departing, "path",
            Directions == FaultDirections.Arriving ? "in" : "out");
        Add(LossPerMille != 0, "loss", Share(LossPerMille));
        Add(DuplicationPerMille != 0, "duplicate", Share(DuplicationPerMille));
        Add(CorruptionPerMille != 0, "corrupt", Share(CorruptionPerMille));
        Add(ReorderingPerMille != 0, "reorder", Share(ReorderingPerMille));
        Add(HoldTime != none.HoldTime, "hold", Time(HoldTime));
        Add(Delay != none.Delay, "delay", Time(Delay));
        Add(NotReadyPerMille != 0, "rnr", Share(NotReadyPerMille));
        Add(NotReadyBurst != none.NotReadyBurst, "rnr-burst", Number(NotReadyBurst));
        if (OffersNoCredits)
        {
            words.Add("no-credits");
        }

        Add(MapLatency != none.MapLatency, "map-latency", Time(MapLatency));
        Add(CompletionDelay != none.CompletionDelay, "late", Time(CompletionDelay));
        Add(RevokeAtByte is not null, "revoke-at", Number(RevokeAtByte ?? 0));
        Add(FailAtPacket is not null, "fail-at", Number(FailAtPacket ?? 0));
        Add(DeathAfterPackets is not null, "die-after", Number(DeathAfterPackets ?? 0));
        return string.Join(',', words);

        void Add(bool differs, string name, string value)
        {
            if (differs)
            {
                words.Add($"{name}={value}");
            }
        }

        static string Number(long value) => value.ToString(CultureInfo.InvariantCulture);

        static string Share(int perMille) => string.Create(CultureInfo.InvariantCulture, $"{perMille / 10m:0.#}%");

        static string Time(TimeSpan time) =>
            string.Create(CultureInfo.InvariantCulture, $"{(decimal)time.Ticks / TimeSpan.TicksPerMicrosecond:0.#}us");
    }

    private static bool TryApply(ref FaultOptions faults, string name, string value)
    {
        FaultOptions? changed = name switch
        {
            "hostile" when value.Length == 0 =>
                HostileButLegal(faults.Seed) with { Directions = faults.Directions },
            "no-credits" when value.Length == 0 => faults with { OffersNoCredits = true },
            "seed" => ulong.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out ulong seed)
                ? faults with { Seed = seed } : null,
            "path" => ReadDirections(value) is { } directions ? faults with { Directions = directions } : null,
            "loss" or "drop" => ReadShare(value) is { } share ? faults with { LossPerMille = share } : null,
            "duplicate" => ReadShare(value) is { } share ? faults with { DuplicationPerMille = share } : null,
            "corrupt" => ReadShare(value) is { } share ? faults with { CorruptionPerMille = share } : null,
            "reorder" => ReadShare(value) is { } share ? faults with { ReorderingPerMille = share } : null,
            "rnr" => ReadShare(value) is { } share ? faults with { NotReadyPerMille = share } : null,
            "rnr-burst" => ReadNumber(value) is { } n and <= 1 << 20
                ? faults with { NotReadyBurst = (int)n } : null,
            "hold" => ReadTime(value) is { } time ? faults with { HoldTime = time } : null,
            "delay" => ReadTime(value) is { } time ? faults with { Delay = time } : null,
            "map-latency" => ReadTime(value) is { } time ? faults with { MapLatency = time } : null,
            "late" => ReadTime(value) is { } time ? faults with { CompletionDelay = time } : null,
            "revoke-at" => ReadNumber(value) is { } n ? faults with { RevokeAtByte = n } : null,
            "fail-at" => ReadNumber(value) is { } n and <= Wire.Psn.Mask
                ? faults with { FailAtPacket = (int)n } : null,
            "die-after" => ReadNumber(value) is { } n ? faults with { DeathAfterPackets = n } : null,
            _ => null,
        };
        faults = changed ?? faults;
        return changed is not null;
    }

    private static FaultDirections? ReadDirections(string text) => text switch
    {
        "in" => FaultDirections.Arriving,
        "out" => FaultDirections.Departing,
        "both" => FaultDirections.Both,
        _ => null,
    };

    private static long? ReadNumber(string text) =>
        long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long number) ? number : null;

    // A percentage, as thousandths.
    private static int? ReadShare(string text)
    {
        bool isShare = decimal.TryParse(
            text.EndsWith('%') ? text[..^1] : "",
            NumberStyles.AllowDecimalPoint,
            CultureInfo.InvariantCulture,
            out decimal percent);
        return isShare && percent <= 100 && percent * 10 == decimal.Truncate(percent * 10)
            ? (int)(percent * 10) : null;
    }

    private static TimeSpan? ReadTime(string text)
    {
        (string Unit, long Ticks)[] units =
        [
            ("us", TimeSpan.TicksPerMicrosecond), ("ms", TimeSpan.TicksPerMillisecond), ("s", TimeSpan.TicksPerSecond),
        ];
        foreach ((string unit, long ticks) in units)
        {
            bool isTime = text.EndsWith(unit, StringComparison.Ordinal)
                & decimal.TryParse(
                    text.Length > unit.Length ? text[..^unit.Length] : "",
                    NumberStyles.AllowDecimalPoint,
                    CultureInfo.InvariantCulture,
                    out decimal number);
            if (isTime && number * ticks <= TimeSpan.TicksPerMinute)
            {
                return TimeSpan.FromTicks((long)(number * ticks));
            }
        }

        return null;
    }
}
