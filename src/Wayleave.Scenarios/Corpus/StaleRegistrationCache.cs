using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: https://github.com/openucx/ucx/pull/5910 (Use CUDA buffer IDs to validate rcache entries; related: issue
// 4269). A library caches registrations by address. Where its hooks could not be installed it does not hear of a
// free; memory that is allocated later at the same address finds the registration of the old. That is pinned and
// quite alive, so that the transfer succeeds, with the bytes of the old memory.
//
// Faithful: the cache is by address, the old registration stays usable, and what tells the cache of a free comes
// from elsewhere (a hook, an event) and may come late. What the report proposes, to compare the identity of the
// memory at each hit, is here the region itself: a free revokes it, and a dead region is no hit.
// Not faithful: the two memories are VRAM and system memory of a GPU instead of two sets of pages.

/// <summary>A registration found by address belongs to memory that was there before.</summary>
internal static class StaleRegistrationCache
{
    private const int MessageBytes = 256;

    public static NamedScenario Scenario { get; } = new(
        "stale-registration-cache",
        "A library caches registrations by address; memory is freed and other memory gets the address. What is sent "
        + "from there is what the application put there.",
        c => Build(c, Notice.Revoke),
        [
            new("free-not-noticed", "Nothing tells the cache that the memory was freed.", c => Build(c, Notice.Never)),
            new("free-noticed-later", "The cache is told by an event that somebody has yet to handle.",
                c => Build(c, Notice.Later)),
        ])
    {
        Reports = ["openucx/ucx#5910"],
        Defence = "a free revokes: the registration is dead in the same step, and a dead one is no hit",
    };

    private enum Notice
    {
        Revoke,
        Later,
        Never,
    }

    private static Scenario Build(Choices choices, Notice notice)
    {
        TwoHosts hosts = new(choices, MessageBytes);
        Cache cache = new();
        return hosts.ToScenario(
            ("application", SendTwice(hosts, cache, notice)),
            ("event handler", Evict(cache)));
    }

    private static IEnumerable<Step> SendTwice(TwoHosts hosts, Cache cache, Notice notice)
    {
        World world = hosts.User;
        yield return "send 1 from the address";
        world.Fill(world.Lent, 1);
        hosts.UserNode.PostWrite(1, cache.Find() ?? cache.Add(hosts.UserNode.Register(world.Lent.Shared, Kind)));
        yield return new("sent", () => hosts.UserNode.HasCompletion);
        hosts.UserNode.PollCompletion();

        yield return "free the memory, the address goes to other memory";
        GpuBuffer? other;
        using (world.Host.Enter())
        {
            if (notice == Notice.Revoke)
            {
                world.Gpu.Free(world.Lent, new RevokePolicy { Reason = "freed" });
            }

            cache.HasEvent = notice == Notice.Later;
            GpuBufferInfo info = new("at the same address", MessageBytes, StorageKind.Movable, GpuDomain.System);
            World.Require(Errno.Success, world.Gpu.TryCreate(info, out other));
        }

        world.Gpu.CopyEngine.Drive(int.MaxValue);
        yield return "send 2 from the address";
        world.Fill(other!, 2);
        MemoryRegion? hit = cache.Find();
        world.Story.Say(hit is null ? "the cache has nothing" : "the cache has a registration");
        hosts.UserNode.PostWrite(2, hit ?? cache.Add(hosts.UserNode.Register(other!.Shared, Kind)));
        yield return new("sent", () => hosts.UserNode.HasCompletion);
        WorkCompletionStatus status = hosts.UserNode.PollCompletion();
        byte found = hosts.Owner.Peek(hosts.Owner.Lent, 0);
        if (status == WorkCompletionStatus.Success && found != 2)
        {
            throw new ViolationException($"the application sent 2 and {found} arrived");
        }
    }

    private const ImporterKind Kind = ImporterKind.PinnedRevocable;

    private static IEnumerable<Step> Evict(Cache cache)
    {
        yield return "handle an event, if there is one";
        if (cache.HasEvent)
        {
            cache.Evict();
        }
    }

    private sealed class Cache
    {
        private MemoryRegion? _region;

        public bool HasEvent { get; set; }

        public MemoryRegion? Find() => _region is { State: not MemoryRegionState.Dead } region ? region : null;

        public MemoryRegion Add(MemoryRegion region) => _region = region;

        public void Evict() => _region = null;
    }
}
