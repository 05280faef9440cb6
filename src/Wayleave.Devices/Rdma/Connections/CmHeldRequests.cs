using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>
/// Requests for ports whose listener has just gone, which wait for the next one, in whichever of both spaces it was:
/// perftest takes one connection, and then looks for datagrams there. A fixed number: one more is refused as without
/// this. Port token held.
/// </summary>
internal sealed class CmHeldRequests(TimeSpan grace)
{
    private const int RequestsMax = 64;
    private const int PortsMax = 1024;

    private readonly Dictionary<ushort, TimeSpan> _closed = []; // until when requests for it are held
    private readonly List<Held> _held = [];

    /// <summary>When the next one has waited in vain.</summary>
    public TimeSpan Deadline { get; private set; } = TimeSpan.MaxValue;

    /// <summary>The listener of a port has gone.</summary>
    public void NoteClosed(CmListener listener, TimeSpan now)
    {
        if (grace > TimeSpan.Zero)
        {
            if (_closed.Count >= PortsMax)
            {
                _closed.Clear();
            }

            _closed[listener.Port] = now + grace;
        }
    }

    /// <summary>Keeps a request, or knows it already. False: it is to be refused now.</summary>
    public bool TryHold(Gid source, in MadHeader header, CmRequest request, TimeSpan now) =>
        TryHold(new Held(source, header, request, null, default), now);

    /// <summary>The same of a look-up.</summary>
    public bool TryHold(Gid source, in MadHeader header, CmDatagramRequest lookup, TimeSpan now) =>
        TryHold(new Held(source, header, null, lookup, default), now);

    private bool TryHold(Held held, TimeSpan now)
    {
        if (_held.Exists(h => h.Source == held.Source && h.Port == held.Port && h.RemoteId == held.RemoteId))
        {
            return true; // sent again meanwhile
        }

        if (!_closed.TryGetValue(held.Port.Number, out TimeSpan until) || until <= now || _held.Count == RequestsMax)
        {
            return false;
        }

        _held.Add(held with { Until = until });
        Deadline = until < Deadline ? until : Deadline;
        return true;
    }

    /// <summary>Takes out those for a port that has a listener again.</summary>
    public List<Held> TakeFor(CmListener listener)
    {
        (bool, ushort) port = (listener.IsDatagram, listener.Port);
        return Take(h => h.Port == port);
    }

    /// <summary>Takes out those that have waited in vain.</summary>
    public List<Held> TakeDue(TimeSpan now) => Take(h => h.Until <= now);

    private List<Held> Take(Predicate<Held> match)
    {
        List<Held> taken = _held.FindAll(match);
        _held.RemoveAll(match);
        Deadline = _held.Count == 0 ? TimeSpan.MaxValue : _held.Min(h => h.Until);
        return taken;
    }

    /// <summary>A request, and whose it is.</summary>
    public sealed record Held(
        Gid Source, MadHeader Header, CmRequest? Request, CmDatagramRequest? Lookup, TimeSpan Until)
    {
        public (bool IsDatagram, ushort Number) Port => Request is { } request
            ? (false, request.Port) : (true, Lookup!.Port);

        public uint RemoteId => Request?.LocalId ?? Lookup!.RequestId;
    }
}
