namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>What a queue pair is made of (<c>struct ibv_qp_init_attr</c>).</summary>
/// <param name="Domain">Regions of other domains are refused.</param>
/// <param name="SendCompletions">Where sends end.</param>
/// <param name="ReceiveCompletions">Where receives end; may be the same.</param>
/// <param name="Capabilities">Sizes.</param>
public sealed record QueuePairRequest(
    ProtectionDomain Domain,
    CompletionQueue SendCompletions,
    CompletionQueue ReceiveCompletions,
    QueuePairCapabilities Capabilities)
{
    public QueuePairType Type { get; init; } = QueuePairType.ReliableConnection;

    /// <summary>Where receives are taken from, of the same domain; null gives it a queue of its own.</summary>
    public SharedReceiveQueue? SharedReceives { get; init; }

    /// <summary>Every send makes a completion (<c>sq_sig_all</c>).</summary>
    public bool SignalsAll { get; init; }

    /// <summary>For replays: the number to use.</summary>
    public uint? Number { get; init; }
}
