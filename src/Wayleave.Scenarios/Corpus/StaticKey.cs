using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Corpus;

// Reports: https://github.com/ydb-platform/nbs/issues/5708 (RDMA client doesn't invalidate its buffers upon aborting
// request) and https://github.com/ydb-platform/nbs/issues/5729 (Invalidate request buffers). A client tells the server
// where a request lies; the server READs it when it gets to it. All buffers of the pool are under one key that lives as
// long as the connection. Request 1 times out on the client, its buffer goes to request 2, and the server, which gets
// to request 1 only now, reads request 2 under the number of request 1.
//
// Faithful: descriptors wait in a queue of the server, the READ is one-sided and takes several packets, the time-out is
// the client's alone. The repair that the reports settle on, a key per request that dies with it (memory windows
// there, a region here), is the defence.
// Not faithful: one buffer in the pool; the connection is made anew after the refused READ in one step.

/// <summary>One key for all requests: a READ for one request finds the next one's bytes.</summary>
internal static class StaticKey
{
    private const int MessageBytes = 512;

    public static NamedScenario Scenario { get; } = new(
        "static-key",
        "A server reads requests out of a client's buffers by RDMA, and the client reuses the buffer of a request that "
        + "timed out; the server never takes one request for another.",
        c => Build(c, hasKeyPerRequest: true),
        [
            new("one-key-for-all",
                "The pool has one key for its lifetime, and a buffer goes back to it without a word.",
                c => Build(c, hasKeyPerRequest: false)),
        ])
    {
        Reports = ["ydb-platform/nbs#5708", "ydb-platform/nbs#5729"],
        Defence = "each request has its own key, which dies with the request and is not handed out again",
    };

    private static Scenario Build(Choices choices, bool hasKeyPerRequest)
    {
        TwoHosts hosts = new(choices, MessageBytes);
        Queue<(byte Request, uint Key)> queue = [];
        return hosts.ToScenario(
            ("client", hasKeyPerRequest ? SendWithOwnKeys(hosts, queue) : SendWithOneKey(hosts, queue)),
            ("server", Serve(hosts, queue)));
    }

    private static IEnumerable<Step> SendWithOneKey(TwoHosts hosts, Queue<(byte, uint)> queue)
    {
        for (byte request = 1; request <= 2; request++)
        {
            yield return $"send request {request}";
            hosts.Owner.Fill(hosts.Owner.Lent, request);
            queue.Enqueue((request, hosts.OwnerNode.Region.Key));
            yield return $"time-out of request {request}: its buffer is free";
        }
    }

    private static IEnumerable<Step> SendWithOwnKeys(TwoHosts hosts, Queue<(byte, uint)> queue)
    {
        World client = hosts.Owner;
        yield return "send request 1";
        client.Fill(client.Lent, 1);
        queue.Enqueue((1, hosts.OwnerNode.Region.Key));
        yield return "time-out of request 1: revoke its buffer";
        using (client.Host.Enter())
        {
            client.Gpu.Free(client.Lent, new RevokePolicy { Reason = "request 1 timed out" });
        }

        foreach (Step step in client.HandOut(GpuDomain.Vram, "request 2"))
        {
            yield return step;
        }

        yield return "send request 2";
        GpuBuffer next = client.Next[0];
        MemoryRegion region = hosts.OwnerNode.Register(next.Shared);
        client.Fill(next, 2);
        client.Expected = 2;
        queue.Enqueue((2, region.Key));
    }

    private static IEnumerable<Step> Serve(TwoHosts hosts, Queue<(byte Request, uint Key)> queue)
    {
        for (int i = 0; i < 2; i++)
        {
            yield return new("take a request", () => queue.Count > 0);
            (byte request, uint key) = queue.Dequeue();
            hosts.User.Story.Say($"reads request {request}");
            hosts.UserNode.Post(WorkRequestOpcode.RdmaRead, request, hosts.UserNode.Region, key);
            yield return new("its data", () => hosts.UserNode.HasCompletion);
            WorkCompletionStatus status = hosts.UserNode.PollCompletion();
            hosts.User.Story.Say($"{status}");
            if (status != WorkCompletionStatus.Success)
            {
                RdmaNode.Reconnect(hosts.UserNode, hosts.OwnerNode);
                continue;
            }

            for (int offset = 0; offset < MessageBytes; offset++)
            {
                if (hosts.User.Peek(hosts.User.Lent, offset) is byte found && found != request)
                {
                    throw new ViolationException(
                        $"the server takes the data of request {found} for that of request {request}");
                }
            }
        }
    }
}
