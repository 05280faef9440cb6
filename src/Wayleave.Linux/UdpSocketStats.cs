namespace Wayleave.Linux;

/// <summary>What the kernel counts about a UDP socket: SO_MEMINFO, the numbers of `ss -m`.</summary>
/// <param name="ReceiveQueuedBytes">
/// Memory charged for datagrams that were not received yet, headers and slack included.
/// </param>
/// <param name="ReceiveBufferBytes">Limit of the former: twice what was asked for.</param>
/// <param name="SendQueuedBytes">Memory charged for datagrams that have not left yet.</param>
/// <param name="SendBufferBytes">Limit of the former.</param>
/// <param name="Drops">
/// Datagrams dropped since the bind because the receive buffer was full or a checksum was wrong.
/// </param>
public readonly record struct UdpSocketStats(
    long ReceiveQueuedBytes, long ReceiveBufferBytes, long SendQueuedBytes, long SendBufferBytes, long Drops);
