using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// A completion comes on one processor while an application on another arms its queue and looks once more: it is seen
/// by that look, or it makes an event.
/// </summary>
public class CompletionEventRaceTests
{
    private const int RoundsMax = 2_000_000; // of a twin that was lucky in all before

    [Fact]
    public void A_completion_that_the_last_look_misses_makes_an_event() =>
        Assert.Null(FindLost(200_000, isFenced: true));

    [Fact]
    public void A_queue_without_barriers_is_caught()
    {
        Assert.SkipWhen(Environment.ProcessorCount == 1, "one processor sees its own writes in order");
        Assert.NotNull(FindLost(RoundsMax, isFenced: false));
    }

    // The round in which nobody heard of the completion; null for none.
    private static int? FindLost(int rounds, bool isFenced)
    {
        CompletionQueue queue = new(64, null, isFenced);
        ReceiveQueue work = new(1, 1, null);
        int round = 0, pushed = 0;
        Thread port = new(() =>
        {
            for (int i = 1; i <= rounds && AwaitRound(ref round, i); i++)
            {
                Stagger(i % 13);
                queue.TryPush(new WorkCompletion { WrId = 1 }, work, 0, isSolicited: false, TimeSpan.Zero);
                Volatile.Write(ref pushed, i);
            }
        });
        port.Start();
        int? lost = null;
        Span<WorkCompletion> one = stackalloc WorkCompletion[1];
        for (int i = 1; i <= rounds && lost is null; i++)
        {
            Volatile.Write(ref round, i);
            Stagger(i % 29);
            queue.RequestNotify(solicitedOnly: false);
            bool isSeen = queue.Poll(one) != 0;
            AwaitRound(ref pushed, i);
            lost = isSeen || queue.TryTakeEvent() ? null : i;

            // As at the start: empty, not armed, no event.
            queue.TryPush(new WorkCompletion { WrId = 2 }, work, 0, isSolicited: false, TimeSpan.Zero);
            while (queue.Poll(one) != 0 || queue.TryTakeEvent())
            {
            }
        }

        Volatile.Write(ref round, -1);
        port.Join();
        return lost;
    }

    // False: there is no such round.
    private static bool AwaitRound(ref int word, int round)
    {
        for (int looks = 1; ; looks++)
        {
            int now = Volatile.Read(ref word);
            if (now == round || now < 0)
            {
                return now == round;
            }

            if (looks % 1000 == 0)
            {
                Thread.Yield(); // the other one may have no processor
            }
        }
    }

    // The two do not meet at the same place in each round.
    private static void Stagger(int times)
    {
        int nothing = 0;
        for (int i = 0; i < times; i++)
        {
            Volatile.Read(ref nothing);
        }
    }
}
