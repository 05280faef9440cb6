using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Wayleave.Core.Topology;

namespace Wayleave.Host.Configuration;

/// <summary>
/// Reads the <c>topology</c> of a configuration file. An item that cannot be read leaves a problem and is left out; the
/// others keep their paths, so that what is wrong with the tree is told in the same run.
/// </summary>
internal sealed class TopologyReader(ConfigurationReader reader)
{
    private static readonly string[] s_acsWords = [.. Enum.GetValues<AcsControl>().Where(IsOneBit).Select(Word)];

    public TopologyDescription? Read(JsonObject root)
    {
        string path = "";
        if (!reader.TryGet(root, ref path, "topology", out JsonNode? node))
        {
            return null;
        }

        if (node is not JsonObject topology)
        {
            reader.Report(path, "must be an object: { \"host_bridges\": [ ... ] }");
            return null;
        }

        reader.CheckKeys(topology, path, "processor", "host_bridges", "bridges", "functions");
        return new TopologyDescription
        {
            Processor = ReadProcessor(topology, path),
            HostBridges = ReadList(topology, path, "host_bridges", ReadHostBridge),
            Bridges = ReadList(topology, path, "bridges", ReadBridge),
            Functions = ReadList(topology, path, "functions", ReadFunction),
        };
    }

    private BootProcessor ReadProcessor(JsonObject topology, string path)
    {
        if (!reader.TryGet(topology, ref path, "processor", out JsonNode? node))
        {
            return BootProcessor.Unknown;
        }

        if (node is not JsonObject processor)
        {
            reader.Report(path, "must be an object: { \"vendor\": \"AuthenticAMD\", \"family\": 25 }");
            return BootProcessor.Unknown;
        }

        reader.CheckKeys(processor, path, "vendor", "family");
        return new BootProcessor(
            reader.ReadText(processor, path, "vendor") ?? BootProcessor.Unknown.Vendor,
            reader.ReadInteger(processor, path, "family") ?? BootProcessor.Unknown.Family);
    }

    private HostBridgeDescription? ReadHostBridge(JsonObject bridge, string path)
    {
        reader.CheckKeys(
            bridge,
            path,
            "bus",
            "id",
            "iommu",
            "bus_offset",
            "forwards_peer_requests",
            "loses_peer_requests",
            "numa_node");
        HostBridgeDescription description = new()
        {
            Path = Inside(path),
            Id = ReadId(bridge, path),
            Iommu = ReadWord<IommuMode>(bridge, path, "iommu") ?? IommuMode.Off,
            BusOffset = ReadAddress(bridge, path, "bus_offset", isSigned: true) ?? 0,
            ForwardsPeerRequests = ReadBool(bridge, path, "forwards_peer_requests"),
            LosesPeerRequests = ReadBool(bridge, path, "loses_peer_requests") ?? false,
            NumaNode = reader.ReadInteger(bridge, path, "numa_node") ?? 0,
        };
        string text = reader.ReadText(bridge, path, "bus") ?? "0000:00";
        if (PciAddress.TryParse(text + ":00.0", out PciAddress first))
        {
            return description with { Domain = first.Domain, RootBus = first.Bus };
        }

        reader.Report(path + ".bus", $"'{text}' is not a bus; write one as 0000:00, domain and bus in hexadecimal");
        return null;
    }

    private BridgeDescription? ReadBridge(JsonObject bridge, string path)
    {
        FunctionDescription? function = ReadFunction(bridge, path, "kind");
        PciBridgeKind? kind = ReadWord<PciBridgeKind>(bridge, path, "kind");
        if (kind is null && !bridge.ContainsKey("kind"))
        {
            reader.Report(path + ".kind", $"is missing; one of {Words<PciBridgeKind>()}");
        }

        return function is null || kind is null ? null : new BridgeDescription
        {
            Kind = kind.Value,
            Path = function.Path,
            Address = function.Address,
            Name = function.Name,
            Id = function.Id,
            Below = function.Below,
            Acs = function.Acs,
            Bars = function.Bars,
        };
    }

    private FunctionDescription? ReadFunction(JsonObject function, string path) =>
        ReadFunction(function, path, "virtual");

    private FunctionDescription? ReadFunction(JsonObject function, string path, string ownKey)
    {
        reader.CheckKeys(function, path, "name", "address", "id", "below", "acs", "bars", ownKey);
        string? name = reader.ReadText(function, path, "name");
        PciId? id = ReadId(function, path);
        string? below = reader.ReadText(function, path, "below");
        AcsControl? acs = ReadAcs(function, path);
        IReadOnlyList<BarDescription> bars = ReadList(function, path, "bars", ReadBar);
        bool isVirtual = ownKey == "virtual" && ReadBool(function, path, "virtual") == true;
        if (reader.ReadText(function, path, "address") is not string text)
        {
            if (!function.ContainsKey("address"))
            {
                reader.Report(path + ".address", "is missing; write one as 0000:01:00.0, all hexadecimal");
            }

            return null;
        }

        if (!PciAddress.TryParse(text, out PciAddress address))
        {
            string message = $"'{text}' is not a PCI address; write one as 0000:01:00.0, all hexadecimal";
            reader.Report(path + ".address", message);
            return null;
        }

        return new FunctionDescription
        {
            Path = Inside(path),
            Address = address,
            Name = name,
            Id = id ?? default,
            Below = below,
            Acs = acs,
            Bars = bars,
            IsVirtual = isVirtual,
        };
    }

