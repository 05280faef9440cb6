namespace Wayleave.Host.Configuration;

/// <summary>What a NIC does about congestion on the paths to its peers.</summary>
public enum CongestionControl
{
    /// <summary>Nothing, like Linux's rxe, which sends no CNP and drops those that come.</summary>
    Off,

    /// <summary>
    /// DCQCN with the defaults of <see cref="Devices.Rdma.CongestionOptions"/>. Packets leave as ECN-capable (ECT(0) of
    /// RFC 3168), what comes marked is answered with CNPs, and CNPs and losses slow the queue pair down that sent.
    /// </summary>
    Dcqcn,
}
