using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// The mirror image of MiddleRun. A super-packet brings up to 62 packets that differ in PSN and payload only, so what
// cannot change between two of them under the port token is looked at once:
//
//   once a run       port, queue pair and their states, peer, partition, what is left of the message; of a WRITE the
//                    right of the queue pair, for range and rights in memory were checked by its First
//   every packet     announcements of owners, header, PSN, ICRC, window, translation, gate, and of an answer to a READ
//                    the own key, its range and rights
//
// A packet that is not exactly the next Middle, or asks for something, goes the way of all packets (PacketIntake). One
// that is has been taken when its header fits: what is wrong with it then is answered here as it is there.

/// <summary>
/// Whoever places the Middles of a message one behind the other: the responder those of a WRITE, the requester those of
/// what answers a READ. Port token held by the caller.
/// </summary>
internal interface IMiddleTaker
{
    /// <summary>The PSN of the next packet.</summary>
    uint ExpectedPsn { get; }

    /// <summary>How many Middles may come before anything else; 0 when each packet needs a look of its own.</summary>
    int MiddlesToCome { get; }

    /// <summary>
    /// Places a Middle of full length that asks for nothing: what it would do with any other packet that is next. At
    /// most <see cref="MiddlesToCome"/> times, then <see cref="EndMiddles"/>.
    /// </summary>
    /// <param name="psn">The expected one, which it has.</param>
    /// <param name="packet">BTH to ICRC, verified.</param>
    /// <returns>False when the packet behind it needs a look of its own: this one was refused, perhaps.</returns>
    bool TryPlaceMiddle(uint psn, ReadOnlySpan<byte> packet);

    /// <summary>No more come, for now.</summary>
    void EndMiddles();
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

        int most = Math.Min(bytes.Length / packetBytes, taker.MiddlesToCome);
        ulong head = HeadOf(bytes);
        if (most == 0 || !IsOf(pair, head))
        {
            return 0;
        }

        Peer peer = pair.Peer;
        RegionAnnouncements announcements = port.Announcements;
        uint psn = taker.ExpectedPsn;
        int taken = 0, checkedFully = 0, damaged = 0;
        for (bool goesOn = true; goesOn && taken < most && !announcements.CallsForAttention; taken++)
        {
            ReadOnlySpan<byte> packet = bytes.Slice(taken * packetBytes, packetBytes);
            if (HeadOf(packet) != head || TailOf(packet) != psn)
            {
                break;
            }

            if (!peer.Verify(packet, sourcePort, arrival.Identification + taken, out bool isFullCheck))
            {
                damaged++;
                goesOn = false;
                continue;
            }

            checkedFully += isFullCheck ? 1 : 0;
            goesOn = taker.TryPlaceMiddle(psn, packet);
            psn = Psn.Next(psn);
        }

        taker.EndMiddles();
        Count(arrival.Link, taken, packetBytes, checkedFully, damaged);
        return taken;
    }

    private static IMiddleTaker? TakerOf(QueuePair pair, Opcode opcode) => opcode switch
    {
        Opcode.RcWriteMiddle => pair.Responder as Responder,
        Opcode.RcReadResponseMiddle => pair.Reliable,
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
