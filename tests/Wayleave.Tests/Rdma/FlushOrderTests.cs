using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Posts against the end of a queue pair, in every order: nothing is lost, nothing overtakes.</summary>
public class FlushOrderTests
{
    [Fact]
    public void ROCE_55_What_is_posted_while_a_queue_pair_ends_completes_once_and_in_order()
    {
        HashSet<string> seen = [];
        Exploration exploration = Explorer.Exhaustive(_ => Race(ringsAfterPost: true, seen));
        Assert.True(exploration.Runs > 5, $"only {exploration.Runs} orders");
        Assert.Contains("refused 0", seen);
    }

    [Fact]
    public void ROCE_55_is_caught_when_a_post_does_not_look_at_the_state_again() =>
        Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => Race(ringsAfterPost: false, [])));

    // Three receives are posted while the port takes the queue pair to ERR: each that was accepted is flushed, in
    // order, whether the flush or the post came first.
    private static Scenario Race(bool ringsAfterPost, HashSet<string> seen)
    {
        Conversation c = new(options: o => o with
        {
            Defences = new ResponderDefences { RingsAfterReceive = ringsAfterPost },
        });
        List<ulong> accepted = [];

        void Application()
        {
            for (ulong i = 1; i <= 3; i++)
            {
                Errno errno = c.Pair.PostReceive(
                    new ReceiveWorkRequest(i), new Sge(c.Region.Iova, 8, c.Region.Key));
                if (errno == Errno.Success)
                {
                    accepted.Add(i);
                }
            }
        }

        void Port()
        {
            c.Pair.Modify(
                new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State);
            Interleave.Point("test: in error");
            c.ExpectNothing(); // a turn of the driver
        }

        return new Scenario(
            [Actor.OnThread("application", Application), Actor.OnThread("port", Port)],
            () => { },
            AtEnd: () =>
            {
                if (c.Node.Port.HasDoorbell)
                {
                    c.ExpectNothing(); // who leaves the token looks at the bell
                }

                List<WorkCompletion> flushed = TestNode.Poll(c.Completions);
                IEnumerable<ulong> ids = flushed.Select(f => f.WrId);
                seen.Add($"refused {3 - accepted.Count}");
                if (!ids.SequenceEqual(accepted)
                    || flushed.Any(f => f.Status != WorkCompletionStatus.WorkRequestFlushed))
                {
                    throw new InvalidOperationException(
                        $"posted {string.Join(' ', accepted)}, flushed {string.Join(' ', ids)}");
                }
            });
    }
}
