namespace Wayleave.Compare;

/// <summary>A program did not do what it was run for; the message names it and what it said.</summary>
public sealed class PeerException(string message) : Exception(message);
