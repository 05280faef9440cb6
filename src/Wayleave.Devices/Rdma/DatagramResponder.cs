using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// The receiving half of a UD queue pair (roce.md A7): every packet a message, behind 40 bytes that say where it comes
/// from. What does not fit is dropped, and its receive stays. Port token held by the caller.
/// </summary>
internal sealed class DatagramResponder(QueuePair pair, ReceiveQueue receives, RdmaPort port) : ReceiveSide
{
    /// <summary>What every receive begins with: the IP header, an IPv4 one in the second half.</summary>
    public const int HeaderAreaBytes = 40;

    /// <summary>Datagrams have no order.</summary>
    public override uint ExpectedPsn => 0;

    public override uint Msn => 0;

    public override void Reset(uint firstPsn)
    {
    }

    public override DropReason HandleRequest(in PacketView packet, in Arrival arrival)
    {
        if (!packet.Traits.AllowsPayload(packet.PayloadBytes, pair.MtuBytes) || !packet.HasProperPad)
        {
            return DropReason.NotAllowed;
        }

        if (!receives.TryReady())
        {
            return DropReason.NoReceive;
        }

        uint bytes = (uint)(packet.PayloadBytes + HeaderAreaBytes);
        ReadOnlySpan<Sge> sges = receives.Sges(receives.Head);
        if (receives[receives.Head].LengthBytes < bytes)
        {
            return DropReason.NoReceive;
        }

        Span<byte> header = stackalloc byte[HeaderAreaBytes];
        WriteHeader(header, packet, arrival);
        AccessOutcome outcome = pair.Memory.Scatter(sges, 0, header, out MemoryRegion? region);
        if (outcome == AccessOutcome.Done)
        {
            outcome = pair.Memory.Scatter(sges, HeaderAreaBytes, packet.Payload, out region);
        }

        switch (outcome)
        {
            case AccessOutcome.Done:
                receives.Complete(pair, packet, bytes);
                return DropReason.None;
            case AccessOutcome.Faulted:
                port.RegionFaults.Add(region!, pair);
                return DropReason.NotMapped;
            default:
                receives.Complete(pair, WorkCompletionStatus.LocalProtectionError);
                pair.EnterError();
                return DropReason.NotAllowed;
        }
    }

    public override BuildResult BuildNext(ref SuperPacket superPacket) => BuildResult.Nothing;

    public override void Wake()
    {
    }

    public override void Flush() => receives.Flush(pair);

    // A socket does not show the header, so it is made of what is known; the hop limit is not.
    private static void WriteHeader(Span<byte> area, in PacketView packet, in Arrival arrival)
    {
        area.Clear();
        int udpBytes = packet.Bytes.Length + FrameView.UdpBytes;
        Gid destination = arrival.Destination;
        if (!arrival.Source.IsIPv4)
        {
            uint first = 6u << 28 | (uint)arrival.TrafficClass << 20;
            BinaryPrimitives.WriteUInt32BigEndian(area, first);
            BinaryPrimitives.WriteUInt16BigEndian(area[4..], (ushort)udpBytes);
            area[6] = FrameView.ProtocolUdp;
            arrival.Source.WriteTo(area[8..]);
            destination.WriteTo(area[24..]);
            return;
        }

        Span<byte> header = area[(HeaderAreaBytes - FrameView.IPv4Bytes)..];
        header[0] = 0x45;
        header[1] = arrival.TrafficClass;
        BinaryPrimitives.WriteUInt16BigEndian(header[2..], (ushort)(FrameView.IPv4Bytes + udpBytes));
        BinaryPrimitives.WriteUInt16BigEndian(header[4..], arrival.Identification);
        header[6] = 0x40;
        header[9] = FrameView.ProtocolUdp;
        BinaryPrimitives.WriteUInt32BigEndian(header[12..], arrival.Source.IPv4);
        BinaryPrimitives.WriteUInt32BigEndian(header[16..], destination.IPv4);
    }
}
