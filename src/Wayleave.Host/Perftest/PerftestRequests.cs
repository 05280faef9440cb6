using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Perftest;

/// <summary>What the tools have in common on their queue pairs.</summary>
internal static class PerftestRequests
{
    public static WorkRequestOpcode OpcodeOf(PerftestOptions options) => options.Verb switch
    {
        PerftestVerb.Write => WorkRequestOpcode.RdmaWrite,
        PerftestVerb.Read => WorkRequestOpcode.RdmaRead,
        PerftestVerb.Send => WorkRequestOpcode.Send,
        _ => options.ComparesAndSwaps
            ? WorkRequestOpcode.AtomicCompareSwap : WorkRequestOpcode.AtomicFetchAdd,
    };

    /// <summary>Takes a queue pair from RESET to RTS.</summary>
    public static void ConnectPair(NicHandle nic, QueuePair pair, QueuePairAttributes attributes, string operation)
    {
        nic.Driver.WithToken(() =>
        {
            Step(QueuePairState.Init);
            Step(QueuePairState.ReadyToReceive);
            Step(QueuePairState.ReadyToSend);
        });

        void Step(QueuePairState state)
        {
            QueuePairTransitions.TryGet(pair.State, state, pair.Type, out QueuePairAttributeMask required, out _);
            pair.Modify(attributes with { State = state }, required | QueuePairAttributeMask.State)
                .ThrowIfFailed($"{operation}: to {state}");
        }
    }
}
