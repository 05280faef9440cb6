using System.Globalization;
using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Host.Configuration;

/// <summary>
/// Turns a tree into a <see cref="HostConfig"/>. A value that cannot be read keeps its default and leaves a problem, so
/// that one pass finds them all; a key that nobody reads is a problem too, as it is most likely misspelt.
/// </summary>
internal sealed class ConfigurationReader(
    JsonObject tree, string? file, Dictionary<string, string> origins, List<ConfigProblem> problems)
{
    private readonly HashSet<string> _present = new(StringComparer.Ordinal);

    public HostConfig Read()
    {
        HostConfig defaults = new();
        CheckKeys(
            tree, "", "name", "gpus", "nics", "nvmes", "accelerators", "vfios", "ethernets", "linux_nics", "control",
            "broker", "topology");
        return new HostConfig
        {
            Name = ReadText(tree, "", "name") ?? defaults.Name,
            Gpus = ReadList("gpus", ReadGpu) ?? defaults.Gpus,
            Nics = ReadList("nics", ReadNic) ?? defaults.Nics,
            Nvmes = ReadList("nvmes", ReadNvme) ?? defaults.Nvmes,
            Accelerators = ReadList("accelerators", ReadAccelerator) ?? defaults.Accelerators,
            Vfios = ReadList("vfios", ReadVfio) ?? defaults.Vfios,
            Ethernets = ReadList("ethernets", new EthernetReader(this).Read) ?? defaults.Ethernets,
            LinuxNics = ReadList("linux_nics", ReadLinuxNic) ?? defaults.LinuxNics,
            Control = ReadControl(),
            Broker = new BrokerReader(this).Read(tree),
            Topology = new TopologyReader(this).Read(tree),
        };
    }

    /// <summary>Every value of <paramref name="config"/> with the place it came from.</summary>
    public IReadOnlyList<ConfigValue> Describe(HostConfig config)
    {
        List<ConfigValue> values = [];
        Add("name", config.Name);
        for (int i = 0; i < config.Gpus.Count; i++)
        {
            Add($"gpus[{i}].name", config.Gpus[i].Name);
            Add($"gpus[{i}].vram_bytes", ByteSize.ToText(config.Gpus[i].VramBytes));
            Add($"gpus[{i}].system_pool_bytes", ByteSize.ToText(config.Gpus[i].SystemPoolBytes));
            Add($"gpus[{i}].visible_bytes", ToText(config.Gpus[i].VisibleBytes));
            Add($"gpus[{i}].pin_policy", ToWord(config.Gpus[i].PinPolicy));
            Add($"gpus[{i}].compute.mode", ToWord(config.Gpus[i].Compute.Mode));
            Add($"gpus[{i}].compute.queues_max", ToText(config.Gpus[i].Compute.QueuesMax));
            Add($"gpus[{i}].compute.queue_slots", ToText(config.Gpus[i].Compute.QueueSlots));
            Add($"gpus[{i}].compute.quantum_blocks", ToText(config.Gpus[i].Compute.QuantumBlocks));
            Add($"gpus[{i}].compute.hang_limit_ms", ToText((int)config.Gpus[i].Compute.HangLimit.TotalMilliseconds));
            Add($"gpus[{i}].compute.stop_grace_ms", ToText((int)config.Gpus[i].Compute.StopGrace.TotalMilliseconds));
            Add($"gpus[{i}].compute.user_memory", ToWord(config.Gpus[i].Compute.UserMemory));
            Add($"gpus[{i}].compute.user_memory_bytes", ByteSize.ToText(config.Gpus[i].Compute.UserMemoryBytes));
            Add($"gpus[{i}].compute.user_vram_bytes", ByteSize.ToText(config.Gpus[i].Compute.UserVramBytes));
            Add($"gpus[{i}].compute.private_pages", ToWord(config.Gpus[i].Compute.PrivatePages));
            Add(
                $"gpus[{i}].compute.pinned_bytes_per_client_max",
                config.Gpus[i].Compute.PinnedBytesPerClientMax is { } pinned ? ByteSize.ToText(pinned) : "none");
        }

        for (int i = 0; i < config.Nics.Count; i++)
        {
            Add($"nics[{i}].name", config.Nics[i].Name);
            Add($"nics[{i}].address", config.Nics[i].Address.ToString());
            Add($"nics[{i}].udp_port", ToText(config.Nics[i].UdpPort));
            for (int j = 0; j < config.Nics[i].FurtherPorts.Count; j++)
            {
                NicPortConfig port = config.Nics[i].FurtherPorts[j];
                Add($"nics[{i}].further_ports[{j}].address", port.Address.ToString());
                Add($"nics[{i}].further_ports[{j}].udp_port", ToText(port.UdpPort));
            }

            Add($"nics[{i}].path_mtu_bytes", ToText(config.Nics[i].PathMtuBytes));
            Add($"nics[{i}].firsts_ahead", ToText(config.Nics[i].FirstsAhead));
            Add($"nics[{i}].congestion", ToWord(config.Nics[i].Congestion));
            Add($"nics[{i}].revoke", ToWord(config.Nics[i].Revocation));
            Add($"nics[{i}].pinned_memory", ToWord(config.Nics[i].PinnedMemory));
            Add($"nics[{i}].legacy_peers", ToWord(config.Nics[i].LegacyPeers));
            Add($"nics[{i}].private_pages", ToWord(config.Nics[i].PrivatePages));
        }

        for (int i = 0; i < config.Nvmes.Count; i++)
        {
            Add($"nvmes[{i}].name", config.Nvmes[i].Name);
            Add($"nvmes[{i}].memory_buffer_bytes", ByteSize.ToText(config.Nvmes[i].MemoryBufferBytes));
            Add($"nvmes[{i}].folder", config.Nvmes[i].Folder ?? "(none)");
        }

        for (int i = 0; i < config.Accelerators.Count; i++)
        {
            Add($"accelerators[{i}].name", config.Accelerators[i].Name);
            Add($"accelerators[{i}].memory_bytes", ByteSize.ToText(config.Accelerators[i].MemoryBytes));
            Add($"accelerators[{i}].page_bytes", ByteSize.ToText(config.Accelerators[i].PageBytes));
            Add($"accelerators[{i}].visible_bytes", ToText(config.Accelerators[i].VisibleBytes));
        }

        for (int i = 0; i < config.Vfios.Count; i++)
        {
            Add($"vfios[{i}].name", config.Vfios[i].Name);
            Add($"vfios[{i}].patience_ms", ToText((int)config.Vfios[i].Patience.TotalMilliseconds));
            for (int j = 0; j < config.Vfios[i].Bars.Count; j++)
            {
                Add($"vfios[{i}].bars[{j}].index", ToText(config.Vfios[i].Bars[j].Index));
                Add($"vfios[{i}].bars[{j}].size_bytes", ByteSize.ToText(config.Vfios[i].Bars[j].SizeBytes));
            }
        }

        for (int i = 0; i < config.Ethernets.Count; i++)
        {
            EthernetReader.Describe(config.Ethernets[i], $"ethernets[{i}]", Add);
        }

        for (int i = 0; i < config.LinuxNics.Count; i++)
        {
            Add($"linux_nics[{i}].name", config.LinuxNics[i].Name);
            Add($"linux_nics[{i}].interface", config.LinuxNics[i].Interface);
        }

        if (config.Topology is { } topology)
        {
            (int bridges, int functions) = (topology.Bridges.Count, topology.Functions.Count);
            Add("topology", $"{topology.HostBridges.Count} host bridges, {bridges} bridges, {functions} functions");
        }

        Add("control.address", config.ControlAddress.ToString());
        Add("control.port", ToText(config.Control.Port));
        Add("control.socket", config.Control.SocketPath ?? "(NAME.sock in the runtime directory)");
        if (config.Control.Token is null)
        {
            Add("control.token_file", config.Control.TokenFile ?? "(NAME.token in the runtime directory)");
        }
        else
        {
            Add("control.token", "(hidden)");
        }

        return values;

        void Add(string path, string value) => values.Add(new ConfigValue(
            path,
            value,
            origins.TryGetValue(path, out string? origin) ? origin : _present.Contains(path) ? file! : "default"));
    }

    private GpuConfig ReadGpu(JsonObject gpu, string path, int index)
    {
        GpuConfig defaults = new();
        CheckKeys(
            gpu,
            path,
            "name",
            "vram_bytes",
            "system_pool_bytes",
            "visible_bytes",
            "pin_policy",
            "compute",
            "function");
        return new GpuConfig
        {
            Name = ReadText(gpu, path, "name") ?? "gpu" + ToText(index),
            VramBytes = ReadSize(gpu, path, "vram_bytes") ?? defaults.VramBytes,
            SystemPoolBytes = ReadSize(gpu, path, "system_pool_bytes") ?? defaults.SystemPoolBytes,
            VisibleBytes = ReadSize(gpu, path, "visible_bytes"),
            PinPolicy = ReadWord<GpuPinPolicy>(gpu, path, "pin_policy") ?? defaults.PinPolicy,
            Compute = ReadObject(gpu, path, "compute", ReadCompute) ?? defaults.Compute,
            Function = ReadText(gpu, path, "function"),
        };
    }

    private ComputeConfig ReadCompute(JsonObject compute, string path)
    {
        ComputeConfig defaults = new();
        CheckKeys(
            compute,
            path,
            "mode",
            "queues_max",
            "queue_slots",
            "quantum_blocks",
            "hang_limit_ms",
            "stop_grace_ms",
            "user_memory",
            "user_memory_bytes",
            "user_vram_bytes",
            "private_pages",
            "pinned_bytes_per_client_max");
        return new ComputeConfig
        {
            Mode = ReadWord<GpuCommandMode>(compute, path, "mode") ?? defaults.Mode,
            QueuesMax = ReadInteger(compute, path, "queues_max") ?? defaults.QueuesMax,
            QueueSlots = ReadInteger(compute, path, "queue_slots") ?? defaults.QueueSlots,
            QuantumBlocks = ReadInteger(compute, path, "quantum_blocks") ?? defaults.QuantumBlocks,
            HangLimit = ReadMilliseconds(compute, path, "hang_limit_ms") ?? defaults.HangLimit,
            StopGrace = ReadMilliseconds(compute, path, "stop_grace_ms") ?? defaults.StopGrace,
            UserMemory = ReadWord<GpuUserMemory>(compute, path, "user_memory") ?? defaults.UserMemory,
            UserMemoryBytes = ReadSize(compute, path, "user_memory_bytes") ?? defaults.UserMemoryBytes,
            UserVramBytes = ReadSize(compute, path, "user_vram_bytes") ?? defaults.UserVramBytes,
            PrivatePages = ReadWord<PrivatePagePolicy>(compute, path, "private_pages") ?? defaults.PrivatePages,
            PinnedBytesPerClientMax = ReadSize(compute, path, "pinned_bytes_per_client_max"),
        };
    }

    private NicConfig ReadNic(JsonObject nic, string path, int index)
    {
        NicConfig defaults = new();
        CheckKeys(
            nic,
            path,
            "name",
            "address",
            "udp_port",
            "further_ports",
            "path_mtu_bytes",
            "firsts_ahead",
            "congestion",
            "revoke",
            "pinned_memory",
            "legacy_peers",
            "private_pages",
            "function");
        return new NicConfig
        {
            Name = ReadText(nic, path, "name") ?? "rdma" + ToText(index),
            Address = ReadAddress(nic, path, "address") ?? defaults.Address,
            UdpPort = ReadInteger(nic, path, "udp_port") ?? defaults.UdpPort,
            FurtherPorts = ReadList(nic, path, "further_ports", ReadNicPort) ?? defaults.FurtherPorts,
            PathMtuBytes = ReadInteger(nic, path, "path_mtu_bytes") ?? defaults.PathMtuBytes,
            FirstsAhead = ReadInteger(nic, path, "firsts_ahead") ?? defaults.FirstsAhead,
            Congestion = ReadWord<CongestionControl>(nic, path, "congestion") ?? defaults.Congestion,
            Revocation = ReadWord<RegionRevocation>(nic, path, "revoke") ?? defaults.Revocation,
            PinnedMemory = ReadWord<PinnedMemoryPolicy>(nic, path, "pinned_memory") ?? defaults.PinnedMemory,
            LegacyPeers = ReadWord<LegacyPeerPolicy>(nic, path, "legacy_peers") ?? defaults.LegacyPeers,
            PrivatePages = ReadWord<PrivatePagePolicy>(nic, path, "private_pages") ?? defaults.PrivatePages,
            Function = ReadText(nic, path, "function"),
        };
    }

    private NicPortConfig ReadNicPort(JsonObject port, string path, int index)
    {
        NicPortConfig defaults = new();
        CheckKeys(port, path, "address", "udp_port");
        return new NicPortConfig
        {
            Address = ReadAddress(port, path, "address") ?? defaults.Address,
            UdpPort = ReadInteger(port, path, "udp_port") ?? defaults.UdpPort,
        };
    }

    private NvmeConfig ReadNvme(JsonObject nvme, string path, int index)
    {
        NvmeConfig defaults = new();
        CheckKeys(nvme, path, "name", "memory_buffer_bytes", "folder", "function");
        return new NvmeConfig
        {
            Name = ReadText(nvme, path, "name") ?? "nvme" + ToText(index),
            MemoryBufferBytes = ReadSize(nvme, path, "memory_buffer_bytes") ?? defaults.MemoryBufferBytes,
            Folder = ReadText(nvme, path, "folder"),
            Function = ReadText(nvme, path, "function"),
        };
    }

    private AcceleratorConfig ReadAccelerator(JsonObject accelerator, string path, int index)
    {
        AcceleratorConfig defaults = new();
        CheckKeys(accelerator, path, "name", "memory_bytes", "page_bytes", "visible_bytes", "function");
        return new AcceleratorConfig
        {
            Name = ReadText(accelerator, path, "name") ?? "accel" + ToText(index),
            MemoryBytes = ReadSize(accelerator, path, "memory_bytes") ?? defaults.MemoryBytes,
            PageBytes = ReadSize(accelerator, path, "page_bytes") ?? defaults.PageBytes,
            VisibleBytes = ReadSize(accelerator, path, "visible_bytes"),
            Function = ReadText(accelerator, path, "function"),
        };
    }

    private VfioConfig ReadVfio(JsonObject vfio, string path, int index)
    {
        VfioConfig defaults = new();
        CheckKeys(vfio, path, "name", "bars", "patience_ms", "function");
        return new VfioConfig
        {
            Name = ReadText(vfio, path, "name") ?? "vfio" + ToText(index),
            Bars = ReadList(vfio, path, "bars", ReadVfioBar) ?? defaults.Bars,
            Patience = ReadMilliseconds(vfio, path, "patience_ms") ?? defaults.Patience,
            Function = ReadText(vfio, path, "function"),
        };
    }

    private VfioBarConfig ReadVfioBar(JsonObject bar, string path, int index)
    {
        VfioBarConfig defaults = new();
        CheckKeys(bar, path, "index", "size_bytes");
        return new VfioBarConfig
        {
            Index = ReadInteger(bar, path, "index") ?? index,
            SizeBytes = ReadSize(bar, path, "size_bytes") ?? defaults.SizeBytes,
        };
    }

    private LinuxNicConfig ReadLinuxNic(JsonObject nic, string path, int index)
    {
        CheckKeys(nic, path, "name", "interface", "function");
        string? name = ReadText(nic, path, "name");
        string? device = ReadText(nic, path, "interface");
        return new LinuxNicConfig
        {
            Name = name ?? device ?? "linux" + ToText(index),
            Interface = device ?? name ?? "",
            Function = ReadText(nic, path, "function"),
        };
    }

    private ControlConfig ReadControl()
    {
        if (!tree.TryGetPropertyValue("control", out JsonNode? node))
        {
            return new ControlConfig();
        }

        if (node is not JsonObject control)
        {
            Report("control", "must be an object: { \"port\": 7471 }");
            return new ControlConfig();
        }

        ControlConfig defaults = new();
        CheckKeys(control, "control", "address", "port", "socket", "token_file", "token");
        return new ControlConfig
        {
            Address = ReadAddress(control, "control", "address"),
            Port = ReadInteger(control, "control", "port") ?? defaults.Port,
            SocketPath = ReadPath(control, "control", "socket"),
            TokenFile = ReadPath(control, "control", "token_file"),
            Token = ReadText(control, "control", "token"),
        };
    }

    private T? ReadObject<T>(JsonObject parent, string path, string key, Func<JsonObject, string, T> read)
        where T : class
    {
        if (!TryGet(parent, ref path, key, out JsonNode? node))
        {
            return null;
        }

        if (node is JsonObject found)
        {
            return read(found, path);
        }

        Report(path, "must be an object: { ... }");
        return null;
    }

    /// <summary>A member of an enumeration, as a word in snake_case.</summary>
    private T? ReadWord<T>(JsonObject parent, string path, string key)
        where T : struct, Enum
    {
        if (ReadText(parent, path, key) is not { } text)
        {
            return null;
        }

        foreach (T value in Enum.GetValues<T>())
        {
            if (ToWord(value) == text)
            {
                return value;
            }
        }

        Report($"{path}.{key}", $"'{text}' is none of {string.Join(", ", Enum.GetValues<T>().Select(ToWord))}");
        return null;
    }

    private TimeSpan? ReadMilliseconds(JsonObject parent, string path, string key) =>
        ReadInteger(parent, path, key) is { } milliseconds ? TimeSpan.FromMilliseconds(milliseconds) : null;

    private List<T>? ReadList<T>(string key, Func<JsonObject, string, int, T> read) => ReadList(tree, "", key, read);

    private List<T>? ReadList<T>(
        JsonObject parent, string parentPath, string key, Func<JsonObject, string, int, T> read)
    {
        string listPath = parentPath;
        if (!TryGet(parent, ref listPath, key, out JsonNode? node))
        {
            return null;
        }

        if (node is not JsonArray array)
        {
            Report(listPath, "must be a list: [ { ... } ]");
            return null;
        }

        List<T> list = [];
        for (int i = 0; i < array.Count; i++)
        {
            string path = string.Create(CultureInfo.InvariantCulture, $"{listPath}[{i}]");
            if (array[i] is JsonObject item)
            {
                list.Add(read(item, path, i));
            }
            else
            {
                Report(path, "must be an object: { ... }");
            }
        }

        return list;
    }

    internal string? ReadText(JsonObject parent, string path, string key)
    {
        if (!TryGet(parent, ref path, key, out JsonNode? node))
        {
            return null;
        }

        if (node is JsonValue value && value.TryGetValue(out string? text))
        {
            return text;
        }

        Report(path, "must be a text in quotes");
        return null;
    }

    /// <summary>What people type is relative to where they are; what stands in a file is not.</summary>
    internal string? ReadPath(JsonObject parent, string path, string key)
    {
        string? text = ReadText(parent, path, key);
        bool isTyped = origins.ContainsKey($"{path}.{key}");
        return text is not null and not ControlConfig.None and not "" && isTyped ? Path.GetFullPath(text) : text;
    }

    private IPAddress? ReadAddress(JsonObject parent, string path, string key)
    {
        string? text = ReadText(parent, path, key);
        if (text is null)
        {
            return null;
        }

        if (Gid.TryParse(text, out _))
        {
            return IPAddress.Parse(text);
        }

        Report($"{path}.{key}", $"'{text}' is not an IPv4 or IPv6 address");
        return null;
    }

    internal int? ReadInteger(JsonObject parent, string path, string key)
    {
        if (!TryGet(parent, ref path, key, out JsonNode? node))
        {
            return null;
        }

        if (node is JsonValue value)
        {
            if (value.TryGetValue(out int number))
            {
                return number;
            }

            // Options and variables are texts; in the file a number is a number.
            if (origins.ContainsKey(path) && value.TryGetValue(out string? text))
            {
                if (int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out number))
                {
                    return number;
                }

                Report(path, $"'{text}' is not a whole number");
                return null;
            }
        }

        Report(path, "must be a whole number");
        return null;
    }

    internal long? ReadSize(JsonObject parent, string path, string key)
    {
        if (!TryGet(parent, ref path, key, out JsonNode? node))
        {
            return null;
        }

        if (node is JsonValue value)
        {
            if (value.TryGetValue(out long bytes))
            {
                return bytes;
            }

            if (value.TryGetValue(out string? text))
            {
                if (ByteSize.TryParse(text, out bytes))
                {
                    return bytes;
                }

                Report(path, $"'{text}' is not {ByteSize.Forms}");
                return null;
            }
        }

        Report(path, $"must be {ByteSize.Forms}");
        return null;
    }

    internal bool TryGet(JsonObject parent, ref string path, string key, out JsonNode? node)
    {
        path = path.Length == 0 ? key : $"{path}.{key}";
        return parent.TryGetPropertyValue(key, out node) && _present.Add(path);
    }

    internal void CheckKeys(JsonObject parent, string path, params ReadOnlySpan<string> known)
    {
        foreach ((string key, _) in parent)
        {
            if (!known.Contains(key))
            {
                Report(path.Length == 0 ? key : $"{path}.{key}", $"unknown key; known are {string.Join(", ", known!)}");
            }
        }
    }

    internal void Report(string path, string message) =>
        problems.Add(new ConfigProblem(origins.GetValueOrDefault(path, path), message));

    private static string ToText(long? bytes) => bytes is { } known ? ByteSize.ToText(known) : "(all)";

    private static string ToWord<T>(T value)
        where T : struct, Enum => JsonNamingPolicy.SnakeCaseLower.ConvertName(value.ToString());

    private static string ToText(int number) => number.ToString(CultureInfo.InvariantCulture);
}
