using System.Globalization;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Host.Ethernet;

// Read first: ethtool(8), and rxclass.c of ethtool for what a mask is: its bits that are set are ignored.

/// <summary>A change of a NIC in the words of ethtool: what stands behind <c>ethtool -N nic0</c>.</summary>
public abstract record EthtoolCommand
{
    private const ulong FunctionMask = 0xFFUL << 32; // ETHTOOL_RX_FLOW_SPEC_RING_VF

    /// <summary><c>-L</c>, <c>--set-channels</c>: another number of receive queues.</summary>
    public sealed record SetChannels(int Rx) : EthtoolCommand;

    /// <summary><c>-G</c>, <c>--set-ring</c>; null leaves a part as it is.</summary>
    public sealed record SetRing(int? Rx, bool? Splits, int? ThresholdBytes) : EthtoolCommand;

    /// <summary><c>-X</c>, <c>--rxfh</c>; null leaves a part as it is.</summary>
    /// <param name="Context">0 is the one that always exists; null makes a new one.</param>
    /// <param name="Deletes">The context ends.</param>
    /// <param name="Queues">So many queues one after the other; with <paramref name="Start"/>.</param>
    /// <param name="Start">The first of them.</param>
    /// <param name="Weights">How often each queue occurs.</param>
    /// <param name="IsDefault">The table that the device began with.</param>
    /// <param name="Key">Of the hash.</param>
    /// <param name="Transform">What is hashed.</param>
    public sealed record SetRxfh(
        int? Context,
        bool Deletes,
        int? Queues,
        int Start,
        IReadOnlyList<int>? Weights,
        bool IsDefault,
        ReadOnlyMemory<byte>? Key,
        RssTransform? Transform) : EthtoolCommand;

    /// <summary><c>-N flow-type ...</c>: one more rule.</summary>
    public sealed record InsertRule(FlowRule Rule) : EthtoolCommand;

    /// <summary><c>-N delete N</c>.</summary>
    public sealed record DeleteRule(uint Location) : EthtoolCommand;

    /// <summary><c>-K ntuple on|off</c>.</summary>
    public sealed record SetNtuple(bool IsOn) : EthtoolCommand;

    /// <summary>Reads the words behind an option.</summary>
    /// <param name="option">The short one: <c>-N</c>.</param>
    /// <param name="words">What stands behind it.</param>
    /// <param name="problem">Why not, when this returns null.</param>
    public static EthtoolCommand? TryParse(string option, IReadOnlyList<string> words, out string problem)
    {
        ArgumentNullException.ThrowIfNull(words);
        Words rest = new(words);
        EthtoolCommand? command = option switch
        {
            "-L" => ParseChannels(rest),
            "-G" => ParseRing(rest),
            "-X" => ParseRxfh(rest),
            "-N" => ParseRule(rest),
            "-K" => ParseFeature(rest),
            _ => rest.Fail<EthtoolCommand>($"there is no option {option} that changes something"),
        };
        problem = rest.Problem ?? (rest.IsAtEnd ? "" : $"'{rest.Next()}' is not expected there");
        return problem.Length == 0 ? command : null;
    }

    private static SetChannels? ParseChannels(Words words)
    {
        int? rx = null;
        while (words.TryNext(out string word))
        {
            if (word is "rx" or "combined" && rx is null)
            {
                rx = words.Number(word, 0, int.MaxValue);
            }
            else
            {
                return words.Fail<SetChannels>($"'{word}' cannot be set; say: rx N");
            }
        }

        return rx is { } count ? new SetChannels(count) : words.Fail<SetChannels>("say: rx N");
    }

    private static SetRing? ParseRing(Words words)
    {
        SetRing ring = new(null, null, null);
        while (words.TryNext(out string word))
        {
            switch (word)
            {
                case "rx":
                    ring = ring with { Rx = words.Number(word, 0, int.MaxValue) };
                    break;
                case "tcp-data-split":
                    ring = ring with { Splits = words.Switch(word) };
                    break;
                case "hds-thresh":
                    ring = ring with { ThresholdBytes = words.Number(word, 0, int.MaxValue) };
                    break;
                default:
                    return words.Fail<SetRing>(
                        $"'{word}' cannot be set; say: rx N, tcp-data-split on|off, hds-thresh N");
            }
        }

        return ring == new SetRing(null, null, null) ? words.Fail<SetRing>("nothing to set was named") : ring;
    }

