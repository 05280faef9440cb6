using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Fences;

public class FenceChainTests : FenceScenario
{
    private const int Length = 64;
    private const int Long = 4096;

    private readonly List<Fence> _members = [];
    private readonly List<FenceChain> _links = [];

    public enum Order
    {
        Forward,
        Backward,
        Random,
    }

    [Fact]
    public void FENCE_26_A_link_is_signalled_exactly_when_all_before_it_are()
    {
        Do(() => Build(Length));
        for (int i = 0; i < Length; i++)
        {
            Do(() => _members[i].Signal());
            Do(() => Assert.Equal(
                Enumerable.Range(0, Length).Select(n => n <= i), _links.Select(l => l.CheckSignaled())));
        }
    }

    [Fact]
    public void FENCE_27_Signalled_backward_no_link_goes_before_the_first_member_has()
    {
        Do(() => Build(Length));
        for (int i = Length - 1; i > 0; i--)
        {
            Do(() => _members[i].Signal());
            Do(() => Assert.All(_links, l => Assert.False(l.CheckSignaled())));
        }

        Do(() => _members[0].Signal());
        Do(() => Assert.All(_links, l => Assert.True(l.CheckSignaled())));
    }

    [Fact]
    public void FENCE_28_A_point_is_found_from_the_tail_and_not_before_it_exists()
    {
        using (Host.Enter())
        {
            Build(Length);
            Assert.Equal((Errno.Success, _links[^1]), Find(_links[^1], 0));
            Assert.Equal((Errno.Success, null), Find(null, 0));
            for (int i = 0; i < Length; i++)
            {
                ulong point = (ulong)i + 1;
                Assert.Equal((Errno.Success, _links[i]), Find(_links[^1], point));
                Assert.Equal((Errno.Success, _links[i]), Find(_links[i], point));
                Assert.Equal(Errno.EINVAL, Find(_links[i], point + 1).Errno);
                if (i > 0)
                {
                    Assert.Equal((Errno.Success, _links[i - 1]), Find(_links[i], point - 1));
                }
            }

            Assert.Equal(Errno.EINVAL, Find(New(), 1).Errno);
        }
    }

    [Fact]
    public void FENCE_29_A_point_that_is_over_is_null_or_its_own_link()
    {
        using (Host.Enter())
        {
            Build(2);
            _members[0].Signal();
            (Errno errno, Fence? found) = Find(_links[1], 1);
            Assert.Equal(Errno.Success, errno);
            Assert.True(found is null || ReferenceEquals(found, _links[0]));
        }
    }

    [Fact]
    public void FENCE_30_Of_a_point_that_is_over_in_the_middle_the_one_before_is_left_to_wait_for()
    {
        using (Host.Enter())
        {
            Build(3);
            _members[1].Signal();
            Assert.Equal((Errno.Success, _links[0]), Find(_links[2], 2));
        }
    }

    [Fact]
    public void FENCE_31_A_point_in_a_gap_is_the_next_one()
    {
        using (Host.Enter())
        {
            Build(Length, step: 2);
            for (int i = 0; i < Length; i++)
            {
                Assert.Equal((Errno.Success, _links[i]), Find(_links[^1], (2 * (ulong)i) + 1));
            }
        }
    }

    [Fact]
    public async Task FENCE_32_Threads_that_find_and_signal_at_random_meet_no_error()
    {
        const int Rounds = 20_000;
        Do(() => Build(Long));
        await Task.WhenAll(Enumerable.Range(0, 4).Select(seed => Task.Run(
            () =>
            {
                SplitMix64 random = new((ulong)seed);
                for (int round = 0; round < Rounds; round++)
                {
                    int at = random.Next(Long);
                    using (Host.Enter())
                    {
                        (Errno errno, Fence? found) = Find(_links[^1], (ulong)at + 1);
                        if (errno != Errno.Success || found is FenceChain { Seqno: var s } && s > (ulong)at + 1)
                        {
                            Assert.Fail($"point {at + 1}: {errno}, {found}");
                        }

                        _members[at].Signal();
                    }
                }
            },
            TestContext.Current.CancellationToken)));
        Do(() => _members.ForEach(m => m.Signal()));
        Do(() => Assert.True(_links[^1].CheckSignaled()));
    }

