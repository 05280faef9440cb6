using System.Diagnostics.CodeAnalysis;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Ip;

/// <summary>The neighbours of one link (ARP cache, RFC 4861 neighbour cache). Bounded.</summary>
internal sealed class NeighbourTable(IpHostOptions options, IpStats stats)
{
    private const int QuestionsMax = 3;

    private readonly Dictionary<IpAddress, Neighbour> _byAddress = [];
    private readonly List<Neighbour> _all = [];
    private readonly Queue<Neighbour> _resolved = new();
    private readonly Queue<Neighbour> _toAsk = new();

    public int Count => _all.Count;

    /// <summary>When a question is due again; <see cref="TimeSpan.MaxValue"/> when nobody is asked.</summary>
    public TimeSpan Deadline { get; private set; } = TimeSpan.MaxValue;

    /// <summary>The address to send to, if one is known; else it is asked for and the packet may be kept.</summary>
    public bool TryResolve(IpAddress address, TimeSpan now, out Neighbour neighbour)
    {
        if (!_byAddress.TryGetValue(address, out Neighbour? found))
        {
            found = Add(address, now);
            Ask(found, now);
        }

        found.LastUsed = now;
        if (found.State == NeighbourState.Reachable && found.Until <= now)
        {
            found.State = NeighbourState.Probing;
            Ask(found, now);
        }

        neighbour = found;
        return found.State != NeighbourState.Incomplete;
    }

    /// <summary>A neighbour told its address; who was not known is added only on request.</summary>
    public void Learn(IpAddress address, MacAddress mac, TimeSpan now, bool creates)
    {
        if (!_byAddress.TryGetValue(address, out Neighbour? neighbour))
        {
            if (!creates)
            {
                return;
            }

            neighbour = Add(address, now);
        }

        neighbour.Mac = mac;
        neighbour.State = NeighbourState.Reachable;
        neighbour.Until = now + options.NeighbourReachable;
        neighbour.Questions = 0;
        if (neighbour.PendingCount > 0)
        {
            _resolved.Enqueue(neighbour);
        }
    }

    /// <summary>Whether a neighbour is known or asked for, and with which address.</summary>
    public bool TryFind(IpAddress address, [NotNullWhen(true)] out Neighbour? neighbour) =>
        _byAddress.TryGetValue(address, out neighbour);

    /// <summary>A neighbour of which packets waited and whose address is known now.</summary>
    public bool TryTakeResolved([NotNullWhen(true)] out Neighbour? neighbour, out Span<byte> frame)
    {
        while (_resolved.TryPeek(out neighbour))
        {
            if (neighbour.TryTakePending(out frame))
            {
                return true;
            }

            _resolved.Dequeue();
        }

        frame = default;
        return false;
    }

    /// <summary>The next neighbour to ask.</summary>
    public bool TryTakeQuestion([NotNullWhen(true)] out Neighbour? neighbour)
    {
        while (_toAsk.TryDequeue(out neighbour))
        {
            if (neighbour.State != NeighbourState.Reachable && _byAddress.ContainsKey(neighbour.Address))
            {
                return true;
            }
        }

        return false;
    }

    public void HandleTimeout(TimeSpan now)
    {
        if (now < Deadline)
        {
            return;
        }

        Deadline = TimeSpan.MaxValue;
        for (int i = _all.Count - 1; i >= 0; i--)
        {
            Neighbour neighbour = _all[i];
            if (neighbour.State == NeighbourState.Reachable)
            {
                continue;
            }

            if (neighbour.Until > now)
            {
                Deadline = neighbour.Until < Deadline ? neighbour.Until : Deadline;
            }
            else if (neighbour.Questions >= QuestionsMax)
            {
                stats.NeighboursFailed++;
                Remove(neighbour);
            }
            else
            {
                Ask(neighbour, now);
            }
        }
    }

    private void Ask(Neighbour neighbour, TimeSpan now)
    {
        neighbour.Questions++;
        neighbour.Until = now + options.NeighbourRetry;
        Deadline = neighbour.Until < Deadline ? neighbour.Until : Deadline;
        _toAsk.Enqueue(neighbour);
    }

    private Neighbour Add(IpAddress address, TimeSpan now)
    {
        if (_all.Count == options.NeighboursMax)
        {
            Neighbour oldest = _all[0];
            foreach (Neighbour neighbour in _all)
            {
                oldest = neighbour.LastUsed < oldest.LastUsed ? neighbour : oldest;
            }

            Remove(oldest);
        }

        Neighbour added = new(address) { LastUsed = now };
        _byAddress.Add(address, added);
        _all.Add(added);
        return added;
    }

    private void Remove(Neighbour neighbour)
    {
        _byAddress.Remove(neighbour.Address);
        int place = _all.IndexOf(neighbour);
        _all[place] = _all[^1];
        _all.RemoveAt(_all.Count - 1);
    }
}
