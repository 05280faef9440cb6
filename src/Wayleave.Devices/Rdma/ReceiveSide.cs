using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>The receiving half of a queue pair, of any type. Port token held by the caller.</summary>
internal abstract class ReceiveSide
{
    /// <summary>PSN of the next packet in order.</summary>
    public abstract uint ExpectedPsn { get; }

    /// <summary>24-bit count of completed messages.</summary>
    public abstract uint Msn { get; }

    public abstract void Reset(uint firstPsn);

    /// <summary>
    /// A request packet that passed D1 to D8. Those of the unreliable types may still be dropped, with a reason.
    /// </summary>
    public abstract DropReason HandleRequest(in PacketView packet, in Arrival arrival);

    /// <summary>Adds the next response packet to a super-packet.</summary>
    public abstract BuildResult BuildNext(ref SuperPacket superPacket);

    /// <summary>
    /// Adds the answer that is owed, because the queue pair ends now. False when there is none, or data must leave
    /// before it.
    /// </summary>
    public virtual bool TrySettle(ref SuperPacket superPacket) => false;

    /// <summary>What it sends next is data, which may be slowed down, and not an acknowledgement.</summary>
    public virtual bool SendsData => false;

    /// <summary>A region was mapped, or died: look again.</summary>
    public abstract void Wake();

    /// <summary>A modify from SQD to SQD may have changed what the peer is granted.</summary>
    public virtual void HandleAttributeChange()
    {
    }

    /// <summary>ERR: every receive is flushed, in order.</summary>
    public abstract void Flush();
}