    [Theory]
    [InlineData(Order.Forward)]
    [InlineData(Order.Backward)]
    [InlineData(Order.Random)]
    public void FENCE_33_Who_waits_for_the_tail_wakes_whatever_the_order(Order order)
    {
        int calls = 0;
        Do(() =>
        {
            Build(Long);
            _links[^1].TryAddCallback(_ => calls++);
        });
        SplitMix64 random = new(33);
        int[] places = [.. Enumerable.Range(0, Long)];
        int[] turn = order switch
        {
            Order.Forward => places,
            Order.Backward => [.. places.Reverse()],
            _ => [.. places.OrderBy(_ => random.Next(int.MaxValue))],
        };
        foreach (int i in turn)
        {
            Assert.Equal(0, calls);
            Do(() => _members[i].Signal());
        }

        Assert.Equal((1, true), (calls, _links[^1].IsSignaled));
    }

    [Fact]
    public void FENCE_34_A_point_that_is_not_greater_begins_a_new_context_with_the_greatest_number()
    {
        using (Host.Enter())
        {
            Build(3);
            FenceChain late = new(Host, _links[^1], New(), 2), same = new(Host, _links[^1], New(), 3);
            Assert.Equal((3UL, 3UL), (late.Seqno, same.Seqno));
            Assert.Equal(3, new[] { late.Context, same.Context, _links[0].Context }.Distinct().Count());
            Assert.Equal(_links[0].Context, _links[^1].Context);
        }
    }

    [Fact]
    public void FENCE_35_An_error_of_a_member_is_not_the_chains()
    {
        Do(() =>
        {
            Build(2);
            _links[1].EnableSignaling();
            _members[0].Signal(Errno.EIO);
            _members[1].Signal();
        });
        Do(() => Assert.Equal(1, _links[1].GetStatus()));
    }

    [Fact]
    public void A_chain_before_a_chain_is_fine_and_inside_one_is_a_violation()
    {
        using (Host.Enter())
        {
            FenceChain inner = new(Host, null, New(), 1);
            _ = new FenceChain(Host, inner, New(), 2);
            Assert.Empty(Violations);
            _ = new FenceChain(Host, null, inner, 2);
            Assert.Single(Violations);
        }
    }

    [Fact]
    public void A_chain_ends_when_the_owner_of_its_forced_member_comes_back()
    {
        Assert.False(EndsWithoutTheOwner(Host));
        Do(() => _members[0].Signal());
        Assert.True(_links[^1].HasEnded);
    }

    [Fact]
    public void A_chain_that_throws_a_forced_link_away_is_caught()
    {
        HostContext broken = new(Clock) { Defences = CoreDefences.All & ~CoreDefences.ChainKeepsEvidence };
        Assert.True(EndsWithoutTheOwner(broken));
    }

    // The first member is forced, the others signal.
    private bool EndsWithoutTheOwner(HostContext host)
    {
        using (host.Enter())
        {
            Build(3, host: host);
            _links[^1].EnableSignaling();
            _members[0].Force(Errno.ETIME);
            _members[1].Signal();
            _members[2].Signal();
        }

        Assert.True(_links[^1].IsSignaled);
        return _links[^1].HasEnded;
    }

    private static (Errno Errno, Fence? Found) Find(Fence? from, ulong point) =>
        (FenceChain.TryFindSeqno(from, point, out Fence? found), found);

    private void Build(int length, ulong step = 1, HostContext? host = null)
    {
        host ??= Host;
        for (int i = 0; i < length; i++)
        {
            _members.Add(new Fence(host, host.AllocateFenceContexts(), 1, $"work {i}"));
            _links.Add(new FenceChain(host, _links.LastOrDefault(), _members[i], step * ((ulong)i + 1)));
        }
    }
}
