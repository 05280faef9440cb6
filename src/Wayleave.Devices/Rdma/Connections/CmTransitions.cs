namespace Wayleave.Devices.Rdma.Connections;

/// <summary>
/// What the steps of a connection do to its queue pair, its timer and the application; the manager decides which. Port
/// token held.
/// </summary>
internal sealed class CmTransitions(
    RdmaDevice device, ConnectionManagerOptions options, CmTable table, CmOutbox outbox)
{
    private const int QuestionRetries = 3; // longer than an honest peer waits in time-wait, where it does not answer

    private readonly Queue<CmEvent> _events = [];

    /// <summary>The oldest event that was not polled yet, without requests that are over.</summary>
    public bool PollEvent(out CmEvent cmEvent)
    {
        while (_events.TryDequeue(out cmEvent))
        {
            if (cmEvent is not { Kind: CmEventKind.ConnectRequest, Connection.State: CmState.Closed })
            {
                return true;
            }

            LeaveBacklog(cmEvent.Connection);
        }

        return false;
    }

    /// <summary>Data may flow.</summary>
    public void Establish(CmConnection connection, ReadOnlyMemory<byte> privateData)
    {
        connection.State = CmState.Established;
        table.NotePairs(connection);
        connection.Pair!.AwaitsFirstPacket = false;
        table.SetDeadline(connection, TimeSpan.MaxValue);
        device.Host.Trace("rdma.connected", connection.Pair!.Name, connection.LocalId, connection.RemoteQpNumber);
        Raise(CmEventKind.Established, connection, privateData: privateData);
    }

    /// <summary>The peer says no, or we do: the queue pair stops, and the connection is forgotten.</summary>
    public void Refused(CmConnection connection, CmRejectReason reason, ReadOnlyMemory<byte> privateData)
    {
        connection.StopPair();
        table.Close(connection);
        Raise(CmEventKind.Rejected, connection, reason, privateData);
    }

    /// <summary>
    /// The peer takes its request back. One that the application has not taken yet is somewhere on the way to it, and
    /// keeps its place in the backlog until it comes there: nothing else bounds how many are on the way. Nobody knows
    /// of it, so nobody is told.
    /// </summary>
    public void Withdrawn(CmConnection connection, CmRejectReason reason, ReadOnlyMemory<byte> privateData)
    {
        table.Close(connection);
        if (connection.Listener is null)
        {
            Raise(CmEventKind.Rejected, connection, reason, privateData);
        }
    }

    /// <summary>It has ended. Its name and its queue pair's number are kept for a while.</summary>
    public void EnterTimeWait(CmConnection connection)
    {
        if (connection.State != CmState.DisconnectSent)
        {
            connection.StopPair(); // there the DREQ has stopped it, and it may be in another connection by now
        }

        connection.State = CmState.TimeWait;
        table.HoldNumber(connection);
        while (table.FindSurplus() is { } oldest)
        {
            EndTimeWait(oldest);
        }

        // Twice the time a packet may live, which is what the acknowledge timeout is made of: the peer's word, so far.
        int code = Math.Min(connection.AckTimeout + 1, options.TimeWaitCodeMax);
        table.SetDeadline(connection, device.Port.Now + CmTimes.Of(code));
        Raise(CmEventKind.Disconnected, connection);
    }

    /// <summary>Its time of waiting is over, or cut short because too many wait: who waits for that is told.</summary>
    public void EndTimeWait(CmConnection connection)
    {
        table.Close(connection);
        Raise(CmEventKind.TimeWaitOver, connection);
    }

    /// <summary>
    /// Something speaks against it: the peer is asked, so often, whether it has forgotten it. Silence is no.
    /// </summary>
    public void Doubt(CmConnection connection)
    {
        if (!options.AsksBeforeEnding)
        {
            EnterTimeWait(connection);
        }
        else if (connection.Question is null)
        {
            connection.Question = device.NextRandom64();
            connection.RetriesLeft = QuestionRetries;
            Ask(connection, device.Port.Now);
        }
    }

    /// <summary>Nobody answered the question: it is asked again, or the connection stays.</summary>
    public void AskAgain(CmConnection connection, TimeSpan now)
    {
        if (connection.RetriesLeft-- > 0)
        {
            Ask(connection, now);
        }
        else
        {
            connection.Question = null;
        }
    }

    private void Ask(CmConnection connection, TimeSpan now)
    {
        outbox.SendQuestion(connection);
        table.SetDeadline(connection, now + CmTimes.Of(options.ResponseTimeoutCode));
    }

    /// <summary>Nobody answers.</summary>
    public void GiveUp(CmConnection connection)
    {
        if (connection.State == CmState.DisconnectSent)
        {
            EnterTimeWait(connection);
            return;
        }

        if (connection.IsDatagram)
        {
            table.Close(connection);
            Raise(CmEventKind.Unreachable, connection);
            return;
        }

        CmSubject about = connection.State == CmState.ReplySent ? CmSubject.Reply : CmSubject.Request;
        outbox.SendNotice(connection, CmMessageId.ConnectReject, about, CmRejectReason.Timeout);
        connection.StopPair();
        table.Close(connection);
        Raise(CmEventKind.Unreachable, connection);
    }

    /// <summary>The application has decided, or need not any more. Idempotent.</summary>
    public void LeaveBacklog(CmConnection connection)
    {
        if (connection.Listener is { Pending: > 0 } listener) // else it was closed, with all that waited
        {
            listener.Pending--;
            table.Pending--;
        }

        connection.Listener = null;
    }

    /// <summary>Nothing waits for a listener that has ended.</summary>
    public void EmptyBacklog(CmListener listener)
    {
        table.Pending -= listener.Pending;
        listener.Pending = 0;
    }

    /// <summary>Sends what the state stands for, and again until there is an answer.</summary>
    public void SendAndWait(CmConnection connection, TimeSpan now)
    {
        connection.Interval = CmTimes.Of(options.ResponseTimeoutCode);
        connection.RetriesLeft = options.RetriesMax;
        outbox.Send(connection);
        table.SetDeadline(connection, now + connection.Interval);
    }

    /// <summary>An event for the application.</summary>
    public void Raise(
        CmEventKind kind,
        CmConnection connection,
        CmRejectReason reason = CmRejectReason.None,
        ReadOnlyMemory<byte> privateData = default) =>
        _events.Enqueue(new CmEvent(kind, connection, reason, privateData));
}
