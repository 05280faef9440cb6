namespace Wayleave.Devices.Rdma.Wire;

/// <summary>Why a frame is not a whole UDP datagram that RoCEv2 could travel in.</summary>
public enum FrameError
{
    None = 0,

    /// <summary>Shorter than its headers, or than the length a header announces.</summary>
    Truncated,

    /// <summary>Neither IPv4 nor IPv6; VLAN tags are among these.</summary>
    UnknownEtherType,

    /// <summary>The IP version is not that of the EtherType.</summary>
    WrongVersion,

    /// <summary>IPv4 options or an impossible header length: the ICRC is defined over twenty bytes of header.</summary>
    IPv4HeaderLength,

    /// <summary>A piece of a datagram. RoCEv2 packets are never fragmented; the ICRC could not be checked.</summary>
    Fragment,

    /// <summary>Another protocol above IP, or an IPv6 extension header, fragment header included.</summary>
    NotUdp,

    /// <summary>The IP and UDP lengths disagree, or are too small for their headers.</summary>
    InconsistentLength,
}
