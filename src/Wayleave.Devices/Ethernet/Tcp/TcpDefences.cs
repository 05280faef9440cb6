namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// The defences against forged and old segments, each of which a test can take away to show that its absence is
/// noticed. Everything is on in a product.
/// </summary>
public sealed record TcpDefences
{
    public static TcpDefences All { get; } = new();

    /// <summary>RFC 5961 3.2: only a reset at exactly RCV.NXT resets.</summary>
    public bool ChecksResets { get; init; } = true;

    /// <summary>RFC 5961 4.2: a SYN of a synchronised connection is answered and changes nothing.</summary>
    public bool ChallengesSyns { get; init; } = true;

    /// <summary>RFC 5961 5.2: data with an acknowledgement that was never possible is dropped.</summary>
    public bool ChecksAcknowledgements { get; init; } = true;

    /// <summary>RFC 7323 5: a segment with an old timestamp is dropped.</summary>
    public bool RefusesOldTimestamps { get; init; } = true;

    /// <summary>The right edge of a window that was promised does not move left.</summary>
    public bool KeepsPromisedWindow { get; init; } = true;

    /// <summary>RFC 5961 section 7: answers to what does not fit, resets too, have a budget.</summary>
    public bool LimitsChallenges { get; init; } = true;
}
