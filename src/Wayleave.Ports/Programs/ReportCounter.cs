namespace Wayleave.Ports.Programs;

/// <summary>What a <see cref="ReportPage"/> counts, in the order of the page.</summary>
public enum ReportCounter
{
    PacketsSent,
    PacketsReceived,

    /// <summary>Of the wire, headers included.</summary>
    BytesSent,
    BytesReceived,

    /// <summary>Payload that peers wrote here.</summary>
    BytesPlaced,

    /// <summary>Payload that peers sent to dead keys: none of it was placed.</summary>
    BytesRejected,

    /// <summary>Payload that went by way of memory that the registrant did not name.</summary>
    BytesStaged,

    /// <summary>Request packets sent again, and how often a time-out was the reason.</summary>
    Retransmits,
    Timeouts,
    NaksSent,
    NaksReceived,
    RnrNaksSent,
    RnrNaksReceived,
    PacketsDropped,
    Duplicates,

    /// <summary>Touches of memory that was not there yet, or not any more.</summary>
    Faults,

    /// <summary>Keys that died because the owner wanted the memory back.</summary>
    Revokes,
}
