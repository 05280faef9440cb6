using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Makes Middles of one message, a WRITE's, a SEND's or those of an answer to a READ, out of one piece of memory that
/// is open. Port token held by the caller.
/// </summary>
internal static class MiddleRun
{
    /// <summary>
    /// Adds packets until there are as many as wanted, or the gate was closed: the first one without a look at that,
    /// for <see cref="RegionMemory.TryOpen"/> has entered.
    /// </summary>
    /// <param name="pair">Whose message.</param>
    /// <param name="region">What the memory is of.</param>
    /// <param name="bth">Of the first packet.</param>
    /// <param name="asks">The last packet that is wanted asks for an acknowledgement.</param>
    /// <param name="bytes">The piece, from the first byte of the first packet on.</param>
    /// <param name="count">How many packets; they fit the super-packet, and the piece.</param>
    /// <param name="translation">What was entered; the caller leaves it.</param>
    /// <param name="superPacket">Takes them.</param>
    /// <returns>How many were added.</returns>
    public static int Build(
        QueuePair pair,
        MemoryRegion region,
        in Bth bth,
        bool asks,
        ReadOnlySpan<byte> bytes,
        int count,
        Translation translation,
        ref SuperPacket superPacket)
    {
        RdmaPort port = pair.Port;
        int mtu = pair.MtuBytes;
        int packetBytes = PayloadPacket.SizeOf(Bth.Size, mtu);
        MemoryHint? hint = region.LengthBytes > port.Options.CachedBytes ? port.Options.WillRead : null;
        ref readonly IcrcFlow flow = ref pair.Peer.Outbound;
        uint seed = flow.Seed(packetBytes, identification: 0);
        int built = 0;
        for (; built < count && (built == 0 || !port.Memory.MustStop(translation)); built++)
        {
            hint?.Invoke(bytes.Slice(Math.Min(built + 1, count - 1) * mtu, mtu));
            superPacket.TryReserve(packetBytes, out Span<byte> packet);
            Bth header = bth with { AckRequest = asks && built == count - 1, Psn = Psn.Add(bth.Psn, (uint)built) };
            header.WriteTo(packet);
            uint icrc = Icrc.AppendCopy(
                flow.Reseed(seed, (ushort)superPacket.Count),
                header,
                bytes.Slice(built * mtu, mtu),
                packet.Slice(Bth.Size, mtu));
            Icrc.Finish(icrc, packet[^PacketView.IcrcSize..]);
            superPacket.Commit(packetBytes);
        }

        return built;
    }
}
