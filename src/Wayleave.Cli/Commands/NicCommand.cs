using System.CommandLine;
using System.Globalization;
using Wayleave.Host.Control;
using Wayleave.Host.Ethernet;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave nic NAME</c>: an Ethernet NIC in ethtool's options, words, answers and failures. Without an option, what
/// <c>wayleave devices</c> says of it.
/// </summary>
internal static class NicCommand
{
    private static readonly (string Short, string Long, string Other, string Description)[] s_options =
    [
        ("-l", "--show-channels", "", "Receive queues"),
        ("-L", "--set-channels", "", "Another number of them: rx N"),
        ("-g", "--show-ring", "", "Rings and header split"),
        ("-G", "--set-ring", "", "rx N, tcp-data-split on|off, hds-thresh N"),
        ("-x", "--show-rxfh", "--show-rxfh-indir", "How flows are spread: [context N]"),
        ("-X", "--config-rxfh", "--rxfh",
            "equal N [start N] | weight W... | default, hkey, xfrm, context N|new [delete]"),
        ("-n", "--show-ntuple", "--show-nfc", "Rules: [rule N]"),
        ("-N", "--config-ntuple", "--config-nfc",
            "flow-type tcp4 [src-ip A [m MASK]] [dst-port P] ... action Q [loc N] | delete N"),
        ("-k", "--show-features", "", "Whether rules are looked at"),
        ("-K", "--features", "", "ntuple on|off"),
        ("-S", "--statistics", "", "Counters"),
    ];

    public static Command Create()
    {
        Argument<string> name = new("NAME") { Description = "The NIC" };
        Argument<string[]> words = new("WORDS")
        {
            Description = "What the option takes, in ethtool's words",
            Arity = ArgumentArity.ZeroOrMore,
        };
        Command command = new("nic", "Show or change an Ethernet NIC, as ethtool does") { name, words };
        List<(string Short, Option<bool> Option)> options = [];
        foreach ((string shortName, string longName, string other, string description) in s_options)
        {
            Option<bool> option = new(longName, other.Length == 0 ? [shortName] : [shortName, other])
            {
                Description = description,
                Arity = ArgumentArity.Zero,
            };
            command.Add(option);
            options.Add((shortName, option));
        }

        command.AddClientOptions();
        command.SetAction((parsed, cancellation) =>
        {
            string[] chosen = [.. options.Where(o => parsed.GetValue(o.Option)).Select(o => o.Short)];
            string[] rest = parsed.GetValue(words) ?? [];
            return chosen.Length > 1
                ? throw new UsageException($"{string.Join(" and ", chosen)}: one at a time")
                : RunAsync(parsed, parsed.GetValue(name)!, chosen.Length == 0 ? "" : chosen[0], rest, cancellation);
        });
        return command;
    }

    private static async Task<int> RunAsync(
        ParseResult parsed, string nic, string option, string[] words, CancellationToken cancellation)
    {
        CommandContext context = new(parsed);
        if (option is "-L" or "-G" or "-X" or "-N" or "-K")
        {
            if (EthtoolCommand.TryParse(option, words, out string problem) is null)
            {
                throw new UsageException($"{option}: {problem}");
            }

            using ControlClient changer = ControlClient.Open(null, parsed.ReadClientOptions());
            EthtoolRequestDocument request = new() { Option = option, Words = words };
            EthtoolAnswerDocument answer = await changer
                .ChangeNicAsync(nic, request, cancellation).ConfigureAwait(false);
            if (context.IsJson)
            {
                context.WriteJson(answer, ControlJson.Default.EthtoolAnswerDocument);
            }
            else if (answer.Message.Length > 0)
            {
                context.Out.WriteLine(answer.Message);
            }

            return ExitCode.Done;
        }

        int? number = ReadNumber(option, words);
        using ControlClient client = ControlClient.Open(null, parsed.ReadClientOptions());
        NicStateDocument state = await client.GetNicAsync(nic, cancellation).ConfigureAwait(false);
        if (context.IsJson)
        {
            context.WriteJson(state, ControlJson.Default.NicStateDocument);
            return ExitCode.Done;
        }

        Print(context.Out, state, option, number);
        return ExitCode.Done;
    }

    // context N behind -x, rule N behind -n.
    private static int? ReadNumber(string option, string[] words)
    {
        string? key = option switch
        {
            "-x" => "context",
            "-n" => "rule",
            _ => null,
        };
        return words.Length == 0 ? null
            : key is not null && words.Length == 2 && words[0] == key
                && int.TryParse(words[1], NumberStyles.None, CultureInfo.InvariantCulture, out int number) ? number
            : throw new UsageException($"{option}: '{string.Join(' ', words)}' is not expected there");
    }

    private static void Print(TextWriter output, NicStateDocument state, string option, int? number)
    {
        string name = state.Nic.Name;
        switch (option)
        {
            case "-l":
                PrintChannels(output, name, state.Channels);
                break;
            case "-g":
                PrintRing(output, name, state.Ring);
                break;
            case "-x":
                NicRssDocument rss = state.Rss.FirstOrDefault(r => r.Context == (number ?? 0))
                    ?? throw NoSuch("Cannot get RX flow hash configuration");
                PrintRss(output, name, state.Channels.Rx, rss);
                break;
            case "-n":
                PrintRules(output, state, number);
                break;
            case "-k":
                output.WriteLine($"Features for {name}:");
                output.WriteLine($"ntuple-filters: {(state.Ntuple.Enabled ? "on" : "off")}");
                break;
            case "-S":
                output.WriteLine("NIC statistics:");
                foreach ((string counter, long value) in state.Nic.Counters)
                {
                    output.WriteLine($"     {counter}: {value}");
                }

                break;
            default:
                DevicesCommand.WriteEthernet(output, state.Nic, isVerbose: false);
                break;
        }
    }

