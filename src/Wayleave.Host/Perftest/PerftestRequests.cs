using Wayleave.Core;
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

    /// <summary>What a request that failed says of the run.</summary>
    /// <param name="status">Of its completion.</param>
    /// <param name="when">Behind the status, with a space before it; or empty.</param>
    /// <returns>
    /// ETIMEDOUT: the peer does not answer any more; ECONNRESET: it has disconnected; otherwise EIO.
    /// </returns>
    public static WayleaveException Failed(WorkCompletionStatus status, string when) => status switch
    {
        WorkCompletionStatus.RetryExceeded =>
            new WayleaveException(Errno.ETIMEDOUT, "perftest", $"a request ended with {status}{when}"),

        // Nothing failed before it, so somebody has ended the connection.
        WorkCompletionStatus.WorkRequestFlushed =>
            new WayleaveException(Errno.ECONNRESET, "perftest", $"the peer has disconnected{when}"),
        _ => new WayleaveException(Errno.EIO, "perftest", $"a request ended with {status}{when}"),
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
