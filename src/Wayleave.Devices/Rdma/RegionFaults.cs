using System.Diagnostics.CodeAnalysis;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Regions that somebody touched while they were invalidated, until the edge has taken them to be mapped, and the queue
/// pairs that wait for a map. Port token held by the caller, unless a member says otherwise.
/// </summary>
internal sealed class RegionFaults(RdmaPort port)
{
    private readonly Queue<(MemoryRegion Region, TimeSpan Time)> _faults = []; // and when it is handed out
    private readonly List<QueuePair> _stalled = [];
    private long _generation; // bumped by whoever maps or kills a region
    private long _seenGeneration;

    /// <summary>A region was mapped, or died, since <see cref="Wake"/> looked. Any thread.</summary>
    public bool HasChanges => Volatile.Read(ref _generation) != Volatile.Read(ref _seenGeneration);

    /// <summary>A region was mapped, or died. Host lock held, any thread.</summary>
    public void NotifyChanged() => Interlocked.Increment(ref _generation);

    /// <summary>A queue pair touched a region that is invalidated.</summary>
    public void Add(MemoryRegion region, QueuePair pair)
    {
        port.Counters.Faults++;
        if (region.TryMarkFaulted())
        {
            port.Host.Trace("rdma.fault", region.Name, region.Key, pair.QpNumber);
            TimeSpan time = port.Now + (port.Faults?.MapLatency ?? TimeSpan.Zero);
            _faults.Enqueue((region, time));
            if (time > port.Now)
            {
                port.NoteDeadline(time);
            }
        }
    }

    public bool TryTake(TimeSpan now, [NotNullWhen(true)] out MemoryRegion? region)
    {
        if (_faults.TryPeek(out (MemoryRegion Region, TimeSpan Time) fault) && fault.Time <= now)
        {
            _faults.Dequeue();
            region = fault.Region;
            return true;
        }

        region = null;
        return false;
    }

    /// <summary>Whatever latency held them back, they may be taken now.</summary>
    public void HandOutAll()
    {
        for (int i = _faults.Count; i > 0; i--)
        {
            _faults.Enqueue((_faults.Dequeue().Region, port.Now));
        }
    }

    public void HandleTimeout(TimeSpan now)
    {
        if (_faults.TryPeek(out (MemoryRegion Region, TimeSpan Time) fault) && fault.Time > now)
        {
            port.NoteDeadline(fault.Time);
        }
    }

    /// <summary>The queue pair goes on when a region was mapped.</summary>
    public void Stall(QueuePair pair)
    {
        if (!pair.IsStalled)
        {
            pair.IsStalled = true;
            _stalled.Add(pair);
        }
    }

    /// <summary>The queue pair has nothing to send any more.</summary>
    public void Forget(QueuePair pair)
    {
        _stalled.Remove(pair);
        pair.IsStalled = false;
    }

    /// <summary>Lets everybody who waits look again, if a region was mapped or died.</summary>
    public void Wake()
    {
        long generation = Volatile.Read(ref _generation);
        if (generation == _seenGeneration)
        {
            return;
        }

        Volatile.Write(ref _seenGeneration, generation);
        for (int i = _stalled.Count - 1; i >= 0; i--)
        {
            QueuePair pair = _stalled[i];
            _stalled.RemoveAt(i);
            pair.IsStalled = false;
            pair.Wake();
        }
    }
}
