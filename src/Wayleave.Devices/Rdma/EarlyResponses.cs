using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// The First and the Last of what answers a READ carry four bytes more than what is between them, so by themselves they
// cut every answer in two, and a lone one in three. To a peer that holds packets which come ahead, both of the READs
// that wait here go with the First of the one before them, and the rest of all of them is full super-packets:
//
//   1.First 1.Last 2.First 2.Last 3.First 3.Last 1.Middle | 1.Middle ... 2.Middle | 2.Middle ... 3.Middle | 3.Middle
//
// What is left of those, and does not fill a super-packet, waits until both ends of the next ones have gone.
//
// Each has its PSN, and counts as sent when its turn comes (ResponderResources.Advance). Its bytes are read when it
// leaves, with the same checks as in its turn: what fails them then is left to its turn, and answered there. Whoever
// asks again gets all of it again.

/// <summary>
/// Sends what answers READs before its turn. What it knows is in the answers; made where it is needed, since there are
/// many queue pairs. Port token held by the caller.
/// </summary>
internal readonly ref struct EarlyResponses(QueuePair pair, ResponderResources resources, ResponseBuilder builder)
{
    /// <summary>
    /// So many packets a requester holds at most: both ends of <see cref="PeerProfile.FirstsAhead"/> answers, and the
    /// Last of the one before them.
    /// </summary>
    public static int PacketsMax(PeerProfile profile) =>
        2 * Math.Min(profile.FirstsAhead, PeerProfile.FirstsAheadMax) + 1;

    /// <summary>
    /// Opens a super-packet with both ends of the answers that wait behind the one at the head. False when there is
    /// none, or when the rest of those that have begun fills a super-packet of its own.
    /// </summary>
    public bool TryOpen(ref SuperPacket superPacket)
    {
        int fresh = 0, rest = 0;
        for (int i = 0; i < Count; i++)
        {
            ref ActiveResponse response = ref resources[i];
            bool hasBegun = HasBegun(response);
            fresh += hasBegun ? 0 : 1;
            rest += hasBegun ? response.Request.PacketCount - Math.Max(response.Next, 1) : 0;
            rest -= response.IsLastOut ? 1 : 0;
        }

        if (fresh == 0 || rest >= superPacket.CapacityFor(PayloadPacket.SizeOf(Bth.Size, pair.MtuBytes)))
        {
            return false;
        }

        Send(ref superPacket);
        return superPacket.Count != 0;
    }

    /// <summary>Adds both ends of the answers that wait, and of the one at the head its Last.</summary>
    public void Send(ref SuperPacket superPacket)
    {
        for (int i = 0; i < Count; i++)
        {
            ref ActiveResponse response = ref resources[i];
            if (!HasBegun(response))
            {
                response.IsFirstOut = TryBuild(response, 0, ref superPacket);
            }

            // A shorter Last would end the super-packet.
            bool isLong = response.Request.LengthBytes % (uint)pair.MtuBytes == 0;
            if (isLong && !response.IsLastOut && HasBegun(response))
            {
                response.IsLastOut = TryBuild(response, response.Request.PacketCount - 1, ref superPacket);
            }

            if (!HasBegun(response) || (isLong && !response.IsLastOut))
            {
                return;
            }
        }
    }

    // How many answers this is about, that at the head included: it has begun, and its Last is not next.
    private int Count
    {
        get
        {
            int ahead = Math.Min(pair.Profile.FirstsAhead, PeerProfile.FirstsAheadMax);
            int count = 0;
            while (ahead > 0 && count <= ahead && count < resources.Count && MayGo(count))
            {
                count++;
            }

            return count;
        }
    }

    private static bool HasBegun(in ActiveResponse response) => response.Next > 0 || response.IsFirstOut;

    // One packet alone is as long as a First: it goes in its turn, and what is behind it waits.
    private bool MayGo(int index)
    {
        ref ActiveResponse response = ref resources[index];
        return response.Request is { IsRead: true, PacketCount: > 1 }
            && !response.IsRepetition
            && (index == 0
                ? response.Next > 0 && response.Next < response.Request.PacketCount - 1
                : Follows(resources[index - 1], response));
    }

    // Nothing between them: a SEND or WRITE there is answered before the second one.
    private static bool Follows(in ActiveResponse first, in ActiveResponse second) =>
        Psn.Add(first.Request.FirstPsn, (uint)first.Request.PacketCount) == second.Request.FirstPsn;

    private bool TryBuild(in ActiveResponse response, int index, ref SuperPacket superPacket)
    {
        bool isBuilt = builder.TryBuildEarly(response, index, ref superPacket);
        pair.Port.Counters.ResponsesSentAhead += isBuilt ? 1 : 0;
        return isBuilt;
    }
}
