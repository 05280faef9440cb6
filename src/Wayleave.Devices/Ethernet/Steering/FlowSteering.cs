using System.Numerics;
using Wayleave.Core;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Steering;

//   frame --> rule of the lowest location that matches --> drop | queue | queue of its context's table, plus cookie
//         \-> none matches ---------------------------> queue of the table of context 0

/// <summary>
/// Chooses the receive queue of a frame: n-tuple rules first, then RSS (<c>ethtool -N</c>, <c>-X</c>; linux.md 9). The
/// errors are those that ethtool's users know. Port token held by the caller.
/// </summary>
public sealed class FlowSteering
{
    private readonly SteeringOptions _options;
    private readonly SortedDictionary<int, RssContext> _contexts = [];
    private bool _hasLast;
    private FrameLayout _last; // of the last frame: a batch is usually one flow's
    private Classification _lastChosen;

    internal FlowSteering(SteeringOptions options, int channels)
    {
        (_options, Channels) = (options, channels);
        Rules = new FlowRuleTable(options.Rules);
        Main = new RssContext(0, TableEntriesFor(channels), channels);
        _contexts.Add(0, Main);
    }

    /// <summary>
    /// Whether a queue's memory belongs to somebody who did not ask for flows that nobody steered: no table of context
    /// 0 may lead there.
    /// </summary>
    internal Func<int, bool> IsReserved { get; init; } = _ => false;

    /// <summary>Grows with every change of what leads where.</summary>
    internal long Version { get; private set; }

    /// <summary>Receive queues in use.</summary>
    public int Channels { get; private set; }

    /// <summary>
    /// The <c>ntuple</c> feature (<c>ethtool -K</c>): without it no rule is taken and none is looked at.
    /// </summary>
    public bool HasNtuple { get; private set; } = true;

    public FlowRuleTable Rules { get; }

    /// <summary>Context 0.</summary>
    public RssContext Main { get; }

    /// <summary>All contexts, by id.</summary>
    public IReadOnlyCollection<RssContext> Contexts => _contexts.Values;

    /// <summary>Where a frame goes.</summary>
    public Classification Classify(in FrameLayout layout)
    {
        if (_hasLast && IsSameFlow(layout, _last))
        {
            return _lastChosen;
        }

        _last = layout;
        _lastChosen = Choose(layout);
        _hasLast = true;
        return _lastChosen;
    }

    /// <summary>Whether frames that no rule matches may come to a queue.</summary>
    public bool IsInRss(int queue) => Main.LeadsTo(queue);

    /// <summary>The context of that id.</summary>
    /// <returns><see cref="Errno.ENOENT"/> when there is none.</returns>
    public Errno TryGetContext(int id, out RssContext? context) =>
        _contexts.TryGetValue(id, out context) ? Errno.Success : Errno.ENOENT;

    /// <summary>Changes a context (<c>ethtool_set_rxfh</c>): all that is asked for, or nothing.</summary>
    /// <returns>
    /// <see cref="Errno.ENOENT"/> for an unknown context; <see cref="Errno.EINVAL"/> when nothing is asked for, for a
    /// table or key of another size, for an entry beyond the channels, and for an entry with which a rule would go
    /// beyond them; <see cref="Errno.EBUSY"/> for a table of context 0 that leads to a queue whose binding did not ask
    /// for that; <see cref="Errno.EOPNOTSUPP"/> for what the device cannot.
    /// </returns>
    public Errno Change(int id, RssChange change)
    {
        ArgumentNullException.ThrowIfNull(change);
        if (!_contexts.TryGetValue(id, out RssContext? context))
        {
            return Errno.ENOENT;
        }

        Errno errno = Check(context, change);
        if (errno == Errno.Success)
        {
            Apply(context, change);
        }

        return errno;
    }

    /// <summary>A context with the default table, changed at once if <paramref name="change"/> says so.</summary>
    /// <returns>As <see cref="Change"/>; <see cref="Errno.ENOSPC"/> when there are as many as there may be.</returns>
    public Errno TryCreateContext(RssChange? change, out int id)
    {
        id = 1;
        while (_contexts.ContainsKey(id))
        {
            id++;
        }

        if (id > _options.Contexts)
        {
            return Errno.ENOSPC;
        }

        RssContext context = new(id, TableEntriesFor(Channels), Channels);
        Errno errno = change is null ? Errno.Success : Check(context, change);
        if (errno != Errno.Success)
        {
            return errno;
        }

        if (change is not null)
        {
            Apply(context, change);
        }

        _contexts.Add(id, context);
        return Errno.Success;
    }

