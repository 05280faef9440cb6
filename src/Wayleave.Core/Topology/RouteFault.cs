namespace Wayleave.Core.Topology;

/// <summary>
/// A route that the rules allow and that was seen to lose or change bytes: recorded at the owner of the memory, and
/// every later map by that client is refused.
/// </summary>
/// <param name="Client">Who reached the memory.</param>
/// <param name="Reason">What was seen, in words.</param>
/// <param name="SeenAt">When, on the host's clock.</param>
public sealed record RouteFault(PciFunction Client, string Reason, TimeSpan SeenAt);
