using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Scenarios.Vectors;

/// <summary>The names that libibverbs gives to our enums, as the descriptions write them.</summary>
internal static class VerbsNames
{
    // In the order of enum ibv_wc_status.
    private static readonly string[] s_statuses =
    [
        "SUCCESS", "LOC_LEN_ERR", "LOC_QP_OP_ERR", "LOC_EEC_OP_ERR", "LOC_PROT_ERR", "WR_FLUSH_ERR", "MW_BIND_ERR",
        "BAD_RESP_ERR", "LOC_ACCESS_ERR", "REM_INV_REQ_ERR", "REM_ACCESS_ERR", "REM_OP_ERR", "RETRY_EXC_ERR",
        "RNR_RETRY_EXC_ERR",
        "LOC_RDD_VIOL_ERR", "REM_INV_RD_REQ_ERR", "REM_ABORT_ERR", "INV_EECN_ERR", "INV_EEC_STATE_ERR", "FATAL_ERR",
        "RESP_TIMEOUT_ERR", "GENERAL_ERR",
    ];

    // In the order of enum ibv_qp_state.
    private static readonly string[] s_states = ["RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"];

    private static readonly Dictionary<string, WorkRequestOpcode> s_requests = new()
    {
        ["IBV_WR_RDMA_WRITE"] = WorkRequestOpcode.RdmaWrite,
        ["IBV_WR_RDMA_WRITE_WITH_IMM"] = WorkRequestOpcode.RdmaWriteWithImmediate,
        ["IBV_WR_SEND"] = WorkRequestOpcode.Send,
        ["IBV_WR_SEND_WITH_IMM"] = WorkRequestOpcode.SendWithImmediate,
        ["IBV_WR_RDMA_READ"] = WorkRequestOpcode.RdmaRead,
        ["IBV_WR_ATOMIC_CMP_AND_SWP"] = WorkRequestOpcode.AtomicCompareSwap,
        ["IBV_WR_ATOMIC_FETCH_AND_ADD"] = WorkRequestOpcode.AtomicFetchAdd,
        ["IBV_WR_LOCAL_INV"] = WorkRequestOpcode.LocalInvalidate,
        ["IBV_WR_SEND_WITH_INV"] = WorkRequestOpcode.SendWithInvalidate,
        ["IBV_WR_ATOMIC_WRITE"] = WorkRequestOpcode.AtomicWrite,
    };

    private static readonly Dictionary<string, SendFlags> s_sendFlags = new()
    {
        ["FENCE"] = SendFlags.Fence,
        ["SIGNALED"] = SendFlags.Signaled,
        ["SOLICITED"] = SendFlags.Solicited,
        ["INLINE"] = SendFlags.Inline,
    };

    private static readonly Dictionary<string, AccessFlags> s_access = new()
    {
        ["LOCAL_WRITE"] = AccessFlags.LocalWrite,
        ["REMOTE_WRITE"] = AccessFlags.RemoteWrite,
        ["REMOTE_READ"] = AccessFlags.RemoteRead,
        ["REMOTE_ATOMIC"] = AccessFlags.RemoteAtomic,
        ["RELAXED_ORDERING"] = AccessFlags.RelaxedOrdering,
    };

    /// <summary>Null for a type that this stack does not have.</summary>
    public static QueuePairType? QueuePairTypeOf(string name) => name switch
    {
        "RC" => QueuePairType.ReliableConnection,
        "UC" => QueuePairType.UnreliableConnection,
        "UD" => QueuePairType.UnreliableDatagram,
        _ => null,
    };

    public static string Of(WorkCompletionStatus status) => $"IBV_WC_{s_statuses[(int)status]}";

    public static string Of(QueuePairState state) => s_states[(int)state];

    public static string Of(WorkCompletionOpcode opcode) => opcode switch
    {
        WorkCompletionOpcode.Send => "IBV_WC_SEND",
        WorkCompletionOpcode.RdmaWrite => "IBV_WC_RDMA_WRITE",
        WorkCompletionOpcode.RdmaRead => "IBV_WC_RDMA_READ",
        WorkCompletionOpcode.CompareSwap => "IBV_WC_COMP_SWAP",
        WorkCompletionOpcode.FetchAdd => "IBV_WC_FETCH_ADD",
        WorkCompletionOpcode.BindWindow => "IBV_WC_BIND_MW",
        WorkCompletionOpcode.LocalInvalidate => "IBV_WC_LOCAL_INV",
        WorkCompletionOpcode.Flush => "IBV_WC_FLUSH",
        WorkCompletionOpcode.AtomicWrite => "IBV_WC_ATOMIC_WRITE",
        WorkCompletionOpcode.Receive => "IBV_WC_RECV",
        WorkCompletionOpcode.ReceiveRdmaWithImmediate => "IBV_WC_RECV_RDMA_WITH_IMM",
        _ => opcode.ToString(),
    };

    /// <summary>In alphabetical order.</summary>
    public static string Of(WorkCompletionFlags flags)
    {
        List<string> names = [];
        Add(WorkCompletionFlags.Grh, "GRH");
        Add(WorkCompletionFlags.WithImmediate, "WITH_IMM");
        Add(WorkCompletionFlags.WithInvalidate, "WITH_INV");
        return Join(names);

        void Add(WorkCompletionFlags flag, string name)
        {
            if ((flags & flag) != 0)
            {
                names.Add(name);
            }
        }
    }

    /// <summary>Flags as one text, in alphabetical order, so that two can be compared.</summary>
    public static string Join(IEnumerable<string> flags)
    {
        string joined = string.Join('|', flags.Order(StringComparer.Ordinal));
        return joined.Length == 0 ? "none" : joined;
    }

    /// <summary>Null for a work request that this stack does not have.</summary>
    public static WorkRequestOpcode? RequestOpcode(string name) =>
        s_requests.TryGetValue(name, out WorkRequestOpcode opcode) ? opcode : null;

    /// <summary>Null when one of the names is not known here.</summary>
    public static SendFlags? SendFlagsOf(IEnumerable<string> names) => Combine(names, s_sendFlags, (a, b) => a | b);

    /// <summary>Null when one of the names is not known here.</summary>
    public static AccessFlags? AccessOf(IEnumerable<string> names) => Combine(names, s_access, (a, b) => a | b);

    private static T? Combine<T>(IEnumerable<string> names, Dictionary<string, T> known, Func<T, T, T> or)
        where T : struct, Enum
    {
        T flags = default;
        foreach (string name in names)
        {
            if (!known.TryGetValue(name, out T flag))
            {
                return null;
            }

            flags = or(flags, flag);
        }

        return flags;
    }
}
