using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>The sending half of a queue pair, of any type. Port token held by the caller.</summary>
internal abstract class SendSide
{
    /// <summary>See <see cref="QueuePair.OldestUnansweredPsn"/>.</summary>
    public abstract uint OldestUnansweredPsn { get; }

    /// <summary>When a timer is due; <see cref="TimeSpan.MaxValue"/> when none runs.</summary>
    public abstract TimeSpan Deadline { get; }

    /// <summary>Forgets everything and starts at a PSN (RESET to RTS).</summary>
    public abstract void Reset(uint firstPsn);

    /// <summary>Adds the next packet to a super-packet.</summary>
    public abstract BuildResult BuildNext(ref SuperPacket superPacket, TimeSpan now);

    /// <summary>A doorbell, a modify or a mapped region: look again.</summary>
    public abstract void Wake();

    public abstract void HandleTimeout(TimeSpan now);

    /// <summary>SQD: what was started is finished, nothing new starts; the event says when (IBTA 10.3.1.5).</summary>
    public abstract void HandleDrain();

    /// <summary>Whether nothing that was started is unfinished.</summary>
    public abstract bool IsDrained { get; }

    /// <summary>The peer changes: what has no answer yet is sent again, to the new one.</summary>
    public abstract void HandlePathChange();

    /// <summary>A modify from SQD to SQD may have changed how long the peer is waited for, and how often.</summary>
    public virtual void HandleAttributeChange()
    {
    }

    /// <summary>ERR or SQE: everything that has not completed is flushed, in order.</summary>
    public abstract void Flush();
}
