using Wayleave.Core.Buffers;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Buffers;

public class InFlightGateTests(ITestOutputHelper output)
{
    [Fact]
    public void Nobody_is_inside_a_drained_gate_and_it_drains_once_in_every_order_of_two_users_and_a_closer()
    {
        Exploration exploration = Explorer.Exhaustive(_ => Build(g => g.TryEnter()));
        output.WriteLine($"{exploration}");
        Assert.True(exploration.Runs > 1000, "fewer orders than there are: the points of the gate are off");
    }

    [Fact]
    public void A_gate_that_looks_first_and_counts_later_is_caught()
    {
        InterleavingException found =
            Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => Build(g => g.TryEnterCheckThenAct())));
        output.WriteLine(found.Message);
        Assert.Throws<InterleavingException>(() => Explorer.Replay(_ => Build(g => g.TryEnterCheckThenAct()), found.Trail));
        Explorer.Replay(_ => Build(g => g.TryEnter()), found.Trail);
    }

    [Fact]
    public void A_refused_user_leaves_no_trace_and_a_gate_never_reopens()
    {
        InFlightGate gate = new();
        Assert.True(gate.TryEnter());
        Assert.False(gate.Close(out long inside));
        Assert.Equal(1, inside);
        Assert.False(gate.TryEnter());
        Assert.Equal(1, gate.Inside);
        Assert.False(gate.IsDrained);
        gate.Exit();
        Assert.True(gate.IsDrained);
        Assert.False(gate.TryEnter());
        Assert.True(gate.IsDrained);
    }

    [Fact]
    public void Closing_an_empty_gate_reports_the_drain_itself_and_not_by_the_callback()
    {
        int drains = 0;
        InFlightGate gate = new(() => drains++);
        Assert.True(gate.Close(out long inside));
        Assert.Equal(0, inside);
        Assert.Equal(0, drains);
    }

    /// <summary>
    /// Tier 4: what the explorer cannot see, the memory order of the processor. Users read and write a cell inside the gate with
    /// plain accesses; the owner frees it when the gate has drained. Bounded by rounds, not by time.
    /// </summary>
    [Fact]
    public async Task Nobody_is_inside_a_drained_gate_on_real_threads()
    {
        const int Rounds = 5_000;
        const int Users = 2;
        CancellationToken stop = TestContext.Current.CancellationToken;
        using Barrier step = new(Users + 1);
        InFlightGate gate = null!;
        int[] cell = null!;
        int drains = 0;
        long used = 0, late = 0;
        void User()
        {
            for (int round = 0; round < Rounds; round++)
            {
                step.SignalAndWait(stop);
                long mine = 0, freed = 0;
                while (gate.TryEnter())
                {
                    freed += cell[0] == -1 ? 1 : 0;
                    cell[1 + (mine++ & 1)] = round;
                    gate.Exit();
                }

                Interlocked.Add(ref used, mine);
                Interlocked.Add(ref late, freed);
                step.SignalAndWait(stop);
            }
        }

        Task[] users = [.. Enumerable.Range(0, Users).Select(_ => Task.Factory.StartNew(
            User, stop, TaskCreationOptions.LongRunning, TaskScheduler.Default))];
        for (int round = 0; round < Rounds; round++)
        {
            int[] mine = [0, 0, 0];
            cell = mine;
            drains = 0;
            gate = new InFlightGate(() => Interlocked.Increment(ref drains));
            step.SignalAndWait(stop);
            Thread.SpinWait(round % 64);
            bool drained = gate.Close(out _);
            while (!gate.IsDrained)
            {
                Thread.SpinWait(1);
            }

            // Freed: from here on a user that is still inside would see it, and its own write would survive the clearing.
            mine.AsSpan().Fill(-1);
            step.SignalAndWait(stop);
            Assert.All(mine, value => Assert.Equal(-1, value));
            Assert.Equal(drained ? 0 : 1, drains);
        }

        await Task.WhenAll(users);
        Assert.Equal(0, late);
        output.WriteLine($"{used} uses in {Rounds} rounds");
    }

    private static Scenario Build(Func<InFlightGate, bool> enter)
    {
        int inside = 0, drains = 0;
        bool freed = false;
        void Free()
        {
            // The drain is what frees: nobody may be inside, and it comes once.
            if (++drains != 1 || inside != 0)
            {
                throw new InvalidOperationException($"drain number {drains}, with {inside} inside");
            }

            freed = true;
        }

        InFlightGate gate = new(Free);
        void Use()
        {
            if (enter(gate))
            {
                inside++;
                ThreadedActor.Stop("uses the memory");
                if (freed)
                {
                    throw new InvalidOperationException("used after it was freed");
                }

                inside--;
                gate.Exit();
            }
        }

        void Close()
        {
            if (gate.Close(out long seen))
            {
                Free();
            }
            else if (seen is < 1 or > 2)
            {
                throw new InvalidOperationException($"{seen} users inside, of two");
            }
        }

        return new Scenario(
            [Actor.OnThread("a", Use), Actor.OnThread("b", Use), Actor.OnThread("owner", Close)],
            () =>
            {
                if (freed && inside != 0)
                {
                    throw new InvalidOperationException("freed with a user inside");
                }
            },
            AtEnd: () =>
            {
                if (drains != 1 || !gate.IsDrained)
                {
                    throw new InvalidOperationException($"{drains} drains at the end");
                }
            });
    }
}
