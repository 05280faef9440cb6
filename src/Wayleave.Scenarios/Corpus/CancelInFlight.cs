using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: https://github.com/ai-dynamo/nixl/issues/2067 (releaseXferReq use-after-free), whose maintainers add that
// cancelling a transfer in flight is not supported: besides the life of the request itself, the request would have to
// be invalidated, so that late reads and writes of the other side find nothing. A handle is released while its transfer
// is under way, the local buffer is used for something else, and what was asked for arrives there.
//
// Faithful: the initiator's own READ is under way, its responses come in several packets, and the initiator gives its
// target buffer away in between, on its own, without the peer.
// Not faithful: the crash of the report, in the bookkeeping of the handle, cannot be had here.

/// <summary>A READ is cancelled by freeing what it reads into; its responses are still to come.</summary>
internal static class CancelInFlight
{
    private const int MessageBytes = 512;

    public static NamedScenario Scenario { get; } = new(
        "cancel-in-flight",
        "An initiator cancels its READ and gives the local buffer to somebody else while responses are under way; "
        + "none of them lands there.",
        c => Build(c, new GpuOptions(), ResponderDefences.All),
        [
            new("released-without-invalidation",
                "The buffer is free when the transfer is cancelled, and its local key goes on working.",
                c => Build(c, new GpuOptions { WaitsForProof = false }, ResponderDefences.BrokenRevokeGate)),
        ])
    {
        Reports = ["ai-dynamo/nixl#2067"],
        Defence = "a local buffer is freed by a revoke as well: responses find a dead local key",
    };

    // The initiator owns the buffer that is given away; what it reads is the other host's.
    private static Scenario Build(Choices choices, GpuOptions options, ResponderDefences defences)
    {
        TwoHosts hosts = new(choices, MessageBytes, options, defences);
        hosts.User.Fill(hosts.User.Lent, 0xAA);
        return hosts.ToScenario(("initiator", Cancel(hosts)));
    }

    private static IEnumerable<Step> Cancel(TwoHosts hosts)
    {
        World initiator = hosts.Owner;
        RdmaNode node = hosts.OwnerNode;
        yield return "read";
        node.Post(WorkRequestOpcode.RdmaRead, id: 1, node.Region, hosts.UserNode.Region.Key);
        yield return "cancel: free the target";
        using (initiator.Host.Enter())
        {
            initiator.Gpu.Free(initiator.Lent, new RevokePolicy { Reason = "the transfer was cancelled" });
        }

        foreach (Step step in initiator.HandOut(GpuDomain.Vram))
        {
            yield return step;
        }

        yield return new("the READ has ended", () => node.HasCompletion);
        initiator.Story.Say($"{node.PollCompletion()}");
    }
}
