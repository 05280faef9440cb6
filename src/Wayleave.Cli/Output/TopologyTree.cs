using System.Globalization;
using System.Text.Json;
using Wayleave.Core.Topology;
using Wayleave.Host;
using Wayleave.Host.Topology;

namespace Wayleave.Cli.Output;

/// <summary>
/// PCI trees as <c>lspci -tv</c> prints them, and below them what a line has no room for: one row per root bus, one per
/// function.
/// </summary>
internal static class TopologyTree
{
    // lspci -vvv writes the bits of ACSCtl so.
    private static readonly Dictionary<string, string> s_acsNames = new(StringComparer.Ordinal)
    {
        ["source_validation"] = "SrcValid+",
        ["translation_blocking"] = "TransBlk+",
        ["request_redirect"] = "ReqRedir+",
        ["completion_redirect"] = "CmpltRedir+",
        ["upstream_forwarding"] = "UpstreamFwd+",
        ["egress_control"] = "EgressCtrl+",
        ["direct_translated"] = "DirectTrans+",
    };

    public static void Write(TopologyDocument topology, TextWriter output)
    {
        ArgumentNullException.ThrowIfNull(topology);
        ArgumentNullException.ThrowIfNull(output);
        WriteTree(topology.HostBridges, output);
        output.WriteLine();
        WriteHostBridges(topology, output);
        output.WriteLine();
        WriteFunctions(topology.HostBridges, output);
    }

    // "head" is what stands before the first item of a list on its line, "margin" before the others:
    //
    //   -[0000:00]-+-00.0  ...
    //              +-01.0-[01-04]----00.0-[02-04]--+-00.0-[03]----00.0  gpu0
    //              |                               \-01.0-[04]----00.0  rdma0
    private static void WriteTree(IReadOnlyList<HostBridgeDocument> bridges, TextWriter output)
    {
        for (int i = 0; i < bridges.Count; i++)
        {
            bool isOnly = bridges.Count == 1;
            bool isLast = i == bridges.Count - 1;
            string text = $"[{bridges[i].Bus}]";
            string head = isOnly ? "-" + text : (i == 0 ? "-+-" : isLast ? " \\-" : " +-") + text;
            string margin = (isOnly ? " " : isLast ? "   " : " | ") + new string(' ', text.Length);
            WriteBelow(head, margin, bridges[i].Functions, output);
        }
    }

    private static void WriteBelow(
        string head, string margin, IReadOnlyList<FunctionDocument> functions, TextWriter output)
    {
        if (functions.Count == 0)
        {
            output.WriteLine(head + "-");
        }

        for (int i = 0; i < functions.Count; i++)
        {
            bool isLast = i == functions.Count - 1;
            string branch = functions.Count == 1 ? "---" : i == 0 ? "-+-" : isLast ? " \\-" : " +-";
            string line = (i == 0 ? head : margin) + branch;
            string rest = margin + (isLast ? "   " : " | ");
            string place = functions[i].Address[^4..];
            if (functions[i].Functions is not { } below)
            {
                output.WriteLine($"{line}{place}  {Describe(functions[i])}".TrimEnd());
                continue;
            }

            string bridge = $"{place}-[{Buses(functions[i])}]-";
            WriteBelow(line + bridge, rest + new string(' ', bridge.Length), below, output);
        }
    }

    private static string Describe(FunctionDocument function)
    {
        string name = function.Name == function.Address ? "" : function.Name;
        string id = function.Id is null ? "" : $"[{function.Id}]";
        string type = function.Type is null or "function" ? "" : $"({function.Type})";
        return string.Join(' ', new[] { name, type, id }.Where(t => t.Length > 0));
    }

    private static string Buses(FunctionDocument bridge) => bridge.SecondaryBus == bridge.SubordinateBus
        ? bridge.SecondaryBus?.ToString("x2", CultureInfo.InvariantCulture) ?? ""
        : string.Create(CultureInfo.InvariantCulture, $"{bridge.SecondaryBus:x2}-{bridge.SubordinateBus:x2}");