    private BarDescription? ReadBar(JsonObject bar, string path)
    {
        reader.CheckKeys(bar, path, "index", "kind", "size_bytes", "address", "prefetchable");
        int index = reader.ReadInteger(bar, path, "index") ?? 0;
        PciBarKind kind = ReadWord<PciBarKind>(bar, path, "kind") ?? PciBarKind.Memory;
        ulong? start = ReadAddress(bar, path, "address", isSigned: false);
        bool isPrefetchable = ReadBool(bar, path, "prefetchable") ?? false;
        long? size = reader.ReadSize(bar, path, "size_bytes");
        if (size is null or < 0)
        {
            if (size is not null || !bar.ContainsKey("size_bytes"))
            {
                reader.Report(path + ".size_bytes", "a BAR needs a size, a power of two: 64MiB, 256");
            }

            return null;
        }

        return new BarDescription
        {
            Path = Inside(path),
            Index = index,
            Kind = kind,
            SizeBytes = (ulong)size,
            Start = start,
            IsPrefetchable = isPrefetchable,
        };
    }

    private AcsControl? ReadAcs(JsonObject function, string path)
    {
        if (!reader.TryGet(function, ref path, "acs", out JsonNode? node))
        {
            return null;
        }

        AcsControl control = AcsControl.None;
        if (node is not JsonArray words)
        {
            reader.Report(path, "must be a list, empty for a port that redirects nothing: [ \"request_redirect\" ]");
            return control;
        }

        for (int i = 0; i < words.Count; i++)
        {
            string text = words[i] is JsonValue value && value.TryGetValue(out string? word) ? word : "";
            if (Array.IndexOf(s_acsWords, text) < 0)
            {
                string message = $"'{text}' is not one of {string.Join(", ", s_acsWords)}";
                reader.Report(string.Create(CultureInfo.InvariantCulture, $"{path}[{i}]"), message);
                continue;
            }

            control |= Enum.GetValues<AcsControl>().Single(c => IsOneBit(c) && Word(c) == text);
        }

        return control;
    }

    private PciId? ReadId(JsonObject parent, string path)
    {
        if (reader.ReadText(parent, path, "id") is not string text)
        {
            return null;
        }

        if (text.Length == 9 && text[4] == ':' && TryParseHex(text.AsSpan(0, 4), out ulong vendor)
            && TryParseHex(text.AsSpan(5), out ulong device))
        {
            return new PciId((ushort)vendor, (ushort)device);
        }

        reader.Report(path + ".id", $"'{text}' is not vendor and device; write them as 8086:2030, in hexadecimal");
        return null;
    }

    private bool? ReadBool(JsonObject parent, string path, string key)
    {
        if (!reader.TryGet(parent, ref path, key, out JsonNode? node))
        {
            return null;
        }

        if (node is JsonValue value && value.TryGetValue(out bool flag))
        {
            return flag;
        }

        reader.Report(path, "must be true or false");
        return null;
    }

    // JSON has no hexadecimal numbers, and nobody writes an address in decimal.
    private ulong? ReadAddress(JsonObject parent, string path, string key, bool isSigned)
    {
        if (reader.ReadText(parent, path, key) is not string text)
        {
            return null;
        }

        bool isNegative = isSigned && text.StartsWith('-');
        ReadOnlySpan<char> rest = isNegative ? text.AsSpan(1) : text;
        if (rest.StartsWith("0x", StringComparison.Ordinal) && TryParseHex(rest[2..], out ulong number))
        {
            return isNegative ? 0 - number : number;
        }

        reader.Report($"{path}.{key}", $"'{text}' is not an address; write one as 0x100000000");
        return null;
    }

    private T? ReadWord<T>(JsonObject parent, string path, string key)
        where T : struct, Enum
    {
        if (reader.ReadText(parent, path, key) is not string text)
        {
            return null;
        }

        foreach (T value in Enum.GetValues<T>())
        {
            if (Word(value) == text)
            {
                return value;
            }
        }

        reader.Report($"{path}.{key}", $"'{text}' is not one of {Words<T>()}");
        return null;
    }

    private List<T> ReadList<T>(JsonObject parent, string path, string key, Func<JsonObject, string, T?> read)
        where T : class
    {
        List<T> list = [];
        if (!reader.TryGet(parent, ref path, key, out JsonNode? node))
        {
            return list;
        }

        if (node is not JsonArray array)
        {
            reader.Report(path, "must be a list: [ ... ]");
            return list;
        }

        for (int i = 0; i < array.Count; i++)
        {
            string itemPath = string.Create(CultureInfo.InvariantCulture, $"{path}[{i}]");
            if (array[i] is not JsonObject item)
            {
                reader.Report(itemPath, "must be an object: { ... }");
            }
            else if (read(item, itemPath) is T made)
            {
                list.Add(made);
            }
        }

        return list;
    }

    // Core's paths begin inside the topology.
    private static string Inside(string path) => path["topology.".Length..];

    private static bool TryParseHex(ReadOnlySpan<char> text, out ulong number) =>
        ulong.TryParse(text, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out number);

    private static bool IsOneBit(AcsControl control) => int.IsPow2((int)control);

    private static string Words<T>()
        where T : struct, Enum => string.Join(", ", Enum.GetValues<T>().Select(Word));

    private static string Word<T>(T value)
        where T : struct, Enum => JsonNamingPolicy.SnakeCaseLower.ConvertName(value.ToString());
}
