using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// The mirror image of MiddleRun. A super-packet brings up to 62 packets that differ in PSN and payload only, so what
// cannot change between two of them under the port token is looked at once:
//
//   once a run       port, queue pair and their states, peer, partition, what is left of the message; of a WRITE the
//                    right of the queue pair, for range and rights in memory were checked by its First
//                    and of a SEND or an answer to a READ the own key, its range and rights: a key that dies takes its
//                    translation along
//   every packet     announcements of owners, header, PSN, ICRC, window, translation, gate
//
// A packet that is not exactly the next Middle, or asks for something, goes the way of all packets (PacketIntake). One
// that is has been taken when its header fits: what is wrong with it then is answered here as it is there.

/// <summary>
/// Whoever places the Middles of a message one behind the other: the responder those of a SEND or WRITE,
/// <see cref="ResponseIntake"/> those of what answers a READ. Port token held by the caller.
/// </summary>
internal interface IMiddleTaker
{
    /// <summary>The PSN of the next packet.</summary>
    uint ExpectedPsn { get; }

    /// <summary>
    /// How many Middles of that kind may come before anything else; 0 when each packet needs a look of its own.
    /// </summary>
    int MiddlesToCome(Opcode opcode);

    /// <summary>
    /// Places Middles of full length that ask for nothing: what it would do with any others that are next.
    /// </summary>
    /// <param name="run">
    /// At most <see cref="MiddlesToCome"/> of one kind, the first of which has the expected PSN.
    /// </param>
    /// <returns>
    /// How many are done with: placed, and perhaps one that was refused. The one behind them needs a look of its own.
    /// </returns>
    int PlaceMiddles(ref PacketRun run);
}

/// <summary>
/// Takes the Middles of one message that stand one behind the other in a super-packet, or alone. Port token held by the
/// caller.
/// </summary>
internal sealed class MiddleIntake(RdmaPort port)
{
    // Of the first eight bytes, as a little-endian number: opcode, pad count and version, partition key, queue pair.
    // Not looked at, as for every Middle: SE, M, the byte that switches may change.
    private const ulong HeadMask = 0xFFFFFF00_FFFF3FFF;

    // Of the last four of a BTH: AckReq and PSN, but not the reserved bits between them.
    private const uint TailMask = 1u << 31 | Psn.Mask;

    /// <summary>Packets taken so far.</summary>
    public long Taken { get; private set; }

    /// <summary>Takes as many of the packets as are Middles of the queue pair's open message, in order.</summary>
    /// <param name="pair">That of the packet before, which may be another than theirs.</param>
    /// <param name="arrival">Of the first of them; each further one's identification is one more.</param>
    /// <param name="sourcePort">UDP port they came from.</param>
    /// <param name="bytes">At least one packet, BTH to ICRC.</param>
    /// <param name="packetBytes">Length of each but the last, which may be shorter.</param>
    /// <returns>How many need no further look; the one behind them, if there is one, does.</returns>
    public int Take(
        QueuePair pair, in Arrival arrival, ushort sourcePort, ReadOnlySpan<byte> bytes, int packetBytes)
    {
        if (packetBytes != PayloadPacket.SizeOf(Bth.Size, pair.MtuBytes)
            || bytes.Length < packetBytes
            || TakerOf(pair, (Opcode)bytes[0]) is not { } taker
            || !MayRun(pair, arrival))
        {
            return 0;
        }

        int most = Math.Min(bytes.Length / packetBytes, taker.MiddlesToCome((Opcode)bytes[0]));
        ulong head = HeadOf(bytes);
        if (most == 0 || !IsOf(pair, head))
        {
            return 0;
        }

        int count = CountInOrder(bytes, packetBytes, most, head, taker.ExpectedPsn);
        if (count == 0)
        {
            return 0;
        }

        ReadOnlySpan<byte> packets = bytes[..(count * packetBytes)];
        PacketRun run = new(
            port.Announcements, pair.Peer, sourcePort, arrival.Identification, packets, packetBytes);
        int undamaged = taker.PlaceMiddles(ref run);
        run.End();
        int taken = undamaged + (run.IsDamaged ? 1 : 0);
        Count(arrival.Link, taken, packetBytes, run.CheckedFully, taken - undamaged);
        return taken;
    }

    // Those that have such a header, and one PSN behind the other.
    private static int CountInOrder(ReadOnlySpan<byte> bytes, int packetBytes, int most, ulong head, uint psn)
    {
        int count = 0;
        for (; count < most; count++)
        {
            ReadOnlySpan<byte> header = bytes.Slice(count * packetBytes, Bth.Size);
            if (HeadOf(header) != head || TailOf(header) != Psn.Add(psn, (uint)count))
            {
                break;
            }
        }

        return count;
    }

    private static IMiddleTaker? TakerOf(QueuePair pair, Opcode opcode) => opcode switch
    {
        Opcode.RcWriteMiddle or Opcode.RcSendMiddle => pair.Responder as Responder,
        Opcode.RcReadResponseMiddle => pair.Reliable?.Responses,
        _ => null,
    };

    // What PacketIntake asks of every packet, and nothing but the holder of the token changes.
    private static bool MayRun(QueuePair pair, in Arrival arrival) =>
        arrival.Link.State == PortState.Active
        && ReferenceEquals(pair.PortLink, arrival.Link)
        && pair.State is >= QueuePairState.ReadyToReceive and not QueuePairState.Error
        && pair.Peer.Address.Destination == arrival.Source
        && (pair.Congestion is null || !Congestion.IsMarked(arrival.TrafficClass));

    // Its opcode is one of those that have a taker.
    private bool IsOf(QueuePair pair, ulong head) =>
        (byte)(head >> 8) == 0
        && port.Options.IsOurPartition(BinaryPrimitives.ReverseEndianness((ushort)(head >> 16)))
        && BinaryPrimitives.ReverseEndianness((uint)(head >> 32)) == pair.QpNumber;

    private static ulong HeadOf(ReadOnlySpan<byte> packet) =>
        BinaryPrimitives.ReadUInt64LittleEndian(packet) & HeadMask;

    private static uint TailOf(ReadOnlySpan<byte> packet) =>
        BinaryPrimitives.ReadUInt32BigEndian(packet[8..]) & TailMask;

    private void Count(PortLink link, int packets, int packetBytes, int checkedFully, int damaged)
    {
        Taken += packets;
        long bytes = (long)packets * packetBytes;
        ref RdmaStats stats = ref port.Counters;
        stats.PacketsReceived += packets;
        stats.BytesReceived += bytes;
        stats.IcrcChecksFull += checkedFully;
        stats.IcrcChecksSolved += packets - damaged - checkedFully;
        ref PortCounters counters = ref link.Count;
        counters.PacketsReceived += packets;
        counters.BytesReceived += bytes;
        if (damaged != 0)
        {
            stats.CountDrop(DropReason.BadIcrc);
            counters.PacketsDropped++;
        }
    }
}