    /// <summary>Ends a context.</summary>
    /// <returns>
    /// <see cref="Errno.ENOENT"/> for an unknown one, <see cref="Errno.EINVAL"/> for context 0, <see
    /// cref="Errno.EBUSY"/> while a rule names it.
    /// </returns>
    public Errno DeleteContext(int id)
    {
        if (id == 0)
        {
            return Errno.EINVAL;
        }

        if (!_contexts.ContainsKey(id))
        {
            return Errno.ENOENT;
        }

        foreach (FlowRule rule in Rules.Rules)
        {
            if (rule.RssContext == id)
            {
                return Errno.EBUSY;
            }
        }

        _contexts.Remove(id);
        return Errno.Success;
    }

    /// <summary>Adds a rule, or replaces the one at its location (<c>ethtool_set_rxnfc</c>).</summary>
    /// <param name="rule">What and where.</param>
    /// <param name="location">Where it stands now.</param>
    /// <returns>
    /// <see cref="Errno.EOPNOTSUPP"/> while the ntuple feature is off, and for a rule that wakes; <see
    /// cref="Errno.EINVAL"/> for a location, queue, function or context that does not exist, for an address of another
    /// family, for ports of what has none, and for a cookie beside a context when the device does not add it;
    /// <see cref="Errno.ENOSPC"/> when no location is free.
    /// </returns>
    public Errno InsertRule(FlowRule rule, out int location)
    {
        ArgumentNullException.ThrowIfNull(rule);
        location = -1;
        Errno errno = Check(rule);
        if (errno != Errno.Success)
        {
            return errno;
        }

        Forget();
        return Rules.Insert(rule, out location);
    }

    /// <summary>Takes a rule away: from the next frame on the others decide.</summary>
    /// <returns><see cref="Errno.ENOENT"/> when there is none, <see cref="Errno.EOPNOTSUPP"/> without ntuple.</returns>
    public Errno DeleteRule(uint location)
    {
        Forget();
        return HasNtuple ? Rules.Delete(location) : Errno.EOPNOTSUPP;
    }

    /// <summary>Switches the ntuple feature; its rules stay, without effect while it is off.</summary>
    public void SetNtuple(bool isOn)
    {
        HasNtuple = isOn;
        Forget();
    }

    /// <summary>
    /// Whether the number of channels may become <paramref name="channels"/> (<c>ethtool_check_max_channel</c>).
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> when a table of the user, a rule, or a table that cannot be folded stands against it.
    /// </returns>
    internal Errno CheckChannels(int channels)
    {
        int size = TableEntriesFor(channels);
        foreach (RssContext context in _contexts.Values)
        {
            if (context.QueueMax >= channels || !context.CanResize(size))
            {
                return Errno.EINVAL;
            }
        }

        foreach (FlowRule rule in Rules.Rules)
        {
            if (rule.RingCookie != FlowRule.Drop && HighestQueueOf(rule) >= channels)
            {
                return Errno.EINVAL;
            }
        }

        return Errno.Success;
    }

    /// <summary>After <see cref="CheckChannels"/> said Success.</summary>
    internal void SetChannels(int channels)
    {
        Channels = channels;
        Forget();
        foreach (RssContext context in _contexts.Values)
        {
            context.Resize(TableEntriesFor(channels), channels);
        }
    }

    private static bool IsSameFlow(in FrameLayout a, in FrameLayout b) =>
        a.Source == b.Source
        && a.Destination == b.Destination
        && a.SourcePort == b.SourcePort
        && a.DestinationPort == b.DestinationPort
        && a.Protocol == b.Protocol
        && a.EtherType == b.EtherType
        && a.Vlan == b.Vlan
        && a.DestinationMac == b.DestinationMac;

    private void Forget()
    {
        _hasLast = false;
        Version++;
    }

    private Classification Choose(in FrameLayout layout)
    {
        FlowRule? rule = HasNtuple ? Rules.Find(layout) : null;
        RssContext context = rule is { RssContext: > 0 } ? _contexts[rule.RssContext] : Main;
        uint hash = layout.EtherType == EtherType.Arp ? 0 : context.Key.Hash(layout, context.Transform);
        if (rule is null)
        {
            return new Classification(context.Lookup(hash), hash, null, IsDropped: false);
        }

        bool isDropped = rule.RingCookie == FlowRule.Drop;
        int cookie = isDropped ? 0 : (int)rule.RingCookie;
        int queue = rule.RssContext > 0 ? context.Lookup(hash) + cookie : cookie;
        return new Classification(queue, hash, (int)rule.Location, isDropped);
    }

    private int TableEntriesFor(int channels) => _options.TableFollowsChannels
        ? (int)BitOperations.RoundUpToPowerOf2((uint)(4 * channels))
        : _options.TableEntries;

