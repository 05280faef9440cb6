using System.Net;
using System.Net.Sockets;
using System.Text;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;

namespace Wayleave.Host.Configuration;

/// <summary>
/// What a host is made of. Every value has a default, so that <c>new HostConfig()</c> is a host with one GPU and one
/// RDMA NIC on 127.0.0.2. Objects copy what they need when they are made; a configuration does not change.
/// </summary>
/// <remarks><see cref="ConfigurationLoader"/> makes one from a file, the environment and the command line.</remarks>
public sealed record HostConfig
{
    /// <summary>
    /// The name in messages, proofs and file names of this host; unique among the hosts of one user and machine.
    /// </summary>
    public string Name { get; init; } = "host";

    public IReadOnlyList<GpuConfig> Gpus { get; init; } = [new GpuConfig()];

    public IReadOnlyList<NicConfig> Nics { get; init; } = [new NicConfig()];

    /// <summary>May be empty.</summary>
    public IReadOnlyList<NvmeConfig> Nvmes { get; init; } = [new NvmeConfig()];

    /// <summary>None unless some are asked for.</summary>
    public IReadOnlyList<AcceleratorConfig> Accelerators { get; init; } = [];

    /// <summary>None unless some are asked for.</summary>
    public IReadOnlyList<VfioConfig> Vfios { get; init; } = [];

    /// <summary>None unless some are asked for.</summary>
    public IReadOnlyList<EthernetConfig> Ethernets { get; init; } = [];

    /// <summary>None unless some are named.</summary>
    public IReadOnlyList<LinuxNicConfig> LinuxNics { get; init; } = [];

    public ControlConfig Control { get; init; } = new();

    /// <summary>How programs of this machine share the devices.</summary>
    public BrokerConfig Broker { get; init; } = new();

    /// <summary>
    /// The PCI trees; null for one root port with one switch. A device takes the function that its configuration or its
    /// name says, else a port of a switch that is added for such devices.
    /// </summary>
    public TopologyDescription? Topology { get; init; }

    /// <summary>Where the control server listens: its own address, else that of the first NIC.</summary>
    public IPAddress ControlAddress => Control.Address ?? Nics[0].Address;

    /// <summary>Every problem of this configuration; empty if a host can be started from it.</summary>
    public IReadOnlyList<ConfigProblem> Validate()
    {
        List<ConfigProblem> problems = [];
        CheckName(problems, "name", Name, "host");
        if (Gpus.Count == 0)
        {
            problems.Add(new ConfigProblem("gpus", "a host needs at least one GPU"));
        }

        if (Nics.Count == 0)
        {
            problems.Add(new ConfigProblem("nics", "a host needs at least one NIC"));
        }

        // One name space: DEVICE in wl://HOST/DEVICE/NAME says neither GPU nor NIC.
        Dictionary<string, string> devices = new(StringComparer.Ordinal);
        for (int i = 0; i < Gpus.Count; i++)
        {
            CheckDevice(problems, devices, $"gpus[{i}]", Gpus[i].Name);
            Gpus[i].Validate(problems, $"gpus[{i}]");
        }

        Dictionary<IPEndPoint, string> endpoints = [];
        for (int i = 0; i < Nics.Count; i++)
        {
            CheckDevice(problems, devices, $"nics[{i}]", Nics[i].Name);
            Nics[i].Validate(problems, $"nics[{i}]");

            CheckEndpoint(problems, endpoints, $"nics[{i}]", Nics[i].Address, Nics[i].UdpPort);
            for (int j = 0; j < Nics[i].FurtherPorts.Count; j++)
            {
                NicPortConfig port = Nics[i].FurtherPorts[j];
                CheckEndpoint(problems, endpoints, $"nics[{i}].further_ports[{j}]", port.Address, port.UdpPort);
            }
        }

        for (int i = 0; i < Nvmes.Count; i++)
        {
            CheckDevice(problems, devices, $"nvmes[{i}]", Nvmes[i].Name);
            Nvmes[i].Validate(problems, $"nvmes[{i}]");
        }

        for (int i = 0; i < Accelerators.Count; i++)
        {
            CheckDevice(problems, devices, $"accelerators[{i}]", Accelerators[i].Name);
            Accelerators[i].Validate(problems, $"accelerators[{i}]");
        }

        for (int i = 0; i < Vfios.Count; i++)
        {
            CheckDevice(problems, devices, $"vfios[{i}]", Vfios[i].Name);
            Vfios[i].Validate(problems, $"vfios[{i}]");
        }

        Dictionary<string, string> taps = new(StringComparer.Ordinal);
        for (int i = 0; i < Ethernets.Count; i++)
        {
            CheckDevice(problems, devices, $"ethernets[{i}]", Ethernets[i].Name);
            Ethernets[i].Validate(problems, $"ethernets[{i}]");
            if (Ethernets[i].Tap is { } tap && !taps.TryAdd(tap, $"ethernets[{i}]"))
            {
                problems.Add(new ConfigProblem($"ethernets[{i}].tap", $"'{tap}' is also that of {taps[tap]}"));
            }
        }

        for (int i = 0; i < LinuxNics.Count; i++)
        {
            CheckDevice(problems, devices, $"linux_nics[{i}]", LinuxNics[i].Name);
            LinuxNics[i].Validate(problems, $"linux_nics[{i}]");
        }

        Control.Validate(problems);
        Broker.Validate(problems);
        TopologyPlacement.TryBuild(this, out _, problems);
        return problems;
    }

