namespace Wayleave.Tests.Rdma.Wire;

/// <summary>Numbers from a seed, the same on every runtime (Steele, Lea and Flood 2014).</summary>
internal sealed class SplitMix64(ulong seed)
{
    private ulong _state = seed;

    public ulong Next()
    {
        _state += 0x9E37_79B9_7F4A_7C15;
        ulong z = _state;
        z = (z ^ z >> 30) * 0xBF58_476D_1CE4_E5B9;
        z = (z ^ z >> 27) * 0x94D0_49BB_1331_11EB;
        return z ^ z >> 31;
    }

    /// <summary>A number in [0, count).</summary>
    public int Next(int count) => (int)(Next() % (ulong)count);

    public void Fill(Span<byte> bytes)
    {
        foreach (ref byte b in bytes)
        {
            b = (byte)(Next() >> 56);
        }
    }
}
