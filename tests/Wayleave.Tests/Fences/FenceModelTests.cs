using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Fences;

/// <summary>
/// Whatever fences are made of, however they are merged, forced and signalled: a container is signalled exactly when
/// all that it was made of is, and has ended only when every owner said so.
/// </summary>
public class FenceModelTests : FenceScenario
{
    private readonly Dictionary<Fence, HashSet<Fence>> _madeOf = new(ReferenceEqualityComparer.Instance);
    private readonly HashSet<Fence> _over = []; // the owner said so
    private readonly List<Fence> _forced = [];
    private readonly List<Fence> _pool = [];

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void A_container_tells_no_more_than_its_parts(int seed) => Assert.Null(Play(Host, seed));

    [Fact]
    public void A_forced_fence_that_counts_as_ended_is_caught() =>
        Assert.NotNull(Play(Without(CoreDefences.ForcedIsNoEvidence), seed: 1));

    [Fact]
    public void A_chain_that_forgets_forced_links_is_caught() =>
        Assert.NotNull(Play(Without(CoreDefences.ChainKeepsEvidence), seed: 1));

    private HostContext Without(CoreDefences defence) => new(Clock) { Defences = CoreDefences.All & ~defence };

    // Null, or what went wrong. The lock is released after each operation, so that containers follow their parts.
    private string? Play(HostContext host, int seed)
    {
        SplitMix64 random = new((ulong)seed);
        Timeline[] timelines;
        List<Fence>[] pending;
        using (host.Enter())
        {
            timelines = [.. Enumerable.Range(0, 4).Select(i => new Timeline(host, $"{i}"))];
            pending = [.. timelines.Select(_ => new List<Fence>())];
        }

        for (int i = 0; i < 2_000; i++)
        {
            using (host.Enter())
            {
                int at = random.Next(timelines.Length);
                switch (random.Next(9))
                {
                    case < 2:
                        pending[at].Add(Keep(timelines[at].CreateFence(), []));
                        break;
                    case < 5 when _pool.Count > 1:
                        Combine(host, random);
                        break;
                    case 5 when random.Next(3) == 0 && pending[at].Count > 0:
                        _forced.Add(pending[at][0]);
                        pending[at][0].Force(Errno.ETIME);
                        pending[at].RemoveAt(0);
                        break;
                    case 6 when _forced.Count > 2:
                        Signal(_forced);
                        break;
                    case > 6 when pending[at].Count > 0:
                        Signal(pending[at]);
                        break;
                }
            }

            if (FindWrong(host) is { } wrong)
            {
                return $"after {i + 1} operations: {wrong}";
            }
        }

        return null;
    }

    private void Signal(List<Fence> fences)
    {
        _over.Add(fences[0]);
        fences[0].Signal();
        fences.RemoveAt(0);
    }

    private void Combine(HostContext host, SplitMix64 random)
    {
        Fence one = _pool[random.Next(_pool.Count)], other = _pool[random.Next(_pool.Count)];
        HashSet<Fence> parts = [.. _madeOf[one], .. _madeOf[other]];
        Fence made = random.Next(3) switch
        {
            0 when other is not FenceChain => new FenceChain(host, one, other, (ulong)random.Next(100)),
            1 => new FenceArray(host, [one, other]),
            _ => FenceUnwrap.Merge(host, one, other),
        };
        if (random.Next(2) == 0)
        {
            made.EnableSignaling();
        }

        Keep(made, parts);
    }

    private Fence Keep(Fence fence, HashSet<Fence> parts)
    {
        if (_madeOf.TryGetValue(fence, out HashSet<Fence>? known))
        {
            known.UnionWith(parts); // a merge that came down to one that there is: it stands for the others
        }
        else
        {
            _madeOf[fence] = parts.Count == 0 && !fence.IsContainer && !fence.IsSignaled ? [fence] : parts;
        }

        _pool.Add(fence);
        if (_pool.Count > 24)
        {
            _madeOf.Remove(_pool[0]);
            _pool.RemoveAt(0);
            _pool.RemoveAll(f => !_madeOf.ContainsKey(f));
        }

        return fence;
    }

    private string? FindWrong(HostContext host)
    {
        using (host.Enter())
        {
            foreach (Fence fence in _pool.ToArray())
            {
                HashSet<Fence> parts = _madeOf[fence];
                bool isSignaled = fence.CheckSignaled();
                if (isSignaled && !parts.All(p => p.IsSignaled))
                {
                    return $"{fence} is signalled, and one of its {parts.Count} parts is not";
                }

                if (!isSignaled && parts.All(p => p.IsSignaled))
                {
                    return $"{fence} is pending, and none of its {parts.Count} parts is";
                }

                if (fence.HasEnded && !parts.All(_over.Contains))
                {
                    return $"{fence} has ended, and the work of one of its {parts.Count} parts has not";
                }

                if (isSignaled && !fence.HasEnded && parts.All(p => p.HasEnded))
                {
                    return $"{fence} has not ended, and each of its {parts.Count} parts has";
                }
            }
        }

        return null;
    }
}
