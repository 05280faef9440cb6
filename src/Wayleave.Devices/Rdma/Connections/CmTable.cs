using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>The connections of a manager, by name and by peer, and those that wait for time. Port token held.</summary>
internal sealed class CmTable(RdmaDevice device, int timeWaitMax)
{
    private readonly Dictionary<uint, CmConnection> _byId = [];
    private readonly Dictionary<(Gid Source, uint RemoteId, ulong Guid), CmConnection> _byRequest = [];
    private readonly Queue<CmConnection> _timeWait = [];
    private readonly HashSet<uint> _heldNumbers = [];
    private readonly List<CmConnection> _timed = [];

    public int Count => _byId.Count;

    /// <summary>Requests that wait for the application.</summary>
    public int Pending { get; set; }

    /// <summary>When the next connection is due; may be early, never late.</summary>
    public TimeSpan Deadline { get; private set; } = TimeSpan.MaxValue;

    /// <summary>A name that nobody can guess, and nobody has.</summary>
    public uint NewId()
    {
        uint id;
        do
        {
            id = device.NextRandom();
        }
        while (id == 0 || _byId.ContainsKey(id));
        return id;
    }

    public void Add(CmConnection connection)
    {
        _byId.Add(connection.LocalId, connection);
        if (connection.Request is { } request)
        {
            _byRequest[(connection.RemoteGid, request.LocalId, request.NodeGuid)] = connection;
        }
    }

    /// <summary>The connection that we call so, whoever its peer is.</summary>
    public CmConnection? FindById(uint localId) => _byId.GetValueOrDefault(localId);

    /// <summary>The connection that we call so, if that is its peer.</summary>
    public CmConnection? Find(uint localId, Gid source) =>
        _byId.GetValueOrDefault(localId) is { } found && found.RemoteGid == source ? found : null;

    /// <summary>The connection that a request asked for before.</summary>
    public CmConnection? FindByRequest(Gid source, CmRequest request) =>
        _byRequest.GetValueOrDefault((source, request.LocalId, request.NodeGuid));

    /// <summary>A connection to that queue pair of a peer that has not ended.</summary>
    public CmConnection? FindByQueuePair(Gid source, uint queuePairNumber)
    {
        foreach (CmConnection connection in _byId.Values)
        {
            if (connection.RemoteQpNumber == queuePairNumber && connection.RemoteGid == source
                && connection.State is CmState.Established or CmState.ReplySent)
            {
                return connection;
            }
        }

        return null;
    }

    /// <summary>The connection of an own queue pair, if it has a deadline: it is being made, or ends.</summary>
    public CmConnection? FindByPair(QueuePair pair) => _timed.Find(c => ReferenceEquals(c.Pair, pair));

    public List<CmConnection> All(Predicate<CmConnection> match) => [.. _byId.Values.Where(c => match(c))];

    public bool HoldsNumber(uint queuePairNumber) => _heldNumbers.Contains(queuePairNumber);

    /// <summary>It enters time-wait: its queue pair's number is not given out until it is closed.</summary>
    public void HoldNumber(CmConnection connection)
    {
        if (connection.Pair is { } pair)
        {
            _heldNumbers.Add(pair.QpNumber);
        }

        _timeWait.Enqueue(connection);
        while (_timeWait.Count > timeWaitMax)
        {
            Close(_timeWait.Dequeue());
        }
    }

    public void SetDeadline(CmConnection connection, TimeSpan deadline)
    {
        bool wasTimed = connection.Deadline != TimeSpan.MaxValue;
        connection.Deadline = deadline;
        if (deadline == TimeSpan.MaxValue)
        {
            _timed.Remove(connection);
            return;
        }

        if (!wasTimed)
        {
            _timed.Add(connection);
        }

        Deadline = deadline < Deadline ? deadline : Deadline;
        device.Port.NoteDeadline(deadline);
    }

    /// <summary>Those whose deadline is over.</summary>
    public List<CmConnection> TakeDue(TimeSpan now)
    {
        List<CmConnection> due = _timed.FindAll(c => c.Deadline <= now);
        _timed.RemoveAll(c => c.Deadline <= now);
        foreach (CmConnection connection in due)
        {
            connection.Deadline = TimeSpan.MaxValue;
        }

        Deadline = TimeSpan.MaxValue;
        foreach (CmConnection connection in _timed)
        {
            Deadline = connection.Deadline < Deadline ? connection.Deadline : Deadline;
        }

        return due;
    }

    /// <summary>Nothing is known of it any more. Idempotent.</summary>
    public void Close(CmConnection connection)
    {
        if (connection.State == CmState.Closed)
        {
            return;
        }

        connection.State = CmState.Closed;
        SetDeadline(connection, TimeSpan.MaxValue);
        _byId.Remove(connection.LocalId);
        if (connection.Request is { } request)
        {
            _byRequest.Remove((connection.RemoteGid, request.LocalId, request.NodeGuid));
        }

        if (connection.Pair is { } pair)
        {
            _heldNumbers.Remove(pair.QpNumber);
        }
    }
}
