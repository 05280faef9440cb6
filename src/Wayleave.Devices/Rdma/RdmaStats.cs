using System.Runtime.CompilerServices;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// What a port has done since it was made. Plain counters, written by the holder of the port token; a reader without
/// the token sees each number whole but not all of one moment.
/// </summary>
public struct RdmaStats
{
    private DropCounters _drops;

    public long PacketsReceived { get; internal set; }
    public long BytesReceived { get; internal set; }
    public long PacketsSent { get; internal set; }
    public long BytesSent { get; internal set; }

    /// <summary>Super-packets handed out by <see cref="RdmaPort.PollTransmit"/>.</summary>
    public long SuperPacketsSent { get; internal set; }

    /// <summary>Packets dropped without an answer; by reason in <see cref="Drops(DropReason)"/>.</summary>
    public long PacketsDropped { get; internal set; }

    /// <summary>Payload bytes written to registered memory on behalf of peers.</summary>
    public long BytesPlaced { get; internal set; }

    /// <summary>Payload bytes refused with NAK 0x62.</summary>
    public long BytesRejected { get; internal set; }

    /// <summary>Keys of peers that were looked up; not those whose region the queue pair used last.</summary>
    public long KeyLookups { get; internal set; }

    /// <summary>Request packets sent again.</summary>
    public long Retransmits { get; internal set; }

    /// <summary>Request packets sent before their turn (<see cref="PeerProfile.FirstsAhead"/>).</summary>
    public long SentAhead { get; internal set; }

    /// <summary>Packets that answer READs, sent before their turn, because of the same agreement.</summary>
    public long ResponsesSentAhead { get; internal set; }

    /// <summary>Times a requester went back after a time-out.</summary>
    public long Timeouts { get; internal set; }

    /// <summary>
    /// Times a requester that had heard nothing for a while asked its peer what it has
    /// (<see cref="RdmaDeviceOptions.ProbeAfter"/>).
    /// </summary>
    public long Probes { get; internal set; }

    /// <summary>Request packets received again.</summary>
    public long Duplicates { get; internal set; }

    /// <summary>
    /// READs received again that were answered in part or not at all, because too much would have been sent again
    /// (<see cref="RdmaDeviceOptions.ReplayInterval"/>).
    /// </summary>
    public long ReplaysCapped { get; internal set; }

    /// <summary>Times the port stood still so that keys could die (<see cref="RegionRevocation.Quiesce"/>).</summary>
    public long Quiesces { get; internal set; }

    /// <summary>Touches of a region that was invalidated.</summary>
    public long Faults { get; internal set; }

    /// <summary>
    /// Async events that nobody heard of, because so many were not polled
    /// (<see cref="RdmaDeviceOptions.AsyncEventCapacity"/>).
    /// </summary>
    public long EventsLost { get; internal set; }

    public long AcknowledgesSent { get; internal set; }
    public long NaksPsnSequenceSent { get; internal set; }
    public long NaksInvalidRequestSent { get; internal set; }
    public long NaksRemoteAccessSent { get; internal set; }
    public long NaksRemoteOperationSent { get; internal set; }
    public long RnrNaksSent { get; internal set; }
    public long NaksReceived { get; internal set; }
    public long RnrNaksReceived { get; internal set; }

    /// <summary>Packets that came marked by a congested path.</summary>
    public long CongestionMarks { get; internal set; }

    /// <summary>CNPs sent and received.</summary>
    public long NotificationsSent { get; internal set; }
    public long NotificationsReceived { get; internal set; }

    /// <summary>Packets whose ICRC was checked with all 32 bits.</summary>
    public long IcrcChecksFull { get; internal set; }

    /// <summary>Packets whose IPv4 identification had to be solved: 16 bits were checked.</summary>
    public long IcrcChecksSolved { get; internal set; }

    /// <summary>How many packets were dropped for that reason.</summary>
    public readonly long Drops(DropReason reason) => _drops[(int)reason];

    internal void CountDrop(DropReason reason)
    {
        PacketsDropped++;
        _drops[(int)reason]++;
    }

    /// <summary>An acknowledge packet of that syndrome leaves.</summary>
    internal void CountAnswer(byte syndrome)
    {
        switch (syndrome)
        {
            case Aeth.AckUnlimited:
                AcknowledgesSent++;
                break;
            case Aeth.NakPsnSequence:
                NaksPsnSequenceSent++;
                break;
            case Aeth.NakInvalidRequest:
                NaksInvalidRequestSent++;
                break;
            case Aeth.NakRemoteAccess:
                NaksRemoteAccessSent++;
                break;
            case Aeth.NakRemoteOperation:
                NaksRemoteOperationSent++;
                break;
            default:
                RnrNaksSent++;
                break;
        }
    }

    [InlineArray((int)DropReason.NotMapped + 1)]
    private struct DropCounters
    {
        private long _first;
    }
}
