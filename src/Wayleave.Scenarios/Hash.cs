namespace Wayleave.Scenarios;

/// <summary>FNV-1a over 64-bit words: the same in every process.</summary>
internal ref struct Hash()
{
    public ulong Value { get; private set; } = 0xCBF29CE484222325;

    public void Add(ulong word) => Value = (Value ^ word ^ (word >> 29)) * 0x100000001B3;
}