    /// <exception cref="ConfigurationException">
    /// The configuration has problems; the message names all of them.
    /// </exception>
    public void ThrowIfInvalid()
    {
        IReadOnlyList<ConfigProblem> problems = Validate();
        if (problems.Count != 0)
        {
            throw new ConfigurationException(problems);
        }
    }

    internal static void CheckPort(List<ConfigProblem> problems, string path, int port)
    {
        if (port is < 0 or > 65535)
        {
            problems.Add(
                new ConfigProblem(path, $"{port} is not a port; ports are 1 to 65535, and 0 lets the system choose"));
        }
    }

    /// <summary>An address that peers are given must be one machine's: neither "any" nor a group.</summary>
    internal static void CheckAddress(List<ConfigProblem> problems, string path, IPAddress address)
    {
        bool isGroup = address.IsIPv6Multicast
            || (address.AddressFamily == AddressFamily.InterNetwork && address.GetAddressBytes()[0] >= 224);
        if (isGroup || address.Equals(IPAddress.Any) || address.Equals(IPAddress.IPv6Any))
        {
            problems.Add(
                new ConfigProblem(path, $"{address} is not the address of one machine; peers are told this address"));
        }
        else if (address is { AddressFamily: AddressFamily.InterNetworkV6, ScopeId: not 0 }
            or { IsIPv4MappedToIPv6: true })
        {
            const string Remedy = "give a global or loopback address without a zone";
            problems.Add(new ConfigProblem(path, $"{address} does not work as a GID; {Remedy}"));
        }
    }

    private static void CheckName(List<ConfigProblem> problems, string path, string name, string what)
    {
        if (WlUrl.DescribeProblemOfName(name, what) is string problem)
        {
            problems.Add(new ConfigProblem(path, problem));
        }
    }

    private static void CheckEndpoint(
        List<ConfigProblem> problems,
        Dictionary<IPEndPoint, string> endpoints,
        string path,
        IPAddress address,
        int udpPort)
    {
        // A port out of range is a problem of its own; here it only must not throw.
        IPEndPoint endPoint = new(address, udpPort & 0xFFFF);
        if (udpPort != 0 && !endpoints.TryAdd(endPoint, path))
        {
            string message = $"{address} port {udpPort} is also that of {endpoints[endPoint]}";
            problems.Add(new ConfigProblem(path + ".udp_port", message));
        }
    }

