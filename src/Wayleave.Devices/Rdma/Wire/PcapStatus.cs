namespace Wayleave.Devices.Rdma.Wire;

/// <summary>How far a capture could be read.</summary>
public enum PcapStatus
{
    /// <summary>There was a capture header, or a record.</summary>
    Success,

    /// <summary>Every record has been read, and the capture ends where the last one does.</summary>
    End,

    /// <summary>Shorter than the 24 bytes of a capture header.</summary>
    TruncatedHeader,

    /// <summary>The first four bytes are not those of a pcap capture.</summary>
    NotACapture,

    /// <summary>A pcapng capture, another format.</summary>
    NextGeneration,

    /// <summary>A version of the format other than 2.4.</summary>
    UnknownVersion,

    /// <summary>The frames are not Ethernet frames.</summary>
    WrongLinkType,

    /// <summary>
    /// The capture ends inside a record, as one does whose writer was killed, or one of which a length is damaged.
    /// </summary>
    TruncatedRecord,

    /// <summary>A record announces more than a capture may hold in one: what follows is not a record.</summary>
    OversizedRecord,
}
