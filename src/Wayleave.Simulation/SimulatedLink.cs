namespace Wayleave.Simulation;

/// <summary>
/// Carries datagrams between endpoints on virtual time, and loses, duplicates, delays, reorders and damages them as its
/// options say. What happens to a datagram is decided when it is sent, by the <see cref="Choices"/> of the run. It
/// knows nothing of what it carries. Not thread-safe.
/// </summary>
/// <typeparam name="TAddress">Names an endpoint; only compared and hashed.</typeparam>
public sealed class SimulatedLink<TAddress>
    where TAddress : IEquatable<TAddress>
{
    private readonly Choices _choices;
    private readonly Dictionary<TAddress, PriorityQueue<Datagram, Arrival>> _underWay = [];
    private readonly Dictionary<(TAddress, TAddress), TimeSpan> _lastArrival = [];
    private SimulatedLinkOptions _options;
    private SimulatedLinkStats _stats;
    private ulong _nextOrder;
    private int _faults;

    /// <param name="choices">The decisions of the run; asked only for what the options leave open.</param>
    /// <param name="options">Null: everything arrives at once and in order.</param>
    /// <exception cref="ArgumentException">An option is out of its range.</exception>
    public SimulatedLink(Choices choices, SimulatedLinkOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(choices);
        _choices = choices;
        _options = options ?? new SimulatedLinkOptions();
        _options.Validate();
    }

    public SimulatedLinkStats Stats => _stats;

    /// <summary>When the next datagram arrives anywhere, or null when none is under way.</summary>
    public TimeSpan? NextDeadline
    {
        get
        {
            TimeSpan? next = null;
            foreach (PriorityQueue<Datagram, Arrival> queue in _underWay.Values)
            {
                if (queue.TryPeek(out _, out Arrival arrival) && (next is null || arrival.Time < next))
                {
                    next = arrival.Time;
                }
            }

            return next;
        }
    }

    /// <summary>
    /// From now on no fault happens; delays stay, and what is under way arrives. For checks of liveness.
    /// </summary>
    public void Heal() => _options = _options with { FaultLimit = 0 };

    /// <summary>Sends a datagram. The bytes are copied; the caller may use the buffer again at once.</summary>
    public void Send(TimeSpan now, TAddress source, TAddress destination, ReadOnlySpan<byte> datagram)
    {
        _stats = _stats with { Sent = _stats.Sent + 1 };
        if (Fault(_options.LossPerMille))
        {
            _stats = _stats with { Lost = _stats.Lost + 1 };
            return;
        }

        Enqueue(now, source, destination, datagram);
        if (Fault(_options.DuplicationPerMille))
        {
            _stats = _stats with { Duplicated = _stats.Duplicated + 1 };
            Enqueue(now, source, destination, datagram);
        }
    }

    /// <summary>
    /// Sends what one UDP_SEGMENT call would: <paramref name="bytes"/> cut into datagrams of <paramref
    /// name="segmentBytes"/>, the last of which may be shorter. Each has its own fate.
    /// </summary>
    public void SendSegments(
        TimeSpan now, TAddress source, TAddress destination, ReadOnlySpan<byte> bytes, int segmentBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(segmentBytes);
        while (!bytes.IsEmpty)
        {
            int length = Math.Min(segmentBytes, bytes.Length);
            Send(now, source, destination, bytes[..length]);
            bytes = bytes[length..];
        }
    }

    /// <summary>
    /// Takes the next datagram that has arrived at <paramref name="endpoint"/> by <paramref name="now"/>.
    /// </summary>
    /// <param name="now">Virtual time; does not go back.</param>
    /// <param name="endpoint">The receiver.</param>
    /// <param name="source">Who sent it.</param>
    /// <param name="datagram">Its bytes, the caller's to keep.</param>
    /// <returns>False when none has arrived.</returns>
    public bool PollReceive(TimeSpan now, TAddress endpoint, out TAddress source, out ReadOnlyMemory<byte> datagram)
    {
        if (!_underWay.TryGetValue(endpoint, out PriorityQueue<Datagram, Arrival>? queue)
            || !queue.TryPeek(out Datagram next, out Arrival arrival)
            || arrival.Time > now)
        {
            (source, datagram) = (endpoint, default);
            return false;
        }

        queue.Dequeue();
        _stats = _stats with { Delivered = _stats.Delivered + 1 };
        (source, datagram) = (next.Source, next.Bytes);
        return true;
    }

    private void Enqueue(TimeSpan now, TAddress source, TAddress destination, ReadOnlySpan<byte> datagram)
    {
        if (!_underWay.TryGetValue(destination, out PriorityQueue<Datagram, Arrival>? queue))
        {
            _underWay.Add(destination, queue = new PriorityQueue<Datagram, Arrival>());
        }

        if (queue.Count == _options.QueueDatagrams)
        {
            _stats = _stats with { Overflowed = _stats.Overflowed + 1 };
            return;
        }

        byte[] bytes = datagram.ToArray();
        if (bytes.Length > 0 && Fault(_options.CorruptionPerMille))
        {
            _stats = _stats with { Corrupted = _stats.Corrupted + 1 };
            int bit = _choices.Next(bytes.Length * 8);
            bytes[bit / 8] ^= (byte)(1 << (bit % 8));
        }

        queue.Enqueue(new Datagram(source, bytes), new Arrival(ArrivalTime(now, source, destination), _nextOrder++));
    }

    private TimeSpan ArrivalTime(TimeSpan now, TAddress source, TAddress destination)
    {
        TimeSpan jitter = TimeSpan.FromMicroseconds(_choices.Next((int)_options.Jitter.TotalMicroseconds + 1));
        TimeSpan arrival = now + _options.Delay + jitter;
        TimeSpan inOrder = _lastArrival.GetValueOrDefault((source, destination));
        if (Fault(_options.ReorderingPerMille))
        {
            // Held back on its own: those behind it do not wait for it.
            _stats = _stats with { Reordered = _stats.Reordered + 1 };
            return (arrival > inOrder ? arrival : inOrder) + _options.ReorderingDelay;
        }

        arrival = arrival > inOrder ? arrival : inOrder;
        _lastArrival[(source, destination)] = arrival;
        return arrival;
    }

    private bool Fault(int perMille)
    {
        if (_faults >= _options.FaultLimit || !_choices.Chance(perMille))
        {
            return false;
        }

        _faults++;
        return true;
    }

    private readonly record struct Datagram(TAddress Source, byte[] Bytes);

    // Ties are broken by the order of sending, so that a run does not depend on how the queue is built.
    private readonly record struct Arrival(TimeSpan Time, ulong Order) : IComparable<Arrival>
    {
        public int CompareTo(Arrival other) => (Time, Order).CompareTo((other.Time, other.Order));
    }
}
