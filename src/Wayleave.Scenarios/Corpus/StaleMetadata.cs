using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: https://github.com/ray-project/ray/pull/65962 (prevent NIXL remove_remote_agent disconnect race during
// in-flight transfers). A receiver caches the metadata of a remote agent: addresses and keys. The sender deregisters
// and registers memory meanwhile; the cached version is stale, its removal races with transfers that still use it, and
// a review of the repair finds that later transfers may take the stale agent for the current one.
//
// Faithful: the descriptor is cached by the reader, replaced by the owner without a word to it, and used after that;
// the new memory is at the same addresses as the old.
// Not faithful: the agent's connection is one queue pair, made anew in one step after the refusal.

/// <summary>A cached descriptor of memory that has been deregistered is used once more.</summary>
internal static class StaleMetadata
{
    private const int MessageBytes = 256;
    private const byte First = 0x11;
    private const byte Second = 0x22;

    public static NamedScenario Scenario { get; } = new(
        "stale-metadata",
        "A reader uses cached metadata while the owner deregisters the tensor and registers the next one in its place; "
        + "the reader never takes the second tensor for the first.",
        c => Build(c, isKeyReused: false),
        [
            new("key-number-reused", "The next registration gets the number of the key that has just died.",
                c => Build(c, isKeyReused: true)),
        ])
    {
        Reports = ["ray-project/ray#65962"],
        Defence = "a dead key's number is not handed out again, so a stale descriptor is refused",
    };

    private static Scenario Build(Choices choices, bool isKeyReused)
    {
        TwoHosts hosts = new(choices, MessageBytes);
        Metadata metadata = new() { Tensor = First, Key = hosts.OwnerNode.Region.Key };
        hosts.Owner.Fill(hosts.Owner.Lent, First);
        return hosts.ToScenario(
            ("owner", Replace(hosts, metadata, isKeyReused)),
            ("reader", Read(hosts, metadata)));
    }

    private static IEnumerable<Step> Replace(TwoHosts hosts, Metadata metadata, bool isKeyReused)
    {
        World owner = hosts.Owner;
        yield return "deregister the first tensor";
        uint key = hosts.OwnerNode.Region.Key;
        hosts.OwnerNode.Deregister(hosts.OwnerNode.Region);
        using (owner.Host.Enter())
        {
            owner.Gpu.Free(owner.Lent, new RevokePolicy { Reason = "the tensor is done with" });
        }

        foreach (Step step in owner.HandOut(GpuDomain.Vram, "second tensor"))
        {
            yield return step;
        }

        yield return "register the second tensor";
        owner.Fill(owner.Next[0], Second);
        owner.Expected = Second;
        MemoryRegion region = hosts.OwnerNode.Register(owner.Next[0].Shared, key: isKeyReused ? key : null);
        (metadata.Tensor, metadata.Key) = (Second, region.Key);
    }

    private static IEnumerable<Step> Read(TwoHosts hosts, Metadata metadata)
    {
        yield return "cache the metadata";
        (byte tensor, uint key) = (metadata.Tensor, metadata.Key);
        for (int attempt = 0; attempt < 2; attempt++)
        {
            yield return $"read tensor 0x{tensor:x2}";
            hosts.UserNode.Post(WorkRequestOpcode.RdmaRead, id: 1, hosts.UserNode.Region, key);
            yield return new("its data", () => hosts.UserNode.HasCompletion);
            WorkCompletionStatus status = hosts.UserNode.PollCompletion();
            hosts.User.Story.Say($"{status}");
            if (status == WorkCompletionStatus.Success)
            {
                byte found = hosts.User.Peek(hosts.User.Lent, 0);
                if (found != tensor)
                {
                    throw new ViolationException($"the reader takes tensor 0x{found:x2} for tensor 0x{tensor:x2}");
                }

                yield break;
            }

            yield return new("refresh the metadata", () => metadata.Tensor == Second);
            RdmaNode.Reconnect(hosts.UserNode, hosts.OwnerNode);
            (tensor, key) = (metadata.Tensor, metadata.Key);
        }

        throw new ViolationException("fresh metadata was refused as well");
    }

    private sealed class Metadata
    {
        public byte Tensor { get; set; }

        public uint Key { get; set; }
    }
}
