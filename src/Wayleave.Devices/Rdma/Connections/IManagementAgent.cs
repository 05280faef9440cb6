using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>What serves queue pair 1 of a port. Called by the port, under its token.</summary>
internal interface IManagementAgent
{
    /// <summary>When <see cref="HandleTimeout"/> has something to do.</summary>
    TimeSpan Deadline { get; }

    /// <summary>A datagram to queue pair 1, its ICRC and Q_Key checked.</summary>
    void HandleMad(in Arrival arrival, uint sourceQp, ReadOnlySpan<byte> mad);

    void HandleTimeout(TimeSpan now);

    /// <summary>A request came to a queue pair that was told that this may happen.</summary>
    void HandleFirstPacket(QueuePair pair);

    /// <summary>A queue pair that was destroyed, or whose number may not be given out again yet.</summary>
    bool HoldsNumber(uint queuePairNumber);
}