    private static void CheckDevice(
        List<ConfigProblem> problems, Dictionary<string, string> devices, string path, string name)
    {
        CheckName(problems, path + ".name", name, "device");
        if (!devices.TryAdd(name, path))
        {
            problems.Add(new ConfigProblem(path + ".name", $"'{name}' is also the name of {devices[name]}"));
        }
    }
}

/// <summary>A software GPU.</summary>
public sealed record GpuConfig
{
    /// <summary>Pieces in which device memory is counted: one block of a copy engine.</summary>
    public const long GranuleBytes = 64 * 1024;

    /// <summary>The most device memory, and the most system memory behind it, that a GPU may have.</summary>
    public const long MemoryBytesMax = 1L << 40;

    public string Name { get; init; } = "gpu0";

    /// <summary>
    /// Device memory, a multiple of <see cref="GranuleBytes"/>. Taken from the system only as it is touched.
    /// </summary>
    public long VramBytes { get; init; } = 1L << 30;

    /// <summary>
    /// System memory to which buffers are evicted, a multiple of <see cref="GranuleBytes"/>; 0 for none.
    /// </summary>
    public long SystemPoolBytes { get; init; } = 1L << 30;

    /// <summary>
    /// How much of the memory the BAR shows: a power of two. Peers do not reach the rest. Null shows all, or as much as
    /// the BAR that the topology gives the function.
    /// </summary>
    public long? VisibleBytes { get; init; }

    /// <summary>Where a buffer that somebody pins may stay.</summary>
    public GpuPinPolicy PinPolicy { get; init; }

    public ComputeConfig Compute { get; init; } = new();

    /// <inheritdoc cref="NicConfig.Function"/>
    public string? Function { get; init; }

    internal void Validate(List<ConfigProblem> problems, string path)
    {
        MemorySize.Check(problems, path + ".vram_bytes", VramBytes, GranuleBytes, GranuleBytes);
        MemorySize.Check(problems, path + ".system_pool_bytes", SystemPoolBytes, GranuleBytes, 0);
        MemorySize.CheckVisible(problems, path + ".visible_bytes", VisibleBytes, VramBytes, GranuleBytes);
        if (PinPolicy == GpuPinPolicy.HostMemory && SystemPoolBytes == 0)
        {
            problems.Add(new ConfigProblem(
                path + ".pin_policy", "pins go to host memory, and \"system_pool_bytes\" is 0"));
        }

        Compute.Validate(problems, path + ".compute");
    }
}

/// <summary>A further port of an RDMA NIC.</summary>
public sealed record NicPortConfig
{
    /// <summary>The address of its socket, and its GID. Nothing else of this host has it with the same port.</summary>
    public IPAddress Address { get; init; } = new([127, 0, 0, 3]);

    /// <summary>0 lets the system choose one.</summary>
    public int UdpPort { get; init; } = NicConfig.DefaultUdpPort;
}

/// <summary>A software RDMA NIC: RoCEv2 on a UDP socket for each of its ports.</summary>
public sealed record NicConfig
{
    /// <summary>The UDP destination port of RoCEv2 (IANA).</summary>
    public const int DefaultUdpPort = 4791;

    public string Name { get; init; } = "rdma0";

    /// <summary>
    /// The address of the socket and the GID of the port. Hosts on one machine take different loopback addresses.
    /// </summary>
    public IPAddress Address { get; init; } = new([127, 0, 0, 2]);

    /// <summary>0 lets the system choose one.</summary>
    public int UdpPort { get; init; } = DefaultUdpPort;

    /// <summary>
    /// Ports 2 and up of the device, each with an address of its own; port 1 is <see cref="Address"/>.
    /// </summary>
    public IReadOnlyList<NicPortConfig> FurtherPorts { get; init; } = [];

    /// <summary>Payload bytes per packet: 256, 512, 1024, 2048 or 4096 (IBTA 9.6).</summary>
    public int PathMtuBytes { get; init; } = 4096;

