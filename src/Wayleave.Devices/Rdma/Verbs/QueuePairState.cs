namespace Wayleave.Devices.Rdma.Verbs;

/// <summary><c>enum ibv_qp_type</c>, same numbers.</summary>
public enum QueuePairType
{
    ReliableConnection = 2,
    UnreliableConnection = 3,
    UnreliableDatagram = 4,
}

/// <summary><c>enum ibv_qp_state</c>, same numbers.</summary>
public enum QueuePairState
{
    Reset = 0,
    Init = 1,

    /// <summary>RTR: takes requests of its peer.</summary>
    ReadyToReceive = 2,

    /// <summary>RTS: also sends its own.</summary>
    ReadyToSend = 3,

    /// <summary>SQD: finishes what it has started, then raises SQ_DRAINED and waits.</summary>
    SendQueueDrained = 4,

    /// <summary>SQE: the send queue of a UC or UD queue pair stopped. RC never gets here.</summary>
    SendQueueError = 5,

    /// <summary>ERR: everything queued is flushed; nothing is sent or accepted.</summary>
    Error = 6,
}

/// <summary>Which attributes a modify sets (<c>enum ibv_qp_attr_mask</c>, same numbers).</summary>
[Flags]
public enum QueuePairAttributeMask
{
    None = 0,
    State = 1 << 0,
    CurrentState = 1 << 1,
    EnableSqdNotify = 1 << 2,
    AccessFlags = 1 << 3,
    PKeyIndex = 1 << 4,
    Port = 1 << 5,
    QKey = 1 << 6,
    AddressVector = 1 << 7,
    PathMtu = 1 << 8,
    Timeout = 1 << 9,
    RetryCount = 1 << 10,
    RnrRetry = 1 << 11,
    RqPsn = 1 << 12,
    MaxRdAtomic = 1 << 13,
    AlternatePath = 1 << 14,
    MinRnrTimer = 1 << 15,
    SqPsn = 1 << 16,
    MaxDestRdAtomic = 1 << 17,
    PathMigrationState = 1 << 18,
    Capabilities = 1 << 19,
    DestQpNumber = 1 << 20,
}

//   RESET --> INIT --> RTR --> RTS <--> SQD          any state but RESET --> ERR
//               |                |                   any state           --> RESET
//              INIT         SQE (UC, UD) --> RTS

/// <summary>The state machine of a queue pair (<c>qp_state_table</c> of <c>core/verbs.c</c>). Pure.</summary>
public static class QueuePairTransitions
{
    private const QueuePairAttributeMask Running =
        QueuePairAttributeMask.CurrentState | QueuePairAttributeMask.AlternatePath | QueuePairAttributeMask.AccessFlags
        | QueuePairAttributeMask.MinRnrTimer | QueuePairAttributeMask.PathMigrationState;

    // While drained; the kernel lets nobody say there in which state the queue pair is thought to be.
    private const QueuePairAttributeMask Moving =
        QueuePairAttributeMask.AddressVector | QueuePairAttributeMask.AlternatePath | QueuePairAttributeMask.AccessFlags
        | QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.PathMigrationState;

    /// <summary>
    /// Whether the step exists, and which attributes it needs and allows besides <see
    /// cref="QueuePairAttributeMask.State"/>.
    /// </summary>
    public static bool TryGet(
        QueuePairState from,
        QueuePairState to,
        QueuePairType type,
        out QueuePairAttributeMask required,
        out QueuePairAttributeMask optional)
    {
        (QueuePairAttributeMask Required, QueuePairAttributeMask Optional)? step = (from, to) switch
        {
            (_, QueuePairState.Reset) => (0, 0),
            (not QueuePairState.Reset, QueuePairState.Error) => (0, 0),
            (QueuePairState.Reset, QueuePairState.Init) => (Initial(type), 0),
            (QueuePairState.Init, QueuePairState.Init) => (0, Initial(type)),
            (QueuePairState.Init, QueuePairState.ReadyToReceive) => ToReadyToReceive(type),
            (QueuePairState.ReadyToReceive, QueuePairState.ReadyToSend) => ToReadyToSend(type),
            (QueuePairState.ReadyToSend, QueuePairState.ReadyToSend) => (0, WhileRunning(type)),
            (QueuePairState.ReadyToSend, QueuePairState.SendQueueDrained) =>
                (0, QueuePairAttributeMask.EnableSqdNotify),
            (QueuePairState.SendQueueDrained, QueuePairState.ReadyToSend) => (0, WhileRunning(type)),
            (QueuePairState.SendQueueDrained, QueuePairState.SendQueueDrained) => (0, WhileDrained(type)),
            (QueuePairState.SendQueueError, QueuePairState.ReadyToSend) => FromSqe(type),
            _ => null,
        };
        (required, optional) = step ?? (0, 0);
        return step is not null;
    }

