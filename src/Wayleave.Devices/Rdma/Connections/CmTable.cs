using System.Diagnostics.CodeAnalysis;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

// A timer that was set again, or taken back, leaves its old entry in the queue of timers: it is told by its time, which
// is not the connection's any more, and dropped when it comes up or when there are too many of them. It has the name of
// the connection only: a peer's word sets times of hours, and a queue pair that was destroyed must not be kept by one.

/// <summary>The connections of a manager, by name and by peer, and those that wait for time. Port token held.</summary>
internal sealed class CmTable(RdmaDevice device, int timeWaitMax)
{
    private const int TimersSlack = 64;

    private readonly Dictionary<uint, CmConnection> _byId = [];
    private readonly Dictionary<(Gid Source, uint RemoteId, ulong? Guid), CmConnection> _byRequest = [];
    private readonly LinkedList<CmConnection> _timeWait = []; // the oldest first
    private readonly HashSet<uint> _heldNumbers = [];
    private readonly Dictionary<(Gid Source, uint Number), CmConnection> _byRemotePair = [];
    private readonly Dictionary<QueuePair, CmConnection> _byPair = [];
    private readonly PriorityQueue<uint, TimeSpan> _timers = new();

    public int Count => _byId.Count;

    /// <summary>Requests that wait for the application.</summary>
    public int Pending { get; set; }

    /// <summary>When the next connection is due; may be early, never late.</summary>
    public TimeSpan Deadline => _timers.TryPeek(out _, out TimeSpan deadline) ? deadline : TimeSpan.MaxValue;

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
        if (connection.RequestKey is { } key)
        {
            _byRequest[key] = connection;
        }

        if (connection.Request is not null)
        {
            _byRemotePair[(connection.RemoteGid, connection.RemoteQpNumber)] = connection;
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

    /// <summary>As the other form, of a look-up.</summary>
    public CmConnection? FindByRequest(Gid source, CmDatagramRequest request) =>
        _byRequest.GetValueOrDefault((source, request.RequestId, null));

    /// <summary>Both queue pairs are known: either finds the connection from now on, until it is closed.</summary>
    public void NotePairs(CmConnection connection)
    {
        _byRemotePair[(connection.RemoteGid, connection.RemoteQpNumber)] = connection;
        _byPair[connection.Pair!] = connection;
    }

    /// <summary>
    /// The connection that a queue pair of a peer has, asks for, or had until a while ago: it is in time-wait.
    /// </summary>
    public CmConnection? FindByQueuePair(Gid source, uint queuePairNumber) =>
        _byRemotePair.GetValueOrDefault((source, queuePairNumber));

    /// <summary>The connection of an own queue pair, once both are known.</summary>
    public CmConnection? FindByPair(QueuePair pair) => _byPair.GetValueOrDefault(pair);

    public List<CmConnection> All(Predicate<CmConnection> match) => [.. _byId.Values.Where(c => match(c))];

    public bool HoldsNumber(uint queuePairNumber) => _heldNumbers.Contains(queuePairNumber);

    /// <summary>It enters time-wait: its queue pair's number is not given out until it is closed.</summary>
    public void HoldNumber(CmConnection connection)
    {
        if (connection.Pair is { } pair)
        {
            _heldNumbers.Add(pair.QpNumber);
        }

        connection.TimeWaitPlace = _timeWait.AddLast(connection);
    }

    /// <summary>The oldest in time-wait when there are too many; null when there are not.</summary>
    public CmConnection? FindSurplus() => _timeWait.Count > timeWaitMax ? _timeWait.First!.Value : null;

    public void SetDeadline(CmConnection connection, TimeSpan deadline)
    {
        connection.Deadline = deadline;
        if (deadline == TimeSpan.MaxValue)
        {
            return;
        }

        _timers.Enqueue(connection.LocalId, deadline);
        device.Port.NoteDeadline(deadline);
        if (_timers.Count > 2 * _byId.Count + TimersSlack)
        {
            DropStaleTimers();
        }
    }

    /// <summary>
    /// The next whose deadline is over, in the order of their times. One after the other: what is done with one may
    /// close another.
    /// </summary>
    public bool TryTakeDue(TimeSpan now, [NotNullWhen(true)] out CmConnection? connection)
    {
        while (_timers.TryPeek(out uint name, out TimeSpan deadline) && deadline <= now)
        {
            _timers.Dequeue();
            connection = FindById(name);
            if (connection is not null && connection.Deadline == deadline)
            {
                connection.Deadline = TimeSpan.MaxValue;
                return true;
            }
        }

        connection = null;
        return false;
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
        if (connection.TimeWaitPlace is { } place)
        {
            _timeWait.Remove(place);
            connection.TimeWaitPlace = null;
        }

        _byId.Remove(connection.LocalId);
        if (connection.RequestKey is { } key)
        {
            RemoveIfSame(_byRequest, key, connection);
        }

        RemoveIfSame(_byRemotePair, (connection.RemoteGid, connection.RemoteQpNumber), connection);
        if (connection.Pair is { } pair)
        {
            _heldNumbers.Remove(pair.QpNumber);
            RemoveIfSame(_byPair, pair, connection);
        }
    }

    // A later connection may have taken the place.
    private static void RemoveIfSame<TKey>(
        Dictionary<TKey, CmConnection> table, TKey key, CmConnection connection)
        where TKey : notnull
    {
        if (table.TryGetValue(key, out CmConnection? found) && ReferenceEquals(found, connection))
        {
            table.Remove(key);
        }
    }

    private void DropStaleTimers()
    {
        _timers.Clear();
        foreach (CmConnection connection in _byId.Values)
        {
            if (connection.Deadline != TimeSpan.MaxValue)
            {
                _timers.Enqueue(connection.LocalId, connection.Deadline);
            }
        }
    }
}
