namespace Wayleave.Devices.Gpu;

public enum MoveState
{
    /// <summary>Somebody else holds the reservation.</summary>
    Locking,

    /// <summary>
    /// The buffer is at its new place; its bytes follow. Importers map again and wait for the KERNEL fence.
    /// </summary>
    Copying,

    /// <summary>The bytes are there and the old place is given back.</summary>
    Moved,

    /// <summary>Nothing happened; the operation's errno says why.</summary>
    Refused,

    /// <summary>The copy ended early: the bytes are lost, and the buffer is taken back.</summary>
    Failed,
}

public enum MoveEvent
{
    Submitted,
    AlreadyThere,
    Refused,
    Copied,
    CopyFailed,
}

//   Locking --Submitted--> Copying --Copied------> Moved
//      |  \                   +------CopyFailed--> Failed
//      |   +--AlreadyThere--> Moved
//      +------Refused-------> Refused

/// <summary>The life of a move. Pure.</summary>
public static class MoveTransitions
{
    /// <summary>The state after <paramref name="ev"/>, or null when the event does not apply in that state.</summary>
    public static MoveState? Next(this MoveState state, MoveEvent ev) => (state, ev) switch
    {
        (MoveState.Locking, MoveEvent.Submitted) => MoveState.Copying,
        (MoveState.Locking, MoveEvent.AlreadyThere) => MoveState.Moved,
        (MoveState.Locking, MoveEvent.Refused) => MoveState.Refused,
        (MoveState.Copying, MoveEvent.Copied) => MoveState.Moved,
        (MoveState.Copying, MoveEvent.CopyFailed) => MoveState.Failed,
        _ => null,
    };
}
