namespace Wayleave.Devices.Ethernet.Ip;

/// <summary>What a host has done below TCP since it was made. Written by the holder of the port token.</summary>
public sealed class IpStats
{
    /// <summary>Packets to an address that is not ours (Ip6InAddrErrors).</summary>
    public long NotOurs { get; internal set; }

    /// <summary>Packets that say they come from one of our addresses, or from a broadcast of the link.</summary>
    public long Martians { get; internal set; }

    /// <summary>Packets that no function here takes.</summary>
    public long Ignored { get; internal set; }

    /// <summary>ARP and NDP questions for us that were answered.</summary>
    public long NeighbourAnswers { get; internal set; }

    /// <summary>ARP and NDP questions that we asked.</summary>
    public long NeighbourQuestions { get; internal set; }

    /// <summary>ARP and NDP messages that were malformed, or that nobody may send.</summary>
    public long NeighbourErrors { get; internal set; }

    /// <summary>Neighbours that never answered.</summary>
    public long NeighboursFailed { get; internal set; }

    /// <summary>Somebody else uses an address of ours (RFC 5227).</summary>
    public long AddressConflicts { get; internal set; }

    public long EchoReplies { get; internal set; }

    /// <summary>Destination unreachable, or an unknown protocol.</summary>
    public long ErrorsSent { get; internal set; }

    /// <summary>ICMP errors about segments of ours that were outstanding.</summary>
    public long ErrorsTaken { get; internal set; }

    /// <summary>ICMP errors about anything else.</summary>
    public long ErrorsIgnored { get; internal set; }

    /// <summary>Answers withheld: a budget was used up or the queue was full.</summary>
    public long AnswersWithheld { get; internal set; }

    /// <summary>Segments without a way or a neighbour to send them to.</summary>
    public long SegmentsUnsent { get; internal set; }
}
