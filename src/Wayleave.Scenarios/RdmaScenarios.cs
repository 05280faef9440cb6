using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// Two hosts: one WRITEs over RoCEv2 into the other's GPU buffer, which moves and is taken back meanwhile.
/// </summary>
internal static class RdmaScenarios
{
    private const int MessageBytes = 1024; // four packets at MTU 256
    private const int Moves = 3; // odd: the buffer does not end where it began

    public static NamedScenario WriteUnderMoves { get; } = new(
        "write-under-moves",
        "A host writes messages into another host's GPU buffer while that GPU evicts and restores it; every message "
        + "completes, and the last one is what the buffer holds.",
        c => Build(c, ResponderDefences.All, takesBack: false),
        [
            new("old-translation", "The responder goes on with the translation it saw first.",
                c => Build(c, ResponderDefences.BrokenRevokeGate, takesBack: false)),
        ])
    {
        Defence = "each packet reads the translation again and enters its gate",
        Orders = OrderSource.Random,
    };

    public static NamedScenario WriteAgainstTakeBack { get; } = new(
        "write-against-take-back",
        "A host writes messages into another host's GPU buffer while that host moves it, takes it back and gives the "
        + "memory to somebody else; nothing lands after the proof, and the writer gets a remote access error.",
        c => Build(c, ResponderDefences.All, takesBack: true),
        [
            new("revoke-gate", "The responder keeps the old translation and key alive.",
                c => Build(c, ResponderDefences.BrokenRevokeGate, takesBack: true)),
        ])
    {
        Defence = "the key is dead and the gate has drained before the memory goes",
        Orders = OrderSource.Random,
    };

    private static Scenario Build(Choices choices, ResponderDefences defences, bool takesBack)
    {
        TwoHosts hosts = new(choices, MessageBytes, defences: defences);
        Writer application = new(hosts.User, hosts.Owner, hosts.UserNode);
        IEnumerable<Step> writing = application.Run(messages: 4);
        Scenario scenario = takesBack
            ? hosts.ToScenario(("writer", writing), ("gpu", Move(hosts.Owner)), ("owner", TakeBack(hosts.Owner)))
            : hosts.ToScenario(("writer", writing), ("gpu", Move(hosts.Owner)));
        return scenario with { AtEnd = scenario.AtEnd + application.CheckEnd };
    }

    private static IEnumerable<Step> Move(World world)
    {
        for (int round = 0; round < Moves; round++)
        {
            yield return "move";
            MoveOperation move;
            using (world.Host.Enter())
            {
                move = world.Gpu.Move(world.Lent, round % 2 == 0 ? GpuDomain.System : GpuDomain.Vram);
            }

            yield return new("moved", () => move.IsCompleted);
            if (move.Error != Errno.Success && !world.Lent.IsFreed)
            {
                throw new ViolationException($"the move ended with {move.Error}");
            }
        }
    }

    private static IEnumerable<Step> TakeBack(World world)
    {
        yield return "free";
        using (world.Host.Enter())
        {
            world.Gpu.Free(world.Lent, new RevokePolicy());
        }

        foreach (GpuDomain domain in (GpuDomain[])[GpuDomain.Vram, GpuDomain.System])
        {
            foreach (Step step in world.HandOut(domain))
            {
                yield return step;
            }
        }
    }

    /// <summary>The program at the writing end.</summary>
    private sealed class Writer(World world, World target, RdmaNode node)
    {
        private byte _completed;

        public IEnumerable<Step> Run(int messages)
        {
            while (_completed < messages)
            {
                yield return "post";
                world.Fill(world.Lent, (byte)(_completed + 1));
                node.PostWrite(_completed + 1UL);
                yield return new("complete", () => node.HasCompletion);
                WorkCompletionStatus status = node.PollCompletion();
                if (status == WorkCompletionStatus.RemoteAccessError && target.Lent.IsFreed)
                {
                    yield break;
                }

                if (status != WorkCompletionStatus.Success)
                {
                    throw new ViolationException($"message {_completed + 1} ended with {status}");
                }

                _completed++;
            }
        }

        public void CheckEnd()
        {
            for (int offset = 0; offset < MessageBytes && !target.Lent.IsFreed; offset++)
            {
                if (target.Peek(target.Lent, offset) is byte found && found != _completed)
                {
                    throw new ViolationException(
                        $"message {_completed} completed, and the buffer holds {found} at {offset}");
                }
            }
        }
    }
}
