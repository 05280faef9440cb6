namespace Wayleave.Simulation;

/// <summary>
/// A fingerprint in the making: FNV-1a over 64-bit words, the same in every process. For
/// <see cref="Scenario.Fingerprint"/>.
/// </summary>
public ref struct StateHash()
{
    /// <summary>Of all words so far, in their order.</summary>
    public ulong Value { get; private set; } = 0xCBF29CE484222325;

    public void Add(ulong word) => Value = (Value ^ word ^ (word >> 29)) * 0x100000001B3;
}
