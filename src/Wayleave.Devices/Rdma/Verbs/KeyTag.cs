namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// The two parts of a key: 24 bits that name one object of the device, and a tag of eight that whoever binds a window
/// may choose (IBTA 10.6.7.2). All 32 bits of a new key are random.
/// </summary>
public static class KeyTag
{
    internal const int Bits = 8;

    private const uint Mask = (1u << Bits) - 1;

    /// <summary>The key with the next tag (<c>ibv_inc_rkey</c>): what a window is bound under the next time.</summary>
    public static uint Next(uint key) => (key & ~Mask) | ((key + 1) & Mask);
}
