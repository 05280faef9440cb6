namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// What may still be placed for a receive queue. A window is promised from this and not from a buffer's size: a chunk
/// of device memory that a reader holds is not there for the next segment.
/// </summary>
public interface IReceiveRoom
{
    /// <summary>Bytes that can certainly be placed for <paramref name="queue"/>, in whole chunks. Token held.</summary>
    long GetReceiveRoomBytes(int queue);

    /// <summary>The same if nobody held anything. Token held.</summary>
    long GetReceiveCapacityBytes(int queue);

    /// <summary>
    /// Where that is, by reference: queues with the same answer share it, and so do the promises of their connections.
    /// Never null. Token held.
    /// </summary>
    object GetReceiveMemory(int queue);

    /// <summary>
    /// Another value when <see cref="GetQueue"/> may say something else than before. Token held.
    /// </summary>
    long Version => 0;

    /// <summary>
    /// Where segments of a connection will come by, before one has come: <paramref name="last"/> if it is not known.
    /// Token held.
    /// </summary>
    int GetQueue(in TcpFlow flow, int last) => last;
}
