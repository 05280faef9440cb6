namespace Wayleave.Devices.Ethernet;

/// <summary>
/// Who stands above a NIC: the protocols of an end host. Called under the port token, on the thread that drives the
/// port: it returns at once, keeps no frame, and never takes the port token or waits for the host lock's holder.
/// </summary>
public interface INicHost
{
    /// <summary>When <see cref="HandleTimeout"/> has something to do; null when no timer runs.</summary>
    TimeSpan? NextDeadline { get; }

    /// <summary>A frame has come. What is kept of its payload is retained before the return.</summary>
    void HandleFrame(ReceivedFrame frame, TimeSpan now);

    /// <summary>Lets the timers that are due act.</summary>
    void HandleTimeout(TimeSpan now);

    /// <summary>
    /// A pool that had little room has more: chunks came back. Windows that were kept small may open.
    /// </summary>
    void HandleRoomChanged(TimeSpan now);

    /// <summary>
    /// The owner of a binding's memory has taken it back. Connections with unread payload there are reset.
    /// </summary>
    void HandleRevoked(MemoryBinding binding, TimeSpan now);

    /// <summary>The next frame to send, put together in <paramref name="frame"/>; false when there is none.</summary>
    bool PollTransmit(TimeSpan now, ref SuperFrame frame);
}
