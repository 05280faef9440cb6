using System.Diagnostics.CodeAnalysis;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Packets that belong to no queue pair any more, or to none: what one owed when it ended, and notifications of
/// congestion to who sends datagrams. Each leaves by itself, before everything else. Port token held by the caller.
/// </summary>
internal sealed class LastWords(RdmaDeviceOptions options)
{
    private const int AnswerBytesMax = 64; // an acknowledgement is 20

    private readonly Queue<(PortLink Link, AddressVector To, byte[] Bytes)> _waiting = [];

    /// <summary>
    /// The queue pair is about to be stopped or reset: the answer that it owes, which waits for its turn or for data to
    /// ride with, leaves without it.
    /// </summary>
    public void Settle(QueuePair pair)
    {
        bool mayOwe = pair.HasPeer
            && pair.State is >= QueuePairState.ReadyToReceive and not QueuePairState.Error
            && options.Defences.SettlesBeforeEnd;
        if (!mayOwe)
        {
            return;
        }

        Span<byte> bytes = stackalloc byte[AnswerBytesMax];
        SuperPacket only = new(bytes, segmentsMax: 1);
        if (pair.Responder.TrySettle(ref only))
        {
            Add(pair.PortLink, pair.Peer.Address, bytes[..only.LengthBytes]);
        }
    }

    /// <summary>Takes a packet to send.</summary>
    /// <param name="link">The port that it leaves by.</param>
    /// <param name="to">Where to.</param>
    /// <param name="packet">Copied.</param>
    public void Add(PortLink link, in AddressVector to, ReadOnlySpan<byte> packet) =>
        _waiting.Enqueue((link, to, packet.ToArray()));

    /// <summary>Writes the oldest one.</summary>
    public bool TryTake(
        Span<byte> buffer, [NotNullWhen(true)] out PortLink? link, out AddressVector to, out SuperPacket only)
    {
        if (!_waiting.TryDequeue(out (PortLink Link, AddressVector To, byte[] Bytes) oldest))
        {
            link = null;
            to = default;
            only = default;
            return false;
        }

        (link, to) = (oldest.Link, oldest.To);
        oldest.Bytes.CopyTo(buffer);
        only = new SuperPacket(buffer[..oldest.Bytes.Length], segmentsMax: 1);
        only.Commit(oldest.Bytes.Length);
        return true;
    }
}