    /// <summary>
    /// Whether a modify with exactly these attributes is a legal step (<c>ib_modify_qp_is_ok</c>): everything required
    /// is there, and nothing that is not allowed.
    /// </summary>
    public static bool IsAllowed(
        QueuePairState from, QueuePairState to, QueuePairType type, QueuePairAttributeMask mask) =>
        TryGet(from, to, type, out QueuePairAttributeMask required, out QueuePairAttributeMask optional)
        && (mask & required) == required
        && (mask & ~(required | optional | QueuePairAttributeMask.State)) == 0;

    private static QueuePairAttributeMask Initial(QueuePairType type) =>
        QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.Port
        | (type == QueuePairType.UnreliableDatagram ? QueuePairAttributeMask.QKey : QueuePairAttributeMask.AccessFlags);

    private static (QueuePairAttributeMask, QueuePairAttributeMask)? ToReadyToReceive(QueuePairType type)
    {
        const QueuePairAttributeMask Connected = QueuePairAttributeMask.AddressVector | QueuePairAttributeMask.PathMtu
            | QueuePairAttributeMask.DestQpNumber | QueuePairAttributeMask.RqPsn;
        const QueuePairAttributeMask Optional = QueuePairAttributeMask.AlternatePath
            | QueuePairAttributeMask.AccessFlags | QueuePairAttributeMask.PKeyIndex;
        return type switch
        {
            QueuePairType.ReliableConnection =>
                (Connected | QueuePairAttributeMask.MaxDestRdAtomic | QueuePairAttributeMask.MinRnrTimer, Optional),
            QueuePairType.UnreliableConnection => (Connected, Optional),
            _ => (0, QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.QKey),
        };
    }

    private static (QueuePairAttributeMask, QueuePairAttributeMask)? ToReadyToSend(QueuePairType type) => type switch
    {
        QueuePairType.ReliableConnection => (
            QueuePairAttributeMask.Timeout | QueuePairAttributeMask.RetryCount | QueuePairAttributeMask.RnrRetry
            | QueuePairAttributeMask.SqPsn | QueuePairAttributeMask.MaxRdAtomic,
            Running),
        QueuePairType.UnreliableConnection => (QueuePairAttributeMask.SqPsn, WhileRunning(type)),
        _ => (QueuePairAttributeMask.SqPsn, WhileRunning(type)),
    };

    private static QueuePairAttributeMask WhileRunning(QueuePairType type) => type switch
    {
        QueuePairType.ReliableConnection => Running,
        QueuePairType.UnreliableConnection => Running & ~QueuePairAttributeMask.MinRnrTimer,
        _ => QueuePairAttributeMask.CurrentState | QueuePairAttributeMask.QKey,
    };

    private static QueuePairAttributeMask WhileDrained(QueuePairType type) => type switch
    {
        QueuePairType.ReliableConnection => Moving | QueuePairAttributeMask.Port
            | QueuePairAttributeMask.MinRnrTimer | QueuePairAttributeMask.Timeout | QueuePairAttributeMask.RetryCount
            | QueuePairAttributeMask.RnrRetry
            | QueuePairAttributeMask.MaxRdAtomic | QueuePairAttributeMask.MaxDestRdAtomic,
        QueuePairType.UnreliableConnection => Moving,
        _ => QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.QKey,
    };

    private static (QueuePairAttributeMask, QueuePairAttributeMask)? FromSqe(QueuePairType type) => type switch
    {
        QueuePairType.UnreliableConnection =>
            (0, QueuePairAttributeMask.CurrentState | QueuePairAttributeMask.AccessFlags),
        QueuePairType.UnreliableDatagram => (0, QueuePairAttributeMask.CurrentState | QueuePairAttributeMask.QKey),
        _ => null,
    };
}
