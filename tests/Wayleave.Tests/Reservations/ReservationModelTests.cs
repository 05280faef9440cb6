using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Simulation;
using Wayleave.Tests.Fences;
using Xunit;

namespace Wayleave.Tests.Reservations;

/// <summary>
/// Whatever is done to a reservation, nobody loses a wait: a fence that was added and has not ended is there, or one
/// that cannot signal before it stands in its place for at least the same askers.
/// </summary>
public class ReservationModelTests : FenceScenario
{
    private readonly Dictionary<Fence, ReservationUsage> _added = [];
    private Reservation _reservation = null!;
    private AcquireTicket _ticket = null!;
    private Timeline[] _timelines = [];
    private List<Fence>[] _pending = [];

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void No_wait_is_lost_by_any_sequence_of_operations(int seed) => Assert.Null(Play(Host, seed));

    [Fact]
    public void A_forced_fence_that_counts_as_ended_is_caught()
    {
        HostContext broken = new(Clock) { Defences = CoreDefences.All & ~CoreDefences.ForcedIsNoEvidence };
        Assert.Contains("forced", Play(broken, seed: 1), StringComparison.Ordinal);
    }

    [Fact]
    public void A_walk_without_the_lock_sees_what_is_there_all_the_time_in_every_order()
    {
        Exploration exploration = Explorer.Exhaustive(_ => BuildWalk());
        Assert.True(exploration.Runs > 100, $"{exploration}");
    }

    // Null, or what was lost.
    private string? Play(HostContext host, int seed)
    {
        SplitMix64 random = new((ulong)seed);
        using (host.Enter())
        {
            _reservation = new Reservation(host, "lent");
            _ticket = new AcquireTicket(host, "test");
            _timelines = [.. Enumerable.Range(0, 5).Select(i => new Timeline(host, $"{i}"))];
            _pending = [.. _timelines.Select(_ => new List<Fence>())];
            HashSet<Fence> forced = [];
            for (int i = 0; i < 3_000; i++)
            {
                int at = random.Next(_timelines.Length);
                switch (random.Next(8))
                {
                    case < 4:
                        Add(at, random);
                        break;
                    case 4 when _pending[at].Count > 0:
                        _pending[at][0].Signal();
                        _pending[at].RemoveAt(0);
                        break;
                    case 5 when _pending[at].Count > 0 && random.Next(4) == 0:
                        forced.Add(_pending[at][0]);
                        _pending[at][0].Force(Errno.ETIME);
                        _pending[at].RemoveAt(0);
                        break;
                    case 6 when forced.Count > 3:
                        Fence back = forced.First();
                        back.Signal();
                        forced.Remove(back);
                        break;
                    case 7:
                        Copy(host);
                        break;
                }

                if (FindLost(forced) is { } lost)
                {
                    return $"after {i} operations: {lost}";
                }
            }
        }

        return null;
    }

    private void Add(int at, SplitMix64 random)
    {
        Fence fence = _timelines[at].CreateFence();
        ReservationUsage usage = (ReservationUsage)random.Next(4);
        _pending[at].Add(fence);
        _added[fence] = usage;
        _reservation.TryLock(_ticket);
        _reservation.ReserveFences(_ticket, 1);
        _reservation.AddFence(_ticket, fence, usage);
        _reservation.Unlock(_ticket);
    }

    private void Copy(HostContext host)
    {
        Reservation copy = new(host, "copy");
        copy.TryLock(_ticket);
        copy.CopyFences(_ticket, _reservation);
        copy.Unlock(_ticket);
        _reservation = copy;
    }

    private string? FindLost(HashSet<Fence> forced)
    {
        foreach ((Fence fence, ReservationUsage usage) in _added)
        {
            bool isOver = fence.HasEnded && !forced.Contains(fence);
            if (isOver)
            {
                _added.Remove(fence);
                continue;
            }

            IReadOnlyList<Fence> seen = _reservation.GetFences(usage);
            bool isThere = seen.Any(f => f.Context == fence.Context && f.IsLaterOrSame(fence) && !f.HasEnded);
            if (!isThere)
            {
                return $"{fence} ({usage}{(fence.IsForced ? ", forced" : "")}) is seen by nobody who asks for it";
            }
        }

        return null;
    }

    // One walks and adds up what it sees, the host lock released between two steps; the other replaces the list.
    private static Scenario BuildWalk()
    {
        HostContext host = new(new VirtualClock());
        Reservation reservation = new(host, "lent");
        AcquireTicket ticket;
        Fence[] always;
        Fence signaled;
        using (host.Enter())
        {
            ticket = new AcquireTicket(host, "writer");
            always = [.. Enumerable.Range(0, 3).Select(i => new Timeline(host, $"{i}").CreateFence())];
            signaled = new Timeline(host, "signaled").CreateFence();
            foreach (Fence fence in always.Prepend(signaled))
            {
                Add(reservation, ticket, fence);
            }
        }

        return new Scenario(
            [
                new Actor("walker", Walk(host, reservation, always)),
                new Actor("writer", Write(host, reservation, ticket, signaled)),
            ],
            () => { });
    }

    private static IEnumerable<Step> Walk(HostContext host, Reservation reservation, Fence[] always)
    {
        List<Fence> seen = [];
        FenceCursor cursor = reservation.Iterate(ReservationUsage.Bookkeep);
        for (bool goesOn = true; goesOn;)
        {
            yield return "next";
            using (host.Enter())
            {
                goesOn = cursor.MoveNext();
                if (goesOn && cursor.IsRestarted)
                {
                    seen.Clear();
                }

                if (goesOn)
                {
                    seen.Add(cursor.Current);
                }
            }
        }

        Assert.All(always, f => Assert.Single(seen, f));
    }

    private static IEnumerable<Step> Write(
        HostContext host, Reservation reservation, AcquireTicket ticket, Fence signaled)
    {
        yield return "signal";
        using (host.Enter())
        {
            signaled.Signal();
        }

        yield return "add";
        using (host.Enter())
        {
            Add(reservation, ticket, new Timeline(host, "new").CreateFence());
        }

        yield return "grow";
        using (host.Enter())
        {
            reservation.TryLock(ticket);
            reservation.ReserveFences(ticket, 16);
            reservation.Unlock(ticket);
        }

        yield return "copy";
        using (host.Enter())
        {
            reservation.TryLock(ticket);
            reservation.CopyFences(ticket, reservation);
            reservation.Unlock(ticket);
        }
    }

    private static void Add(Reservation reservation, AcquireTicket ticket, Fence fence)
    {
        reservation.TryLock(ticket);
        reservation.ReserveFences(ticket, 1);
        reservation.AddFence(ticket, fence, ReservationUsage.Read);
        reservation.Unlock(ticket);
    }
}
