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
        Assert.Throws<InterleavingException>(
            () => Explorer.Replay(_ => Build(g => g.TryEnterCheckThenAct()), found.Trail));
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
    /// What the explorer cannot see: the memory order of the processor. Users read and write cells inside the gate with
    /// plain accesses; the owner frees them when the gate has drained. Bounded by rounds, not by time.
    /// </summary>
    [Fact]
    public async Task Nobody_is_inside_a_drained_gate_on_real_threads()
    {
        const int Rounds = 2_000;
        const int Users = 2;
        const int Freed = -1;
        CancellationToken stop = TestContext.Current.CancellationToken;
        Use current = new(new InFlightGate());
        bool over = false;
        long used = 0, late = 0;
        void User()
        {
            while (!Volatile.Read(ref over))
            {
                Use use = Volatile.Read(ref current);
                if (!use.Gate.TryEnter())
                {
                    Thread.Yield(); // until the owner has made the next one
                    continue;
                }

                if (use.Cells[0] == Freed)
                {
                    Interlocked.Increment(ref late);
                }

                use.Cells[1 + (Interlocked.Increment(ref used) & 1)] = 1;
                use.Gate.Exit();
            }
        }

        Task[] users = [.. Enumerable.Range(0, Users).Select(_ => Task.Factory.StartNew(
            User, stop, TaskCreationOptions.LongRunning, TaskScheduler.Default))];
        try
        {
            List<int[]> freed = [];
            for (int round = 0; round < Rounds; round++)
            {
                int drains = 0;
                Use use = new(new InFlightGate(() => Interlocked.Increment(ref drains)));
                long before = Volatile.Read(ref used);
                Volatile.Write(ref current, use);
                while (Volatile.Read(ref used) == before)
                {
                    stop.ThrowIfCancellationRequested();
                    Thread.Yield();
                }

                Thread.SpinWait(round % 64);
                bool drainedAtOnce = use.Gate.Close(out long inside);
                while (!use.Gate.IsDrained)
                {
                    Thread.Yield();
                }

                // A user that is still inside would see the mark, and its own write would survive it.
                use.Cells.AsSpan().Fill(Freed);
                freed.Add(use.Cells);
                while (!drainedAtOnce && Volatile.Read(ref drains) == 0)
                {
                    Thread.Yield(); // the last user is out, and is about to say so
                }

                Assert.Equal(drainedAtOnce, inside == 0);
                Assert.Equal(drainedAtOnce ? 0 : 1, drains);
            }

            Assert.All(freed, cells => Assert.All(cells, cell => Assert.Equal(Freed, cell)));
        }
        finally
        {
            Volatile.Write(ref over, true);
            await Task.WhenAll(users);
        }

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

    private sealed record Use(InFlightGate Gate)
    {
        public int[] Cells { get; } = new int[3];
    }
}