    /// <summary>
    /// Of RDMA WRITEs to a peer that has agreed, so many begin before their turn
    /// (<see cref="PeerProfile.FirstsAhead"/>); 0 keeps every packet in the order of the PSNs.
    /// </summary>
    public int FirstsAhead { get; init; } = 7;

    /// <summary>
    /// Off unless asked for: on a loopback nobody marks packets, and what is lost is lost by the reader.
    /// </summary>
    public CongestionControl Congestion { get; init; }

    /// <summary>What becomes of a key whose memory its owner wants back.</summary>
    public RegionRevocation Revocation { get; init; }

    /// <summary>What happens when pages of a client that this NIC has pinned are wanted by somebody else.</summary>
    public PinnedMemoryPolicy PinnedMemory { get; init; }

    /// <summary>What a client hears whose legacy region has lost its memory.</summary>
    public LegacyPeerPolicy LegacyPeers { get; init; }

    /// <summary>How regions on demand get at pages of a client that are in a GPU's memory.</summary>
    public PrivatePagePolicy PrivatePages { get; init; }

    /// <summary>
    /// The function of the topology that the device is, by name or address; null for the one of the device's name.
    /// </summary>
    public string? Function { get; init; }

    internal void Validate(List<ConfigProblem> problems, string path)
    {
        HostConfig.CheckAddress(problems, path + ".address", Address);
        HostConfig.CheckPort(problems, path + ".udp_port", UdpPort);
        for (int i = 0; i < FurtherPorts.Count; i++)
        {
            HostConfig.CheckAddress(problems, $"{path}.further_ports[{i}].address", FurtherPorts[i].Address);
            HostConfig.CheckPort(problems, $"{path}.further_ports[{i}].udp_port", FurtherPorts[i].UdpPort);
        }

        if (FurtherPorts.Count >= RdmaDeviceOptions.PortsMax)
        {
            string message = $"a device has at most {RdmaDeviceOptions.PortsMax} ports, the first included";
            problems.Add(new ConfigProblem(path + ".further_ports", message));
        }

        if (PathMtuBytes is not (256 or 512 or 1024 or 2048 or 4096))
        {
            string message = $"{PathMtuBytes} is not a path MTU; choose 256, 512, 1024, 2048 or 4096";
            problems.Add(new ConfigProblem(path + ".path_mtu_bytes", message));
        }

        if (FirstsAhead is < 0 or > PeerProfile.FirstsAheadMax)
        {
            string message = $"0 to {PeerProfile.FirstsAheadMax} messages begin before their turn, not {FirstsAhead}";
            problems.Add(new ConfigProblem(path + ".firsts_ahead", message));
        }
    }
}

/// <summary>A software NVMe drive; files become its namespaces while somebody copies from them.</summary>
public sealed record NvmeConfig
{
    /// <summary>The largest controller memory buffer: one window.</summary>
    public const long MemoryBufferBytesMax = 1L << 30;

    public string Name { get; init; } = "nvme0";

    /// <summary>
    /// The controller memory buffer that peers may use: a power of two of at least 4096 bytes, or 0 for none.
    /// </summary>
    public long MemoryBufferBytes { get; init; } = 16L << 20;

    /// <summary>
    /// Where the files are that peers may write to the drive, an absolute path; null when they may write none.
    /// </summary>
    public string? Folder { get; init; }

    /// <inheritdoc cref="NicConfig.Function"/>
    public string? Function { get; init; }

    internal void Validate(List<ConfigProblem> problems, string path)
    {
        long bytes = MemoryBufferBytes;
        if (bytes != 0 && (bytes < 4096 || bytes > MemoryBufferBytesMax || !long.IsPow2(bytes)))
        {
            string allowed = $"a power of two of 4096 bytes to {ByteSize.ToText(MemoryBufferBytesMax)}, or 0";
            problems.Add(new ConfigProblem(path + ".memory_buffer_bytes", $"{bytes} is not allowed; give {allowed}"));
        }

        if (Folder is not null && (!Path.IsPathFullyQualified(Folder) || !Directory.Exists(Folder)))
        {
            problems.Add(new ConfigProblem(path + ".folder", $"'{Folder}' is not the absolute path of a folder"));
        }
    }
}