    private static void WriteHostBridges(TopologyDocument topology, TextWriter output)
    {
        ProcessorDocument processor = topology.Processor;
        TablePrinter table = new("ROOT BUS", "IOMMU", ">NUMA", "IDENTITY", "PEER REQUESTS BETWEEN ITS PORTS");
        foreach (HostBridgeDocument bridge in topology.HostBridges)
        {
            table.Add(
                bridge.Name,
                Word(bridge.Iommu),
                bridge.NumaNode.ToString(CultureInfo.InvariantCulture),
                bridge.Identity ?? "-",
                DescribeForwarding(processor, bridge));
        }

        table.WriteTo(output);
    }

    private static string DescribeForwarding(ProcessorDocument processor, HostBridgeDocument bridge)
    {
        string rules = processor.ForwardsPeerRequests
            ? $"allowed: {processor.Vendor} family 0x{processor.Family:x}"
            : bridge.Listing switch
            {
                HostBridgeListing.AnyPair => "allowed: on the list",
                HostBridgeListing.SameBridge => "allowed: on the list, for this bridge alone",
                HostBridgeListing.NotListed => "refused: not on the list",
                _ => "refused: the list does not know it",
            };
        string hardware = bridge.LosesPeerRequests ? "; the hardware loses them"
            : bridge.ForwardsPeerRequests == false ? "; the hardware aborts them"
            : "";
        return rules + hardware;
    }

    private static void WriteFunctions(IReadOnlyList<HostBridgeDocument> bridges, TextWriter output)
    {
        bool hasGroups = bridges.SelectMany(b => b.Functions).SelectMany(Walk).Any(f => f.IommuGroup is not null);
        string[] columns = ["ADDRESS", "NAME", "KIND", "ID", "ACS", "IOMMU GROUP", "BARS"];
        TablePrinter table = new([.. columns.Where(c => c != "IOMMU GROUP" || hasGroups)]);
        foreach (FunctionDocument function in bridges.SelectMany(b => b.Functions).SelectMany(Walk))
        {
            string[] cells =
            [
                function.Address,
                function.Name == function.Address ? "-" : function.Name,
                function.Type is null or "function" ? Word(function.Kind) : function.Type,
                function.Id ?? "-",
                DescribeAcs(function),
                .. hasGroups ? (string[])[DescribeGroup(function)] : [],
                function.Bars.Count == 0 ? "-" : DescribeBar(function.Bars[0]),
            ];
            table.Add(cells);
            foreach (BarDocument bar in function.Bars.Skip(1))
            {
                table.Add([.. cells.SkipLast(1).Select(_ => ""), DescribeBar(bar)]);
            }
        }

        table.WriteTo(output);
    }

    private static IEnumerable<FunctionDocument> Walk(FunctionDocument function) =>
        (function.Functions ?? []).SelectMany(Walk).Prepend(function);

    private static string DescribeAcs(FunctionDocument function) =>
        !function.AcsKnown ? "unknown"
        : function.Acs is not { } words ? "-"
        : words.Count == 0 ? "nothing set"
        : string.Join(' ', words.Select(w => s_acsNames.GetValueOrDefault(w, w)));

    private static string DescribeGroup(FunctionDocument function) => function.IommuGroup is { } group
        ? $"{group.ToString(CultureInfo.InvariantCulture)} {function.IommuType}".TrimEnd()
        : "-";

    private static string DescribeBar(BarDocument bar)
    {
        string kind = bar.Kind == PciBarKind.IoPort ? " ports" : bar.Prefetchable ? " pref" : "";
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{bar.Index}: {ByteSize.ToText((long)bar.SizeBytes)} at 0x{bar.Address:x}{kind}");
    }

    private static string Word<T>(T value)
        where T : struct, Enum => JsonNamingPolicy.SnakeCaseLower.ConvertName(value.ToString()).Replace('_', ' ');
}
