namespace Wayleave.Simulation;

/// <summary>What a link has done since it was made, in datagrams.</summary>
/// <param name="Sent">Handed to the link.</param>
/// <param name="Delivered">Taken by a receiver, duplicates included.</param>
/// <param name="Lost">Dropped by chance.</param>
/// <param name="Overflowed">Dropped because too many were under way.</param>
/// <param name="Duplicated">Second copies made.</param>
/// <param name="Reordered">Held back.</param>
/// <param name="Corrupted">Changed by one bit.</param>
public readonly record struct SimulatedLinkStats(
    long Sent, long Delivered, long Lost, long Overflowed, long Duplicated, long Reordered, long Corrupted);
