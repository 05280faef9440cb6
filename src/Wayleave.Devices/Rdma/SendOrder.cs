using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>Who sends next to a socket. Port token held by the caller.</summary>
internal static class SendOrder
{
    // Requests and responses take turns at being first. What comes second still gets on if it is no longer than what is
    // there: an acknowledgement rides at the end of the data.
    public static void Fill(Peer peer, ref SuperPacket superPacket, TimeSpan now)
    {
        peer.ResponsesGoFirst = !peer.ResponsesGoFirst;
        if (peer.ResponsesGoFirst)
        {
            FillResponses(peer, ref superPacket);
            FillRequests(peer, ref superPacket, now);
        }
        else
        {
            FillRequests(peer, ref superPacket, now);
            FillResponses(peer, ref superPacket);
        }
    }

    private static void FillResponses(Peer peer, ref SuperPacket superPacket)
    {
        while (peer.Responses.Head is { } pair)
        {
            BuildResult result = pair.Congestion is { } congestion
                ? BuildWithin(congestion.Rate, pair, congestion.BuildNext(ref superPacket), ref superPacket)
                : pair.Responder.BuildNext(ref superPacket);
            if (result == BuildResult.DoesNotFit)
            {
                // A long READ response takes turns with the others, one super-packet each.
                peer.Responses.Rotate();
                return;
            }

            if (result != BuildResult.Built)
            {
                peer.Responses.RemoveHead();
            }
        }
    }

    // Data of READs counts against the rate of the queue pair as its requests do; answers without data never wait.
    private static BuildResult BuildWithin(
        RateControl rate, QueuePair pair, BuildResult notification, ref SuperPacket superPacket)
    {
        if (notification != BuildResult.Nothing)
        {
            return notification;
        }

        TimeSpan now = pair.Port.Now;
        bool sendsData = pair.Responder.SendsData;
        if (sendsData && rate.NextSend > now)
        {
            pair.Port.Timers.Delay(pair, rate.NextSend);
            return BuildResult.Nothing;
        }

        int before = superPacket.LengthBytes;
        BuildResult result = pair.Responder.BuildNext(ref superPacket);
        if (sendsData)
        {
            rate.NoteSent(superPacket.LengthBytes - before, now);
        }

        return result;
    }

    // A First is longer than what comes behind it, so by itself it ends its super-packet after two packets. Of several
    // queue pairs that begin a message each, the Firsts go together, and then the rest of each message, in a turn:
    //
    //   A.First B.First C.First | A.Middle ... A.Last | B.Middle ... B.Last | C.Middle ... C.Last
    //
    // A turn is a super-packet, besides that of the First.
    private static void FillRequests(Peer peer, ref SuperPacket superPacket, TimeSpan now)
    {
        QueuePair? last = null;
        int turnStart = 0;
        bool opens = false; // the head's turn has begun with a message in this super-packet
        while (peer.Requests.Head is { } pair)
        {
            if (!ReferenceEquals(pair, last))
            {
                (last, turnStart, opens) = (pair, superPacket.LengthBytes, false);
                peer.Newcomer = ReferenceEquals(peer.Newcomer, pair) ? null : peer.Newcomer;
            }

            RateControl? rate = pair.Congestion?.Rate;
            if (rate is not null && rate.NextSend > now)
            {
                // It is woken when its time has come, and others go on.
                peer.Requests.RemoveHead();
                pair.Port.Timers.Delay(pair, rate.NextSend);
                continue;
            }

            int before = superPacket.LengthBytes;
            BuildResult result = pair.Requester.BuildNext(ref superPacket, now);
            rate?.NoteSent(superPacket.LengthBytes - before, now);
            switch (result)
            {
                case BuildResult.Built:
                    if (before == turnStart && pair.Reliable is { Turn.HasBegun: true })
                    {
                        opens = true;
                        if (before == 0 && TryBeginOthers(pair, ref superPacket, now))
                        {
                            return;
                        }
                    }

                    continue;
                case BuildResult.DoesNotFit:
                    bool isOver = superPacket.LengthBytes > turnStart || superPacket.Count == 0;
                    if (!isOver
                        || pair.Reliable is { Turn.GoesOn: true }
                        || (opens && pair.Reliable is { Turn.IsWithinMessage: true }))
                    {
                        return;
                    }

                    peer.Requests.Rotate();
                    if (!EndsMessage(peer.Requests.Head, pair, superPacket))
                    {
                        return;
                    }

                    continue;
                case BuildResult.WindowClosed:
                    // Who closed the window goes behind the others: what an acknowledgement opens is theirs. Not with
                    // a message that another turn ends: it would count as a whole one.
                    bool isCut = pair.Reliable is { } cut && cut.Turn.EndsInTurn(superPacket);
                    if (superPacket.LengthBytes > turnStart && !opens && !isCut)
                    {
                        peer.Requests.Rotate();
                    }

                    return;
                case BuildResult.OtherPeer:
                    peer.Requests.RemoveHead();
                    ScheduleRequests(pair);
                    continue;
                case BuildResult.ReadWindowClosed:
                    peer.Requests.RemoveHead();
                    pair.Port.Peers.AddReadWaiter(pair);
                    continue;
                default:
                    peer.Requests.RemoveHead();
                    continue;
            }
        }
    }