    private Errno Check(RssContext context, RssChange change)
    {
        if (change is { Table: null, Key: null, Transform: null })
        {
            return Errno.EINVAL;
        }

        if (change.Key is { } key)
        {
            if (key.Length != ToeplitzKey.Size)
            {
                return Errno.EINVAL;
            }

            if (context.Id != 0 && !_options.HasContextKeys)
            {
                return Errno.EOPNOTSUPP;
            }
        }

        if (change.Transform is { } transform)
        {
            if (!Enum.IsDefined(transform))
            {
                return Errno.EINVAL;
            }

            if (transform != RssTransform.None && !_options.HasTransforms)
            {
                return Errno.EOPNOTSUPP;
            }
        }

        if (change.Table is not { } table)
        {
            return Errno.Success;
        }

        Errno errno = table.Count > 0 ? CheckTable(context, table) : Errno.Success;
        return errno == Errno.Success && context.Id == 0 && LeadsToReserved(table) ? Errno.EBUSY : errno;
    }

    private bool LeadsToReserved(IReadOnlyList<int> table)
    {
        for (int queue = 0; queue < Channels; queue++)
        {
            // The default table leads everywhere.
            if (IsReserved(queue) && (table.Count == 0 || table.Contains(queue)))
            {
                return true;
            }
        }

        return false;
    }

    private Errno CheckTable(RssContext context, IReadOnlyList<int> table)
    {
        bool fits = table.Count == context.Table.Length
            || (_options.TableFollowsChannels
                && table.Count < context.Table.Length
                && context.Table.Length % table.Count == 0);
        if (!fits)
        {
            return Errno.EINVAL;
        }

        int highest = 0;
        foreach (int queue in table)
        {
            if (queue < 0 || queue >= Channels)
            {
                return Errno.EINVAL;
            }

            highest = Math.Max(highest, queue);
        }

        foreach (FlowRule rule in Rules.Rules)
        {
            if (context.Id != 0
                && rule.RssContext == context.Id
                && rule.RingCookie != FlowRule.Drop
                && highest + (int)rule.RingCookie >= Channels)
            {
                return Errno.EINVAL;
            }
        }

        return Errno.Success;
    }

    private void Apply(RssContext context, RssChange change)
    {
        Forget();
        if (change.Table is { Count: 0 })
        {
            context.FillDefault(Channels);
        }
        else if (change.Table is { } table)
        {
            context.Fill(table);
        }

        context.Key = change.Key is { } key ? new ToeplitzKey(key.Span) : context.Key;
        context.Transform = change.Transform ?? context.Transform;
    }

    private Errno Check(FlowRule rule)
    {
        if (!HasNtuple || rule.RingCookie == FlowRule.Wake)
        {
            return Errno.EOPNOTSUPP;
        }

        if (rule.RssContext != 0 && (rule.RssContext < 0 || !_contexts.ContainsKey(rule.RssContext)))
        {
            return Errno.EINVAL;
        }

        bool isSane = Enum.IsDefined(rule.Type) && AreAddressesOfType(rule) && ArePortsOfType(rule);
        if (!isSane)
        {
            return Errno.EINVAL;
        }

        if (rule.RingCookie == FlowRule.Drop)
        {
            return rule.RssContext == 0 ? Errno.Success : Errno.EINVAL;
        }

        // Bits 32 to 39 name a virtual function, and there is none.
        bool hasCookie = rule.RssContext == 0 || rule.RingCookie == 0 || _options.AddsCookieToContext;
        return hasCookie && rule.RingCookie < (ulong)Channels && HighestQueueOf(rule) < Channels
            ? Errno.Success
            : Errno.EINVAL;
    }

    private int HighestQueueOf(FlowRule rule)
    {
        int highest = 0;
        if (rule.RssContext > 0)
        {
            foreach (int queue in _contexts[rule.RssContext].Table)
            {
                highest = Math.Max(highest, queue);
            }

            // A default table follows the channels: only what the user fixed counts, and what is added to it.
            highest = rule.RingCookie == 0 && _contexts[rule.RssContext].UserEntries == 0 ? 0 : highest;
        }

        return highest + (int)rule.RingCookie;
    }

    private static bool AreAddressesOfType(FlowRule rule)
    {
        bool hasAddresses = rule.SourceMask != default || rule.DestinationMask != default;
        return rule.Type == FlowType.Ether
            ? !hasAddresses
            : (rule.SourceMask == default || rule.Source.IsIPv4 == rule.IsIPv4)
                && (rule.DestinationMask == default || rule.Destination.IsIPv4 == rule.IsIPv4);
    }

    private static bool ArePortsOfType(FlowRule rule) =>
        rule.Type >= FlowType.TcpIPv4 || (rule.SourcePortMask == 0 && rule.DestinationPortMask == 0);
}