/// <summary>The control server: who may ask the host for something, and where.</summary>
public sealed record ControlConfig
{
    /// <summary>What <see cref="SocketPath"/> says when there is to be no Unix socket.</summary>
    public const string None = "none";

    /// <summary>A shared token shorter than this could be guessed.</summary>
    public const int TokenLengthMin = 32;

    private const int TokenLengthMax = 512;
    private const int SocketPathBytesMax = 107; // sun_path is 108 bytes with its final zero

    /// <summary>TCP listens here; null for the address of the first NIC.</summary>
    public IPAddress? Address { get; init; }

    /// <summary>The TCP port; 0 lets the system choose one.</summary>
    public int Port { get; init; } = WlUrl.DefaultPort;

    /// <summary>
    /// The Unix socket; null for NAME.sock in the runtime directory, <see cref="None"/> for no socket. Only this user
    /// and root get through it, and they need no token.
    /// </summary>
    public string? SocketPath { get; init; }

    /// <summary>
    /// The file that the host writes its fresh token to, mode 0600; null for NAME.token in the runtime directory.
    /// </summary>
    public string? TokenFile { get; init; }

    /// <summary>A token that several hosts share, instead of a fresh one in a file; null for a fresh one.</summary>
    public string? Token { get; init; }

    /// <summary>Why a text cannot be a token, or null if it can.</summary>
    public static string? DescribeProblemOfToken(string token)
    {
        ArgumentNullException.ThrowIfNull(token);
        return token.Length is < TokenLengthMin or > TokenLengthMax
            ? $"a token of {token.Length} characters; it needs {TokenLengthMin} to {TokenLengthMax}: openssl rand "
                + "-hex 32"
            : token.AsSpan().IndexOfAnyExceptInRange('!', '~') >= 0
                ? "a token may hold only visible ASCII characters, no blanks"
                : null;
    }

    // Printing a record prints its members; a token must not end in a log that way.
    private bool PrintMembers(StringBuilder builder)
    {
        string token = Token is null ? "" : "(hidden)";
        builder.Append(
            $"Address = {Address}, Port = {Port}, SocketPath = {SocketPath}, TokenFile = {TokenFile}, Token = {token}");
        return true;
    }

    internal void Validate(List<ConfigProblem> problems)
    {
        if (Address is not null)
        {
            HostConfig.CheckAddress(problems, "control.address", Address);
        }

        HostConfig.CheckPort(problems, "control.port", Port);
        if (SocketPath is not null && SocketPath != None)
        {
            CheckPath(problems, "control.socket", SocketPath);
            if (Encoding.UTF8.GetByteCount(SocketPath) > SocketPathBytesMax)
            {
                string message = $"a path of more than {SocketPathBytesMax} bytes; Unix sockets need a shorter one";
                problems.Add(new ConfigProblem("control.socket", message));
            }
        }

        if (TokenFile is not null)
        {
            CheckPath(problems, "control.token_file", TokenFile);
        }

        if (Token is not null && DescribeProblemOfToken(Token) is string problem)
        {
            problems.Add(new ConfigProblem("control.token", problem));
        }

        if (Token is not null && TokenFile is not null)
        {
            const string Message = "a shared token is given too; a fresh token is written only without it";
            problems.Add(new ConfigProblem("control.token_file", Message));
        }
    }

    private static void CheckPath(List<ConfigProblem> problems, string path, string value)
    {
        if (!Path.IsPathFullyQualified(value) || value.Contains('\0', StringComparison.Ordinal))
        {
            problems.Add(new ConfigProblem(path, $"'{value}' is not an absolute path"));
        }
    }
}
