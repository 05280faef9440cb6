using Wayleave.Core;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Steering;

/// <summary>
/// The rules of a NIC by location (<c>ethtool --show-ntuple</c>). A rule for one flow is found by its key; the others
/// are tried in order. Port token held by the caller.
/// </summary>
public sealed class FlowRuleTable
{
    private readonly SortedDictionary<int, FlowRule> _rules = [];
    private readonly Dictionary<FlowKey, FlowRule> _exact = [];
    private FlowRule[] _masked = [];

    internal FlowRuleTable(int locations) => Locations = locations;

    /// <summary>How many rules there may be.</summary>
    public int Locations { get; }

    public int Count => _rules.Count;

    /// <summary>By location.</summary>
    public IReadOnlyCollection<FlowRule> Rules => _rules.Values;

    /// <summary>The rule at a location.</summary>
    /// <returns><see cref="Errno.ENOENT"/> when there is none.</returns>
    public Errno TryGet(uint location, out FlowRule? rule)
    {
        rule = null;
        bool found = location < Locations && _rules.TryGetValue((int)location, out rule);
        return found ? Errno.Success : Errno.ENOENT;
    }

    /// <summary>The rule of the lowest location that a frame matches, or null.</summary>
    internal FlowRule? Find(in FrameLayout layout)
    {
        if (_rules.Count == 0)
        {
            return null;
        }

        FlowRule? found = null;
        if (_exact.Count > 0 && layout.HasPorts)
        {
            _exact.TryGetValue(FlowKey.Of(layout), out found);
        }

        foreach (FlowRule rule in _masked)
        {
            if (found is not null && found.Location < rule.Location)
            {
                break;
            }

            if (rule.Matches(layout))
            {
                return rule;
            }
        }

        return found;
    }

    /// <summary>What Find must say, by trying every rule: for tests.</summary>
    internal FlowRule? FindByScan(in FrameLayout layout)
    {
        foreach (FlowRule rule in _rules.Values)
        {
            if (rule.Matches(layout))
            {
                return rule;
            }
        }

        return null;
    }

    /// <summary>
    /// Adds a rule whose action was checked; at a location that is taken, it replaces the rule there.
    /// </summary>
    internal Errno Insert(FlowRule rule, out int location)
    {
        Errno errno = TryPlace(rule.Location, out location);
        if (errno != Errno.Success)
        {
            return errno;
        }

        _rules[location] = rule with { Location = (uint)location };
        Rebuild();
        return Errno.Success;
    }

    internal Errno Delete(uint location)
    {
        if (location >= Locations || !_rules.Remove((int)location))
        {
            return Errno.ENOENT;
        }

        Rebuild();
        return Errno.Success;
    }

    private Errno TryPlace(uint wanted, out int location)
    {
        location = (int)wanted;
        if (wanted < Locations)
        {
            return Errno.Success;
        }

        if (wanted is not (FlowRule.AnyLocation or FlowRule.FirstLocation or FlowRule.LastLocation))
        {
            return Errno.EINVAL;
        }

        bool fromEnd = wanted == FlowRule.LastLocation;
        for (int i = 0; i < Locations; i++)
        {
            location = fromEnd ? Locations - 1 - i : i;
            if (!_rules.ContainsKey(location))
            {
                return Errno.Success;
            }
        }

        return Errno.ENOSPC;
    }

    private void Rebuild()
    {
        _exact.Clear();
        List<FlowRule> masked = [];
        foreach (FlowRule rule in _rules.Values)
        {
            if (rule.IsExact)
            {
                _exact.TryAdd(rule.Key, rule); // the lowest location of those for the same flow
            }
            else
            {
                masked.Add(rule);
            }
        }

        _masked = [.. masked];
    }
}
