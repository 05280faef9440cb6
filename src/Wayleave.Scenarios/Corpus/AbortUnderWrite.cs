using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Report: https://github.com/sgl-project/sglang/issues/24527 (Decode can reuse KV pages before prefill transfer writer
// finishes; later pull requests 24580, 27372, 35049). The decode side gives pages to the prefill side to write into,
// the request is aborted, the allocator hands the pages to request B, and the writer of request A, still under way,
// overwrites them.
//
// Faithful: one side writes with one-sided RDMA in several packets, the other frees and allocates the same bytes, and
// no message tells the writer in time. Taken away is what the report says was missing: nobody who frees asks whether a
// writer is still there, and the key under which it writes goes on working.
// Not faithful: one page instead of many, and one request B.

/// <summary>Pages are freed and given out again while a remote write into them is in flight.</summary>
internal static class AbortUnderWrite
{
    private const int MessageBytes = 512; // two packets at MTU 256

    public static NamedScenario Scenario { get; } = new(
        "abort-under-write",
        "A request is aborted while its pages are being written over RDMA, and the pages go to the next request; no "
        + "byte of the aborted write reaches the next request.",
        c => Build(c, new GpuOptions(), ResponderDefences.All),
        [
            new("pages-freed-at-once",
                "The pages are free when the request is aborted, and the writer's key goes on working.",
                c => Build(c, new GpuOptions { WaitsForProof = false }, ResponderDefences.BrokenRevokeGate)),
        ])
    {
        Reports = ["sgl-project/sglang#24527"],
        Defence = "freeing revokes: the key dies, the gate drains, and the pages wait for the proof",
    };

    private static Scenario Build(Choices choices, GpuOptions options, ResponderDefences defences)
    {
        TwoHosts hosts = new(choices, MessageBytes, options, defences);
        return hosts.ToScenario(("prefill", Write(hosts)), ("decode", Abort(hosts.Owner)));
    }

    private static IEnumerable<Step> Write(TwoHosts hosts)
    {
        yield return "write the KV cache of request A";
        hosts.User.Fill(hosts.User.Lent, 0xAA);
        hosts.UserNode.PostWrite(id: 1);
        yield return new("completion", () => hosts.UserNode.HasCompletion);
        hosts.User.Story.Say($"{hosts.UserNode.PollCompletion()}");
    }

    private static IEnumerable<Step> Abort(World decode)
    {
        yield return "abort request A";
        using (decode.Host.Enter())
        {
            decode.Gpu.Free(decode.Lent, new RevokePolicy { Reason = "request A was aborted" });
        }

        foreach (Step step in decode.HandOut(GpuDomain.Vram, "request B"))
        {
            yield return step;
        }
    }
}
