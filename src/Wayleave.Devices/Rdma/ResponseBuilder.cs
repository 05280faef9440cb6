using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Makes the packets that answer READs, atomics, ATOMIC WRITEs and FLUSHes. Of a READ key, domain, right and range are
/// looked at again for every packet, or for the few of one super-packet, between which nobody who needs the port token
/// changes them, and each of those looks at the gate: a region or window that goes away stops a long one (H-12). Port
/// token held by the caller.
/// </summary>
internal readonly struct ResponseBuilder(QueuePair pair)
{
    private const int AtomicBytes = Bth.Size + Aeth.Size + AtomicAckEth.Size + PacketView.IcrcSize;

    /// <summary>Adds a packet of an answer to a super-packet; does not advance it.</summary>
    /// <param name="response">Which answer.</param>
    /// <param name="index">Which packet of it.</param>
    /// <param name="superPacket">Takes the packet.</param>
    /// <param name="outcome">Done, or why there is no packet when the result is Nothing.</param>
    /// <param name="region">The region that refused, if there is one.</param>
    public BuildResult Build(
        in ActiveResponse response,
        int index,
        ref SuperPacket superPacket,
        out AccessOutcome outcome,
        out MemoryRegion? region)
    {
        (outcome, region) = (AccessOutcome.Done, null);
        return response.Request.IsAtomic
            ? BuildAtomic(response, ref superPacket)
            : BuildRead(response, index, ref superPacket, out outcome, out region);
    }

    /// <summary>
    /// As <see cref="Build"/>, or as many packets from the middle of a READ's answer as fit, out of one piece of
    /// memory: they have the same size and almost the same headers, and the memory is looked up once.
    /// </summary>
    /// <param name="response">Which answer; it is not advanced.</param>
    /// <param name="superPacket">Takes the packets.</param>
    /// <param name="built">How many were added.</param>
    /// <param name="outcome">Done, or why there is no packet when the result is Nothing.</param>
    /// <param name="region">The region that refused, if there is one.</param>
    public BuildResult BuildNext(
        in ActiveResponse response,
        ref SuperPacket superPacket,
        out int built,
        out AccessOutcome outcome,
        out MemoryRegion? region)
    {
        int first = response.Next;
        int packetBytes = PayloadPacket.SizeOf(Bth.Size, pair.MtuBytes);
        int middles = Math.Min(response.Stop, response.Request.PacketCount - 1) - first;
        int count = Math.Min(middles, superPacket.RoomFor(packetBytes));
        if (response.Request.IsRead
            && count > 1
            && OpcodeOf(response, first) == Opcode.RcReadResponseMiddle
            && TryBuildMiddles(response, count, ref superPacket, out built, out outcome, out region))
        {
            return built > 0 ? BuildResult.Built : BuildResult.Nothing;
        }

        BuildResult result = Build(response, first, ref superPacket, out outcome, out region);
        built = result == BuildResult.Built ? 1 : 0;
        return result;
    }

    // False, and nothing done, when they have to be looked at one by one: the range is not one piece of memory, or the
    // first of them is refused.
    private bool TryBuildMiddles(
        in ActiveResponse response,
        int count,
        ref SuperPacket superPacket,
        out int built,
        out AccessOutcome outcome,
        out MemoryRegion? region)
    {
        int mtu = pair.MtuBytes;
        built = 0;
        outcome = pair.Remote.Find(
            response.Request.Key,
            AccessFlags.RemoteRead,
            response.Request.Address + (ulong)response.Next * (ulong)mtu,
            (ulong)count * (ulong)mtu,
            out RemoteTarget target);
        region = target.Region;
        if (outcome != AccessOutcome.Done || region!.Backing is UnpinnedBacking)
        {
            return false;
        }

        outcome = pair.Port.Memory.TryOpen(
            region, target.Address, count * mtu, out ReadOnlySpan<byte> bytes, out Translation? translation);
        if (translation is null)
        {
            return true; // why, the outcome says
        }

        Bth bth = BthOf(Opcode.RcReadResponseMiddle, response, response.Next);
        count = Math.Min(count, bytes.Length / mtu);
        built = MiddleRun.Build(pair, region, bth, asks: false, bytes, count, translation, ref superPacket);
        pair.Port.Memory.Leave(translation);
        return built > 0; // else the first packet lies in two pieces
    }

    /// <summary>
    /// Adds a packet of a READ whose turn has not come. False when that is not possible, which nobody hears of: in its
    /// turn it is looked at again.
    /// </summary>
    // A region that is not mapped is asked for in that turn, and whoever refuses to map it, is heard then. One that is
    // paged on demand is left alone: a fault is noted, and a refusal taken, by whoever looks.
    public bool TryBuildEarly(in ActiveResponse response, int index, ref SuperPacket superPacket)
    {
        ulong offset = (ulong)index * (ulong)pair.MtuBytes;
        return pair.Remote.Find(
                response.Request.Key,
                AccessFlags.RemoteRead,
                response.Request.Address + offset,
                Math.Min((ulong)pair.MtuBytes, response.Request.LengthBytes - offset),
                out RemoteTarget target) == AccessOutcome.Done
            && target.Region is { Current: not null, Backing: null or PinnedBacking }
            && BuildRead(response, index, ref superPacket, out _, out _) == BuildResult.Built;
    }

    private BuildResult BuildAtomic(in ActiveResponse response, ref SuperPacket superPacket)
    {
        if (!superPacket.TryReserve(AtomicBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        BthOf(Opcode.RcAtomicAcknowledge, response, 0).WriteTo(packet);
        new Aeth(FaultOptions.AcknowledgeOf(pair.Port.Faults), response.Request.Msn).WriteTo(packet[Bth.Size..]);
        new AtomicAckEth(response.Request.Original).WriteTo(packet[(Bth.Size + Aeth.Size)..]);
        Icrc.Seal(pair.Peer.Outbound, (ushort)superPacket.Count, packet);
        superPacket.Commit(AtomicBytes);
        return BuildResult.Built;
    }

    // ATOMIC WRITE and FLUSH are answered like a READ of nothing.
    private BuildResult BuildRead(
        in ActiveResponse response,
        int index,
        ref SuperPacket superPacket,
        out AccessOutcome outcome,
        out MemoryRegion? region)
    {
        (outcome, region) = (AccessOutcome.Done, null);
        uint offset = (uint)index * (uint)pair.MtuBytes;
        int payloadBytes = (int)Math.Min((uint)pair.MtuBytes, response.Request.LengthBytes - offset);
        Opcode opcode = OpcodeOf(response, index);
        int headerBytes = OpcodeTraits.Of(opcode).HeaderBytes;
        int packetBytes = PayloadPacket.SizeOf(headerBytes, payloadBytes);
        if (!superPacket.TryReserve(packetBytes, out Span<byte> packet))
        {
            return BuildResult.DoesNotFit;
        }

        Bth bth = BthOf(opcode, response, index) with { PadCount = -payloadBytes & 3 };
        bth.WriteTo(packet);
        if (headerBytes > Bth.Size)
        {
            new Aeth(FaultOptions.AcknowledgeOf(pair.Port.Faults), response.Request.Msn).WriteTo(packet[Bth.Size..]);
        }

        uint icrc = PayloadPacket.Begin(pair.Peer.Outbound, superPacket.Count, bth, packet, headerBytes);
        outcome = CopyOut(response.Request, offset, packet.Slice(headerBytes, payloadBytes), ref icrc, out region);
        if (outcome != AccessOutcome.Done)
        {
            return BuildResult.Nothing;
        }

        PayloadPacket.End(icrc, packet, headerBytes, payloadBytes);
        superPacket.Commit(packetBytes);
        return BuildResult.Built;
    }

    private Bth BthOf(Opcode opcode, in ActiveResponse response, int index) => new()
    {
        Opcode = opcode,
        PKey = pair.Port.Options.PKey,
        DestQp = pair.DestQpNumber,
        Psn = Psn.Add(response.Request.FirstPsn, (uint)index),
    };

    private Opcode OpcodeOf(in ActiveResponse response, int index)
    {
        bool isLast = index == response.Request.PacketCount - 1;
        bool isFirst = index == response.Start
            && ((index == 0 && !response.IsRest) || !pair.Profile.AnswersReadRetryWithMiddle);
        return (isFirst, isLast) switch
        {
            (true, true) => Opcode.RcReadResponseOnly,
            (true, false) => Opcode.RcReadResponseFirst,
            (false, true) => Opcode.RcReadResponseLast,
            _ => Opcode.RcReadResponseMiddle,
        };
    }

    private AccessOutcome CopyOut(
        in StoredRequest read, uint offset, Span<byte> payload, ref uint icrc, out MemoryRegion? region)
    {
        region = null;
        if (payload.Length == 0)
        {
            return AccessOutcome.Done;
        }

        AccessOutcome outcome = pair.Remote.Find(
            read.Key, AccessFlags.RemoteRead, read.Address + offset, (ulong)payload.Length, out RemoteTarget target);
        region = target.Region;
        return outcome == AccessOutcome.Done
            ? pair.Port.Memory.Read(region!, target.Address, payload, ref icrc)
            : outcome;
    }
}