    // The other queue pairs stay where they are in the list. Whatever is wrong with one of them is looked at when its
    // turn comes.
    private static bool TryBeginOthers(QueuePair head, ref SuperPacket superPacket, TimeSpan now)
    {
        if (superPacket.SegmentBytes <= PayloadPacket.SizeOf(Bth.Size, head.MtuBytes))
        {
            return false; // a SEND: what follows is as long as its First, and goes with it
        }

        QueuePair? pair = head.Link(QueuePairListKind.Requests).Next;
        int alone = superPacket.Count;
        while (superPacket.Count < head.Port.Options.BeginTogether
            && pair is { Congestion: null, Reliable: { } requester }
            && requester.Turn.Begins(superPacket.SegmentBytes))
        {
            QueuePair? next = pair.Link(QueuePairListKind.Requests).Next;
            if (requester.BuildNext(ref superPacket, now) != BuildResult.Built)
            {
                break;
            }

            pair = next;
        }

        return superPacket.Count > alone;
    }

    // What is left of a short message goes along with that of the queue pair before it.
    private static bool EndsMessage(QueuePair? next, QueuePair last, in SuperPacket superPacket) =>
        next is { Reliable: { } requester }
        && !ReferenceEquals(next, last)
        && last.Reliable is { Turn.IsWithinMessage: false }
        && requester.Turn.EndsWithin(superPacket);

    public static void ScheduleRequests(QueuePair pair)
    {
        if (!pair.Link(QueuePairListKind.Requests).IsLinked && pair.HasPeer)
        {
            pair.Peer.Requests.Add(pair);
            pair.Peer.Newcomer = pair;
        }
    }

    /// <summary>
    /// As <see cref="ScheduleRequests"/>, before all others: what it sends takes no room of a window, and those before
    /// it may be waiting for some.
    /// </summary>
    public static void ScheduleProbe(QueuePair pair)
    {
        if (pair.Link(QueuePairListKind.Requests).IsLinked)
        {
            pair.Peer.Requests.Remove(pair);
            pair.Peer.ReadWaiters.Remove(pair);
        }

        pair.Peer.Requests.AddFirst(pair);
    }

    public static void ScheduleResponses(QueuePair pair)
    {
        if (!pair.Link(QueuePairListKind.Responses).IsLinked && pair.HasPeer)
        {
            pair.Peer.Responses.Add(pair);
        }
    }

    public static void WakeReadWaiters(Peer peer)
    {
        while (peer.ReadWaiters.Head is { } pair)
        {
            peer.ReadWaiters.RemoveHead();
            ScheduleRequests(pair);
        }
    }
}
