using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Makes the packets of READ responses, one at a time. Key, domain, right and range are looked at for every packet: a
/// region that goes away stops a long READ (H-12). Port token held by the caller.
/// </summary>
internal sealed class ReadResponseBuilder(QueuePair pair, RdmaPort port)
{
    private MemoryRegion? _last; // a READ has one region

    /// <summary>Adds the next packet of a READ to a super-packet; does not advance it.</summary>
    /// <param name="read">Which READ.</param>
    /// <param name="superPacket">Takes the packet.</param>
    /// <param name="outcome">Done, or why there is no packet when the result is Nothing.</param>
    /// <param name="region">The region that refused, if there is one.</param>
    public BuildResult Build(
        in ActiveRead read, ref SuperPacket superPacket, out AccessOutcome outcome, out MemoryRegion? region)
    {
        (outcome, region) = (AccessOutcome.Done, null);
        uint offset = (uint)read.Next * (uint)pair.MtuBytes;
        int payloadBytes = (int)Math.Min((uint)pair.MtuBytes, read.Operation.LengthBytes - offset);
        Opcode opcode = OpcodeOf(read);
        int headerBytes = OpcodeTraits.Of(opcode).HeaderBytes;
        int packetBytes = PayloadPacket.SizeOf(headerBytes, payloadBytes);
        if (!superPacket.TryReserve(packetBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        Bth bth = new()
        {
            Opcode = opcode,
            PadCount = -payloadBytes & 3,
            PKey = port.Options.PKey,
            DestQp = pair.DestQpNumber,
            Psn = read.NextPsn,
        };
        bth.WriteTo(packet);
        if (headerBytes > Bth.Size)
        {
            new Aeth(Aeth.AckUnlimited, read.Operation.Msn).WriteTo(packet[Bth.Size..]);
        }

        uint icrc = PayloadPacket.Begin(pair.Peer.Outbound, superPacket.Count, packet, headerBytes);
        outcome = CopyOut(read.Operation, offset, packet.Slice(headerBytes, payloadBytes), ref icrc, out region);
        if (outcome != AccessOutcome.Done)
        {
            return BuildResult.Nothing;
        }

        PayloadPacket.End(icrc, packet, headerBytes, payloadBytes);
        superPacket.Commit(packetBytes);
        return BuildResult.Built;
    }

    private Opcode OpcodeOf(in ActiveRead read)
    {
        bool isLast = read.Next == read.Operation.PacketCount - 1;
        bool isFirst = read.Next == read.Start
            && ((read.Next == 0 && !read.IsRest) || !pair.Profile.AnswersReadRetryWithMiddle);
        return (isFirst, isLast) switch
        {
            (true, true) => Opcode.RcReadResponseOnly,
            (true, false) => Opcode.RcReadResponseFirst,
            (false, true) => Opcode.RcReadResponseLast,
            _ => Opcode.RcReadResponseMiddle,
        };
    }

    private AccessOutcome CopyOut(
        in ReadOperation read, uint offset, Span<byte> payload, ref uint icrc, out MemoryRegion? region)
    {
        region = null;
        if (payload.Length == 0)
        {
            return AccessOutcome.Done;
        }

        region = _last is { } last && last.Key == read.Key && last.State != MemoryRegionState.Dead
            ? last
            : pair.Device.FindRegion(read.Key);
        _last = region;
        if (region is null || port.Memory.IsDead(region))
        {
            return AccessOutcome.Dead;
        }

        ulong address = read.Address + offset;
        return port.Memory.Permits(region, pair.Domain, AccessFlags.RemoteRead, address, (ulong)payload.Length)
            ? port.Memory.Read(region, address, payload, ref icrc)
            : AccessOutcome.Refused;
    }
}
