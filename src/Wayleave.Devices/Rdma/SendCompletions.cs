using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

// Completions come in order. A request that cannot be sent has failed before those in front of it are acknowledged: it
// is remembered by its position, and nothing behind it is sent, until it is the oldest.

/// <summary>
/// How the work requests of a requester end: one by one at the head of the queue, a failure in its turn, and the event
/// of a queue that has drained. Everything that learns of an end calls it. Port token held by the caller.
/// </summary>
internal sealed class SendCompletions(QueuePair pair, SendProgress progress)
{
    private uint _failedPosition;
    private WorkCompletionStatus _failedStatus; // for _failedPosition, once it is the oldest; Success is none
    private bool _drainReported;

    /// <summary>A request has failed and waits for its turn.</summary>
    public bool IsFailing => _failedStatus != WorkCompletionStatus.Success;

    /// <summary>Forgets everything.</summary>
    public void Reset()
    {
        _failedStatus = WorkCompletionStatus.Success;
        _drainReported = false;
    }

    /// <summary>It is the request at that position that has failed: nothing is sent from there on.</summary>
    public bool IsFailingAt(uint position) => IsFailing && position == _failedPosition;

    /// <summary>
    /// The request at the cursor fails here. False when it has to wait until all before it are acknowledged.
    /// </summary>
    public bool TryFailAtCursor(WorkCompletionStatus status)
    {
        (_failedPosition, _failedStatus) = (progress.Cursor, status);
        return TryFailInTurn();
    }

    /// <summary>Ends the request that has failed, if its turn has come, and with it the queue pair.</summary>
    public bool TryFailInTurn()
    {
        if (!IsFailingAt(progress.Head))
        {
            return false;
        }

        FailHead(_failedStatus);
        return true;
    }

    /// <summary>The oldest request ends with an error, if there is one, and the queue pair in any case.</summary>
    public void FailHead(WorkCompletionStatus status)
    {
        if (progress.Head != pair.Sends.Tail)
        {
            CompleteHead(status);
        }

        pair.EnterError();
    }

    /// <summary>The oldest request has ended.</summary>
    public void CompleteHead(WorkCompletionStatus status)
    {
        ref SendSlot slot = ref progress.HeadSlot;
        progress.RetireHead();
        Tell(pair, slot, progress.Head, status);
    }

    /// <summary>ERR: whatever is posted ends, in order.</summary>
    public void Flush()
    {
        uint tail = pair.Sends.Tail;
        while (progress.Head != tail)
        {
            CompleteHead(WorkCompletionStatus.WorkRequestFlushed);
        }
    }

    /// <summary>SQD begins: the event is due once more.</summary>
    public void HandleDrain()
    {
        _drainReported = false;
        ReportDrained();
    }

    /// <summary>Raises the event of SQD, once, when everything that was started has ended.</summary>
    public void ReportDrained()
    {
        if (pair.State == QueuePairState.SendQueueDrained && !_drainReported && progress.IsIdle)
        {
            _drainReported = true;
            pair.Port.RaiseEvent(new AsyncEvent(AsyncEventType.SendQueueDrained, pair.QpNumber));
        }
    }

    /// <summary>
    /// A request of any requester has ended: its queue is told, unless it went well and asked for no completion.
    /// </summary>
    /// <param name="pair">Whose request it is.</param>
    /// <param name="slot">The request; its place in the queue is free once the completion queue was told.</param>
    /// <param name="head">The position behind it.</param>
    /// <param name="status">How it ended.</param>
    public static void Tell(QueuePair pair, in SendSlot slot, uint head, WorkCompletionStatus status)
    {
        if (status == WorkCompletionStatus.Success && (slot.Flags & SendFlags.Signaled) == 0)
        {
            return;
        }

        WorkCompletion completion = new()
        {
            WrId = slot.WrId,
            Status = status,
            Opcode = RequestHeaders.CompletionOf(slot.Opcode),
            ByteLength = slot.LengthBytes,
            QpNumber = pair.QpNumber,
            Flags = RequestHeaders.SentFlags(pair.Profile, slot.Opcode),
        };
        pair.Port.Completions.Complete(
            pair.SendCompletionQueue, completion, pair.Sends, head, isSolicited: false, pair);
    }
}
