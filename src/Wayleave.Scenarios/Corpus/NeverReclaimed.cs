using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: https://github.com/vllm-project/vllm/issues/46283 (decode-side KV blocks of an aborted remote-KV load are
// never reclaimed when the prefill node never reports completion). Blocks of an aborted request are kept until the
// other side says that its writes are done, which is right; when the other side has died, nobody says it, and the
// blocks are never free again. Liveness: no single step is wrong, the end is.
//
// Faithful: the peer may die at any moment, before, within and after its write; the abort may come at any moment too.
// Not faithful: the peer dies once and for all in one step; blocks are one buffer.

/// <summary>Memory waits for a peer that is dead.</summary>
internal static class NeverReclaimed
{
    private const int MessageBytes = 512;

    public static NamedScenario Scenario { get; } = new(
        "abort-with-dead-peer",
        "A peer dies while it writes, and the request is aborted; the memory comes back all the same, and nothing "
        + "that was under way lands in it.",
        c => Build(c, waitsForPeer: false),
        [
            new("waits-for-the-peer",
                "The blocks are freed by the peer's report of its last write, and by nothing else.",
                c => Build(c, waitsForPeer: true)),
        ])
    {
        Reports = ["vllm-project/vllm#46283"],
        Defence = "the owner kills its own key and drains its own gate: no step of the proof is the peer's",
    };

    private static Scenario Build(Choices choices, bool waitsForPeer)
    {
        TwoHosts hosts = new(choices, MessageBytes);
        bool isReported = false, isAborted = false;
        World decode = hosts.Owner;
        Scenario scenario = hosts.ToScenario(
            ("prefill", Write(hosts, () => isReported = true)),
            ("failure", Die(hosts)),
            ("decode", Abort(decode, waitsForPeer, () => isReported, () => isAborted = true)));
        return scenario with
        {
            AtEnd = () =>
            {
                scenario.AtEnd!();
                ulong free = decode.Gpu.Memory(GpuDomain.Vram).FreeBytes;
                if (isAborted && free != MessageBytes)
                {
                    throw new ViolationException("the blocks of the aborted request are never reclaimed");
                }
            },
        };
    }

    private static IEnumerable<Step> Write(TwoHosts hosts, Action report)
    {
        yield return "write";
        hosts.User.Fill(hosts.User.Lent, 0xAA);
        hosts.UserNode.PostWrite(id: 1);
        yield return new("completion", () => hosts.UserNode.HasCompletion || hosts.UserNode.IsDead);
        if (hosts.UserNode.IsDead)
        {
            yield break;
        }

        yield return "report that the writes are done";
        if (!hosts.UserNode.IsDead)
        {
            report();
        }
    }

    private static IEnumerable<Step> Die(TwoHosts hosts)
    {
        yield return "the prefill host dies";
        hosts.UserNode.Die();
    }

    private static IEnumerable<Step> Abort(World decode, bool waitsForPeer, Func<bool> isReported, Action aborted)
    {
        yield return "abort";
        aborted();
        if (waitsForPeer)
        {
            // The engine goes on meanwhile; what it holds for the peer's report is looked at once in each round.
            yield return "look for the report";
            if (!isReported())
            {
                decode.Story.Say("not there; the blocks stay held");
                yield break;
            }
        }

        using (decode.Host.Enter())
        {
            decode.Gpu.Free(decode.Lent, new RevokePolicy { Reason = "aborted" });
        }
    }
}
