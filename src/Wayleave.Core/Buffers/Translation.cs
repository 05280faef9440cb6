namespace Wayleave.Core.Buffers;

/// <summary>
/// One mapping as a device sees it while it lasts: the addresses and the gate through which every access goes.
/// Immutable but for the gate; a new map makes a new translation. The data path reads the current one for every packet
/// and every block.
/// </summary>
/// <param name="Addresses">Where the bytes are. Valid only inside <paramref name="Gate"/>.</param>
/// <param name="Gate">Belongs to this translation alone and never reopens.</param>
public sealed record Translation(DmaAddressList Addresses, InFlightGate Gate)
{
    /// <summary>
    /// What of it may be written, where that is less: elsewhere its entries are as if nothing were there. Null: all of
    /// <see cref="Addresses"/>.
    /// </summary>
    public DmaAddressList? Writable { get; init; }
}