    private static SetRxfh? ParseRxfh(Words words)
    {
        SetRxfh change = new(0, false, null, 0, null, false, null, null);
        bool any = false;
        while (words.TryNext(out string word))
        {
            any = true;
            switch (word)
            {
                case "equal":
                    change = change with { Queues = words.Number(word, 1, int.MaxValue) };
                    break;
                case "start":
                    change = change with { Start = words.Number(word, 0, int.MaxValue) ?? 0 };
                    break;
                case "weight":
                    change = change with { Weights = words.Numbers() };
                    break;
                case "default":
                    change = change with { IsDefault = true };
                    break;
                case "hkey":
                    change = change with { Key = ParseKey(words) };
                    break;
                case "hfunc" when words.TryNext(out string function) && function != "toeplitz":
                    return words.Fail<SetRxfh>($"hfunc {function}: the device has toeplitz");
                case "hfunc":
                    break;
                case "xfrm":
                    change = change with { Transform = ParseTransform(words) };
                    break;
                case "context":
                    change = words.TryTake("new")
                        ? change with { Context = null }
                        : change with { Context = words.Number(word, 0, int.MaxValue) };
                    break;
                case "delete":
                    change = change with { Deletes = true };
                    break;
                default:
                    return words.Fail<SetRxfh>(
                        $"'{word}' is none of equal N, start N, weight W..., default, hkey, xfrm, context, delete");
            }
        }

        bool isTwice = new[] { change.Queues is not null, change.Weights is not null, change.IsDefault, change.Deletes }
            .Count(b => b) > 1;
        return !any ? words.Fail<SetRxfh>("nothing to set was named")
            : isTwice ? words.Fail<SetRxfh>("equal, weight, default and delete exclude each other")
            : change;
    }

    private static EthtoolCommand? ParseRule(Words words)
    {
        if (words.TryTake("delete"))
        {
            return words.Number("delete", 0, int.MaxValue) is { } location ? new DeleteRule((uint)location) : null;
        }

        FlowType type = FlowType.Ether;
        if (!words.TryTake("flow-type") || !words.TryNext(out string name) || !TryParseType(name, out type))
        {
            return words.Fail<EthtoolCommand>(
                "say: flow-type ether|ip4|tcp4|udp4|ip6|tcp6|udp6 ... action N, or: delete N");
        }

        FlowRule? rule = new() { Type = type };
        bool hasAction = false;
        while (rule is not null && words.TryNext(out string word))
        {
            hasAction |= word is "action" or "queue";
            rule = ParseField(rule, word, words);
        }

        return rule is null ? null
            : hasAction || rule.RssContext > 0 ? new InsertRule(rule)
            : words.Fail<EthtoolCommand>("say where it goes: action N, and -1 to drop");
    }

    private static FlowRule? ParseField(FlowRule rule, string word, Words words)
    {
        switch (word)
        {
            case "src-ip":
                (IpAddress source, IpAddress sourceMask) = words.Address(word);
                return rule with { Source = source, SourceMask = sourceMask };
            case "dst-ip":
                (IpAddress destination, IpAddress destinationMask) = words.Address(word);
                return rule with { Destination = destination, DestinationMask = destinationMask };
            case "src-port":
                (ushort from, ushort fromMask) = words.Masked(word);
                return rule with { SourcePort = from, SourcePortMask = fromMask };
            case "dst-port":
                (ushort to, ushort toMask) = words.Masked(word);
                return rule with { DestinationPort = to, DestinationPortMask = toMask };
            case "vlan":
                (ushort vlan, ushort vlanMask) = words.Masked(word);
                return (vlanMask & 0xFFF) == 0xFFF
                    ? rule with { Vlan = (ushort)(vlan & 0xFFF) }
                    : words.Fail<FlowRule>("vlan: the device compares all bits of the number, or none");
            case "dst-mac" or "dst":
                return words.TryNext(out string text) && MacAddress.TryParse(text, out MacAddress mac)
                    ? rule with { DestinationMac = mac }
                    : words.Fail<FlowRule>($"{word}: not an Ethernet address");
            case "action" or "queue":
                return words.Number(word, word == "action" ? -2 : 0, int.MaxValue) is { } action
                    ? rule with { RingCookie = ToCookie(rule.RingCookie, action) }
                    : null;
            case "vf":
                return words.Number(word, 0, byte.MaxValue - 1) is { } function
                    ? rule with { RingCookie = rule.RingCookie | ((ulong)(function + 1) << 32) }
                    : null;
            case "context":
                return words.Number(word, 0, int.MaxValue) is { } context ? rule with { RssContext = context } : null;
            case "loc":
                return words.Number(word, 0, int.MaxValue) is { } location
                    ? rule with { Location = (uint)location }
                    : null;
            default:
                return words.Fail<FlowRule>(
                    $"'{word}' is none of src-ip, dst-ip, src-port, dst-port, vlan, dst-mac, action, queue, context, "
                    + "loc");
        }
    }

    private static ulong ToCookie(ulong before, int action) => action switch
    {
        -1 => FlowRule.Drop,
        -2 => FlowRule.Wake,
        _ => (before & FunctionMask) | (uint)action,
    };

