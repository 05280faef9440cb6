using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Steering;

namespace Wayleave.Host.Ethernet;

/// <summary>Does to a NIC what ethtool does, and fails in its words.</summary>
internal static class EthtoolRunner
{
    private const string Rules = "rmgr: Cannot insert RX class rule";
    private const string Removal = "rmgr: Cannot delete RX class rule";
    private const string Hash = "Cannot set RX flow hash configuration";

    /// <summary>Does it, whole or not at all.</summary>
    /// <returns>What ethtool prints; empty for nothing.</returns>
    /// <exception cref="WayleaveException">The errno that ethtool's users know, and why.</exception>
    public static string Run(EthernetHandle nic, EthtoolCommand command)
    {
        using IDisposable use = nic.Presence.Use($"change {nic.Name}");
        return nic.Nic.Driver.WithToken(() => command switch
        {
            EthtoolCommand.SetChannels set => SetChannels(nic, set),
            EthtoolCommand.SetRing set => SetRing(nic, set),
            EthtoolCommand.SetRxfh set => SetRxfh(nic, set),
            EthtoolCommand.InsertRule insert => Insert(nic, insert.Rule),
            EthtoolCommand.DeleteRule delete => Delete(nic, delete.Location),
            EthtoolCommand.SetNtuple set => SetNtuple(nic, set.IsOn),
            _ => throw new ArgumentOutOfRangeException(nameof(command)),
        });
    }

    private static string SetChannels(EthernetHandle nic, EthtoolCommand.SetChannels set)
    {
        NicDevice device = nic.Nic.Device;
        ThrowIfFailed(device.SetChannels(set.Rx), "Cannot set device channel parameters", set.Rx switch
        {
            < 1 => "a NIC needs a queue",
            _ when set.Rx > device.Options.ChannelsMax => $"it can have {device.Options.ChannelsMax}",
            _ => "a table, a rule or a binding needs a queue that would go",
        });
        return "";
    }

    private static string SetRing(EthernetHandle nic, EthtoolCommand.SetRing set)
    {
        NicDevice device = nic.Nic.Device;
        HeaderSplit split = device.Split;
        split = split with
        {
            Mode = set.Splits switch
            {
                true => HeaderSplitMode.On,
                false => HeaderSplitMode.Off,
                null => split.Mode,
            },
            ThresholdBytes = set.ThresholdBytes ?? split.ThresholdBytes,
        };
        const string What = "Cannot set device ring parameters";
        if (set.Rx is { } rx && (rx < 1 || rx > device.Options.RingEntriesMax))
        {
            ThrowIfFailed(Errno.EINVAL, What, $"rx is 1 to {device.Options.RingEntriesMax}");
        }

        if (split != device.Split)
        {
            ThrowIfFailed(
                device.SetSplit(split), What, "tcp-data-split stays on and hds-thresh 0 while memory is bound");
        }

        if (set.Rx is { } entries)
        {
            ThrowIfFailed(device.SetRingEntries(entries), What, "");
        }

        return "";
    }

    private static string SetRxfh(EthernetHandle nic, EthtoolCommand.SetRxfh set)
    {
        FlowSteering steering = nic.Nic.Device.Port.Steering;
        if (set.Deletes)
        {
            Errno deleted = steering.DeleteContext(set.Context ?? 0);
            ThrowIfFailed(deleted, Hash, deleted switch
            {
                Errno.EBUSY => $"a rule names context {set.Context}",
                Errno.ENOENT => $"there is no context {set.Context}",
                _ => "context 0 stays",
            });
            return "";
        }

        RssContext? context = steering.Main;
        if (set.Context is { } id && steering.TryGetContext(id, out context) != Errno.Success)
        {
            ThrowIfFailed(Errno.ENOENT, Hash, $"there is no context {id}");
        }

        RssChange change = new()
        {
            Table = ToTable(set, context!.Table.Length),
            Key = set.Key,
            Transform = set.Transform,
        };
        int made = 0;
        bool isEmpty = change is { Table: null, Key: null, Transform: null };
        Errno errno = set.Context is { } changed
            ? steering.Change(changed, change)
            : steering.TryCreateContext(isEmpty ? null : change, out made);
        ThrowIfFailed(errno, Hash, errno switch
        {
            Errno.EBUSY => "memory is bound to a queue that the table would lead to",
            Errno.ENOSPC => "there are as many contexts as there can be",
            _ => $"queues are 0 to {steering.Channels - 1}, a key has {ToeplitzKey.Size} bytes",
        });
        return set.Context is null ? $"New RSS context is {made}" : "";
    }

    private static List<int>? ToTable(EthtoolCommand.SetRxfh set, int entries)
    {
        if (set.IsDefault)
        {
            return [];
        }

        if (set.Queues is { } queues)
        {
            return [.. RssChange.Equal(queues, entries, set.Start).Table!];
        }

        if (set.Weights is not { } weights)
        {
            return null;
        }

        // As ethtool fills it: each queue as often as its share of the sum says, rounding as it goes.
        long sum = weights.Sum(w => (long)w);
        ThrowIfFailed(
            sum == 0 ? Errno.EINVAL : Errno.Success, Hash, "at least one weight must be more than zero");
        List<int> table = [];
        long partial = 0;
        for (int queue = 0; queue < weights.Count; queue++)
        {
            partial += weights[queue];
            while (table.Count < entries * partial / sum)
            {
                table.Add(queue + set.Start);
            }
        }

        return table;
    }

    private static string Insert(EthernetHandle nic, FlowRule rule)
    {
        FlowSteering steering = nic.Nic.Device.Port.Steering;
        Errno errno = steering.InsertRule(rule, out int location);
        ThrowIfFailed(errno, Rules, errno switch
        {
            Errno.EOPNOTSUPP when !steering.HasNtuple => "the ntuple feature is off: -K ntuple on",
            Errno.EOPNOTSUPP => "nothing here can be woken",
            Errno.ENOSPC => $"all {steering.Rules.Locations} locations are taken",
            _ => $"queues are 0 to {steering.Channels - 1}, locations 0 to {steering.Rules.Locations - 1}; "
                + "addresses are of the flow type's family, ports of tcp and udp",
        });
        return $"Added rule with ID {location}";
    }

    private static string Delete(EthernetHandle nic, uint location)
    {
        Errno errno = nic.Nic.Device.Port.Steering.DeleteRule(location);
        ThrowIfFailed(
            errno, Removal, errno == Errno.ENOENT ? $"there is no rule {location}" : "the ntuple feature is off");
        return "";
    }

    private static string SetNtuple(EthernetHandle nic, bool isOn)
    {
        nic.Nic.Device.Port.Steering.SetNtuple(isOn);
        return "";
    }

    // strerror(3), as ethtool's perror prints it, and behind it what that means here.
    private static void ThrowIfFailed(Errno errno, string operation, string meaning)
    {
        if (errno == Errno.Success)
        {
            return;
        }

        string text = errno switch
        {
            Errno.EINVAL => "Invalid argument",
            Errno.ENOENT => "No such file or directory",
            Errno.EBUSY => "Device or resource busy",
            Errno.ENOSPC => "No space left on device",
            Errno.EOPNOTSUPP => "Operation not supported",
            _ => ErrnoMap.Describe(errno),
        };
        throw new WayleaveException(errno, operation, meaning.Length == 0 ? text : $"{text}: {meaning}");
    }
}
