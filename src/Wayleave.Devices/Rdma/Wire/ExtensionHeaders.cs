namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The headers that may follow the BTH. When several do, their order is that of the bits here: DETH or FETH, then RETH,
/// AtomicETH or AETH, then AtomicAckETH, then ImmDt or IETH.
/// </summary>
[Flags]
public enum ExtensionHeaders : byte
{
    None = 0,
    Deth = 1 << 0,
    Feth = 1 << 1,
    Reth = 1 << 2,
    AtomicEth = 1 << 3,
    Aeth = 1 << 4,
    AtomicAckEth = 1 << 5,
    ImmDt = 1 << 6,
    Ieth = 1 << 7,
}
