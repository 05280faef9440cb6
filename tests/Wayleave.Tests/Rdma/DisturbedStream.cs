using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// Super-packets of a peer that means well: what it should send is planned, and now and then one of its packets is
/// changed in one place, damaged, lost, sent twice or out of order.
/// </summary>
/// <param name="random">Decides.</param>
/// <param name="oneIn">Of so many packets one is disturbed in each of the ways there are.</param>
internal sealed class DisturbedStream(SplitMix64 random, int oneIn)
{
    private readonly IcrcFlow _flow = MakeFlow();

    /// <summary>What it should send, in order; whoever plans adds to it.</summary>
    public List<RawPacket> Plan { get; } = [];

    /// <summary>Which of them is next.</summary>
    public int Next { get; set; }

    /// <summary>The queue pair that they are for, and another one of the same peer.</summary>
    public (uint Qp, uint Other) Names { get; set; }

    /// <summary>A packet alone, with no disturbance.</summary>
    public (byte[] Bytes, int SegmentBytes, byte TrafficClass) Alone(RawPacket packet)
    {
        byte[] bytes = (packet with { DestQp = Names.Qp }).Build(_flow);
        return (bytes, bytes.Length, 0);
    }

    /// <summary>A few packets, as far as they fit one super-packet, and are planned.</summary>
    public (byte[] Bytes, int SegmentBytes, byte TrafficClass) Take()
    {
        List<byte[]> packets = [];
        for (int left = 1 + random.Next(16); left > 0 && Next < Plan.Count; left--)
        {
            int change = random.Next(oneIn);
            RawPacket packet = Change(Plan[Next++] with { DestQp = Names.Qp }, change);
            byte[] bytes = packet.Build(_flow, (ushort)(change == 14 ? 5 + packets.Count : packets.Count));
            if (change == 15)
            {
                bytes[random.Next(bytes.Length)] ^= (byte)(1 << random.Next(8));
            }

            if (packets.Count > 0 && bytes.Length > packets[0].Length)
            {
                Next--;
                break;
            }

            packets.Add(bytes);
            if (bytes.Length < packets[0].Length)
            {
                break;
            }

            Next += change switch
            {
                16 => 1, // one is lost
                17 => -1, // or comes twice
                _ => 0,
            };
            Next = Math.Max(Next, 0);
        }

        if (packets.Count > 2 && random.Next(25) == 0)
        {
            (packets[0], packets[1]) = (packets[1], packets[0]);
        }

        byte trafficClass = (byte)(random.Next(20) == 0 ? 3 : 0);
        return ([.. packets.SelectMany(p => p)], packets[0].Length, trafficClass);
    }

    private RawPacket Change(RawPacket packet, int change) => change switch
    {
        0 => packet with { AckRequest = true },
        1 => packet with { PKey = 0x7FFF }, // of the same partition
        2 => packet with { PKey = 0x1234 },
        3 => packet with { DestQp = Names.Other },
        4 => packet with { DestQp = 0x5555 },
        5 => packet with { Solicited = true },
        6 => packet with { BackwardCongestion = true },
        7 => packet with { Version = 1 },
        8 => packet with { Payload = packet.Payload[..^4] },
        9 => packet with { Pad = 2 },
        10 => packet with { Opcode = OtherMiddleOf(packet.Opcode) },
        11 => packet with { Opcode = LastOf(packet.Opcode) },
        12 => packet with { Opcode = Opcode.UcWriteMiddle },
        13 => packet with { Payload = [.. packet.Payload, .. new byte[4]] },
        _ => packet,
    };

    private static Opcode OtherMiddleOf(Opcode opcode) =>
        opcode == Opcode.RcWriteMiddle ? Opcode.RcSendMiddle : Opcode.RcWriteMiddle;

    private static Opcode LastOf(Opcode opcode) => opcode switch
    {
        Opcode.RcSendFirst or Opcode.RcSendMiddle => Opcode.RcSendLast,
        Opcode.RcWriteFirst or Opcode.RcWriteMiddle => Opcode.RcWriteLast,
        _ => Opcode.RcReadResponseLast,
    };

    // Of every Conversation.
    private static IcrcFlow MakeFlow()
    {
        Conversation like = new();
        return new IcrcFlow(like.PeerGid, like.Node.Gid, 4791, 4791);
    }
}
