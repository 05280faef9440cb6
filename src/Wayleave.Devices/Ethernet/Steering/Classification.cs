namespace Wayleave.Devices.Ethernet.Steering;

/// <summary>Where a frame goes.</summary>
/// <param name="Queue">Meaningless for a frame that is dropped.</param>
/// <param name="Hash">Toeplitz, of the context that was asked; 0 for what is not IP.</param>
/// <param name="Rule">The location of the rule that decided; null when RSS did.</param>
/// <param name="IsDropped">The rule says so.</param>
public readonly record struct Classification(int Queue, uint Hash, int? Rule, bool IsDropped);
