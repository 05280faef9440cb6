namespace Wayleave.Devices.Rdma;

/// <summary>What a NIC can do about a key whose memory is wanted back while packets arrive.</summary>
public enum RegionRevocation
{
    /// <summary>
    /// The key dies under traffic: the next packet meets it dead, and other queue pairs notice nothing.
    /// </summary>
    Concurrent,

    /// <summary>
    /// The hardware has to stand still first: the port finishes the packet in hand and serves none until the key is
    /// dead. Every queue pair of the port waits for it.
    /// </summary>
    Quiesce,

    /// <summary>
    /// A key lives until it is deregistered: every region holds its memory in place, and an exporter that must be able
    /// to take memory back refuses the attachment.
    /// </summary>
    None,
}