    private static void PrintChannels(TextWriter output, string name, NicChannelsDocument channels)
    {
        output.WriteLine($"Channel parameters for {name}:");
        output.WriteLine("Pre-set maximums:");
        PrintCounts(channels.RxMax);
        output.WriteLine("Current hardware settings:");
        PrintCounts(channels.Rx);

        void PrintCounts(int rx)
        {
            output.WriteLine($"RX:\t\t{rx}");
            output.WriteLine("TX:\t\tn/a");
            output.WriteLine("Other:\t\tn/a");
            output.WriteLine("Combined:\tn/a");
        }
    }

    private static void PrintRing(TextWriter output, string name, NicRingDocument ring)
    {
        output.WriteLine($"Ring parameters for {name}:");
        output.WriteLine("Pre-set maximums:");
        output.WriteLine($"RX:\t\t{ring.RxMax}");
        output.WriteLine($"HDS thresh:\t{ring.HdsThreshBytesMax}");
        output.WriteLine("Current hardware settings:");
        output.WriteLine($"RX:\t\t{ring.Rx}");
        output.WriteLine($"TCP data split:\t{ring.TcpDataSplit}");
        output.WriteLine($"HDS thresh:\t{ring.HdsThreshBytes}");
    }

    private static void PrintRss(TextWriter output, string name, int rings, NicRssDocument rss)
    {
        const int EntriesPerLine = 8;
        output.WriteLine($"RX flow hash indirection table for {name} with {rings} RX ring(s):");
        for (int i = 0; i < rss.Table.Count; i += EntriesPerLine)
        {
            IEnumerable<string> line = rss.Table.Skip(i).Take(EntriesPerLine)
                .Select(q => string.Create(CultureInfo.InvariantCulture, $" {q,5}"));
            output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{i,5}: {string.Concat(line)}"));
        }

        output.WriteLine("RSS hash key:");
        output.WriteLine(rss.Key);
        output.WriteLine("RSS hash function:");
        output.WriteLine($"    {rss.Function}: on");
        output.WriteLine("RSS input transformation:");
        output.WriteLine($"    symmetric-xor: {(rss.Transform == "symmetric_xor" ? "on" : "off")}");
        output.WriteLine($"    symmetric-or-xor: {(rss.Transform == "symmetric_or_xor" ? "on" : "off")}");
    }

    private static void PrintRules(TextWriter output, NicStateDocument state, int? number)
    {
        IReadOnlyList<NicRuleDocument> rules = state.Ntuple.Rules;
        if (number is { } wanted)
        {
            rules = [.. rules.Where(r => r.Location == (uint)wanted)];
            if (rules.Count == 0)
            {
                throw NoSuch("rmgr: Cannot get RX class rule");
            }
        }
        else
        {
            output.WriteLine($"{state.Channels.Rx} RX rings available");
            output.WriteLine($"Total {rules.Count} rules");
            output.WriteLine();
        }

        foreach (NicRuleDocument rule in rules)
        {
            PrintRule(output, rule);
        }
    }

    private static void PrintRule(TextWriter output, NicRuleDocument rule)
    {
        output.WriteLine($"Filter: {rule.Location}");
        output.WriteLine("\tRule Type: " + rule.FlowType switch
        {
            "tcp4" => "TCP over IPv4",
            "tcp6" => "TCP over IPv6",
            "udp4" => "UDP over IPv4",
            "udp6" => "UDP over IPv6",
            "ip4" => "Raw IPv4",
            "ip6" => "Raw IPv6",
            _ => "Raw Ethernet",
        });
        if (rule.SrcIp is not null)
        {
            output.WriteLine($"\tSrc IP addr: {rule.SrcIp} mask: {rule.SrcIpMask}");
            output.WriteLine($"\tDest IP addr: {rule.DstIp} mask: {rule.DstIpMask}");
        }

        if (rule.SrcPort is not null)
        {
            output.WriteLine($"\tSrc port: {rule.SrcPort} mask: 0x{rule.SrcPortMask:x}");
            output.WriteLine($"\tDest port: {rule.DstPort} mask: 0x{rule.DstPortMask:x}");
        }

        if (rule.DstMac is { } mac)
        {
            output.WriteLine($"\tDest MAC addr: {mac} mask: 00:00:00:00:00:00");
        }

        if (rule.Vlan is { } vlan)
        {
            output.WriteLine($"\tVLAN: 0x{vlan:x} mask: 0xf000");
        }

        if (rule.Context is { } context)
        {
            output.WriteLine($"\tRSS Context ID: {context}");
        }

        output.WriteLine(rule.Queue is { } queue ? $"\tAction: Direct to queue {queue}" : "\tAction: Drop");
        output.WriteLine();
    }

    private static Host.WayleaveException NoSuch(string operation) =>
        new(Core.Errno.ENOENT, operation, "No such file or directory");
}