    private static SetNtuple? ParseFeature(Words words)
    {
        if (!words.TryTake("ntuple") && !words.TryTake("ntuple-filters"))
        {
            return words.Fail<SetNtuple>("say: ntuple on|off");
        }

        return words.Switch("ntuple") is { } isOn ? new SetNtuple(isOn) : null;
    }

    private static ReadOnlyMemory<byte>? ParseKey(Words words)
    {
        words.TryNext(out string text);
        string[] parts = text.Split(':');
        byte[] key = new byte[parts.Length];
        for (int i = 0; i < parts.Length; i++)
        {
            if (parts[i].Length != 2
                || !byte.TryParse(parts[i], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out key[i]))
            {
                words.Fail<object>("hkey: bytes in hexadecimal with colons between them");
                return null;
            }
        }

        return key;
    }

    private static RssTransform? ParseTransform(Words words)
    {
        words.TryNext(out string text);
        RssTransform? transform = text switch
        {
            "none" => RssTransform.None,
            "symmetric-xor" => RssTransform.SymmetricXor,
            "symmetric-or-xor" => RssTransform.SymmetricOrXor,
            _ => null,
        };
        if (transform is null)
        {
            words.Fail<object>("xfrm: none, symmetric-xor or symmetric-or-xor");
        }

        return transform;
    }

    private static bool TryParseType(string text, out FlowType type)
    {
        (bool known, type) = text switch
        {
            "ether" => (true, FlowType.Ether),
            "ip4" => (true, FlowType.IPv4),
            "ip6" => (true, FlowType.IPv6),
            "tcp4" => (true, FlowType.TcpIPv4),
            "tcp6" => (true, FlowType.TcpIPv6),
            "udp4" => (true, FlowType.UdpIPv4),
            "udp6" => (true, FlowType.UdpIPv6),
            _ => (false, FlowType.Ether),
        };
        return known;
    }

    /// <summary>Words one after the other; the first problem is kept.</summary>
    private sealed class Words(IReadOnlyList<string> words)
    {
        private int _next;

        public string? Problem { get; private set; }

        public bool IsAtEnd => _next == words.Count;

        public T? Fail<T>(string problem)
            where T : class
        {
            Problem ??= problem;
            return null;
        }

        public string Next() => words[_next];

        public bool TryNext(out string word)
        {
            word = Problem is null && _next < words.Count ? words[_next++] : "";
            return word.Length > 0;
        }

        public bool TryTake(string word)
        {
            bool isThere = _next < words.Count && words[_next] == word;
            _next += isThere ? 1 : 0;
            return isThere;
        }

        public int? Number(string what, long least, long most)
        {
            if (TryNext(out string word) && TryParse(word, out long number) && number >= least && number <= most)
            {
                return (int)number;
            }

            Fail<object>($"{what}: '{word}' is not a number that it takes");
            return null;
        }

        public List<int> Numbers()
        {
            List<int> numbers = [];
            while (_next < words.Count
                && TryParse(words[_next], out long number)
                && number is >= 0 and <= ushort.MaxValue)
            {
                numbers.Add((int)number);
                _next++;
            }

            if (numbers.Count == 0)
            {
                Fail<object>("weight: one number for each queue");
            }

            return numbers;
        }

        public bool? Switch(string what)
        {
            if (TryNext(out string word) && word is "on" or "off")
            {
                return word == "on";
            }

            Fail<object>($"{what}: on or off");
            return null;
        }

        public (ushort Value, ushort Mask) Masked(string what)
        {
            ushort value = (ushort)(Number(what, 0, ushort.MaxValue) ?? 0);
            return (value, TryTake("m") ? (ushort)~(Number($"{what} m", 0, ushort.MaxValue) ?? 0) : ushort.MaxValue);
        }

        public (IpAddress Value, IpAddress Mask) Address(string what)
        {
            IpAddress value = One(what);
            if (!TryTake("m"))
            {
                return (value, FlowRule.Exactly);
            }

            IpAddress ignored = One($"{what} m");
            return value.IsIPv4
                ? (value, IpAddress.FromIPv4(~ignored.IPv4))
                : (value, new IpAddress(~ignored.High, ~ignored.Low));
        }

        private IpAddress One(string what)
        {
            if (!TryNext(out string word) || !IpAddress.TryParse(word, out IpAddress address))
            {
                Fail<object>($"{what}: '{word}' is not an IPv4 or IPv6 address");
                return default;
            }

            return address;
        }

        private static bool TryParse(string word, out long number) =>
            word.StartsWith("0x", StringComparison.OrdinalIgnoreCase)
                ? long.TryParse(
                    word.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out number)
                : long.TryParse(word, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out number);
    }
}
