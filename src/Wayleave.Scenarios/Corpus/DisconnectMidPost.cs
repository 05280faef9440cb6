using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: https://github.com/ai-dynamo/nixl/pull/1868, where a sanitizer run of the transfer path crashes: a batch is
// posted request by request, each looks up the peer's remote key, and the error handler tears the peer's entry down in
// the middle of the batch (related: nixl issues 1986, 2109). The read of a freed key there is a use after free; here
// the entry of the table already belongs to another peer.
//
// Faithful: the batch is not atomic, the key is looked up at each post, the disconnect comes from elsewhere at any
// moment, and the queue pair itself is already in ERR.
// Not faithful: the key that a freed entry yields is a valid one of somebody else, where the report crashes: the worse
// case, and one that can be checked without a sanitizer.

/// <summary>A peer is disconnected in the middle of a batch that is being posted to it.</summary>
internal static class DisconnectMidPost
{
    private const int MessageBytes = 256;

    public static NamedScenario Scenario { get; } = new(
        "disconnect-mid-post",
        "A batch of WRITEs is posted while the peer is disconnected and its entry goes to another peer; no request "
        + "of the batch reaches the other peer's memory.",
        c => Build(c, isGuarded: true),
        [
            new("entry-freed-under-post", "The entry is free at the disconnect, whoever is still posting by it.",
                c => Build(c, isGuarded: false)),
        ])
    {
        Reports = ["ai-dynamo/nixl#1868"],
        Defence = "a batch is inside the gate of the peer's entry, and the entry is free when the gate has drained",
    };

    private static Scenario Build(Choices choices, bool isGuarded)
    {
        TwoHosts hosts = new(choices, MessageBytes);
        GpuBuffer? other;
        using (hosts.Owner.Host.Enter())
        {
            GpuBufferInfo info = new("another peer's", MessageBytes, StorageKind.Movable, GpuDomain.System);
            World.Require(Errno.Success, hosts.Owner.Gpu.TryCreate(info, out other));
        }

        hosts.Owner.Gpu.CopyEngine.Drive(int.MaxValue);
        PeerEntry entry = new() { Key = hosts.OwnerNode.Region.Key };
        uint otherKey = hosts.OwnerNode.Register(other!.Shared).Key;
        hosts.User.Fill(hosts.User.Lent, 0xAA);
        Scenario scenario = hosts.ToScenario(
            ("initiator", Post(hosts, entry, isGuarded)),
            ("error handler", Disconnect(hosts, entry, otherKey, isGuarded)));
        return scenario with
        {
            Invariant = () =>
            {
                scenario.Invariant();
                if (hosts.Owner.Peek(other, 0) != 0)
                {
                    throw new ViolationException("a request of the batch wrote into another peer's memory");
                }
            },
        };
    }

    private static IEnumerable<Step> Post(TwoHosts hosts, PeerEntry entry, bool isGuarded)
    {
        yield return "start the batch";
        if (isGuarded && !entry.Gate.TryEnter())
        {
            yield break;
        }

        for (ulong request = 1; request <= 2; request++)
        {
            yield return $"post request {request} of 2";
            hosts.UserNode.Post(WorkRequestOpcode.RdmaWrite, request, hosts.UserNode.Region, entry.Key);
        }

        if (isGuarded)
        {
            yield return "end the batch";
            entry.Gate.Exit();
        }
    }

    private static IEnumerable<Step> Disconnect(TwoHosts hosts, PeerEntry entry, uint otherKey, bool isGuarded)
    {
        yield return "the peer disconnects";
        hosts.UserNode.Disconnect();
        entry.Gate.Close(out _);
        yield return new("the entry goes to another peer", () => !isGuarded || entry.Gate.IsDrained);
        RdmaNode.Reconnect(hosts.UserNode, hosts.OwnerNode);
        entry.Key = otherKey;
    }

    private sealed class PeerEntry
    {
        public InFlightGate Gate { get; } = new();

        public uint Key { get; set; }
    }
}
