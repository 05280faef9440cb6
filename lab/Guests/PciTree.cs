using System.Buffers.Binary;
using System.Globalization;
using System.Text.Json.Nodes;

namespace Wayleave.Lab.Guests;

/// <summary>
/// The PCI devices that a route between the drives can meet, as sysfs and their configuration space tell them: what the
/// rules of P2PDMA take as their input.
/// </summary>
internal static class PciTree
{
    private const string Devices = "/sys/bus/pci/devices";
    private const int ExpressCapability = 0x10;
    private const int AcsCapability = 0x0d;

    /// <summary>The drives, the bridges above them, and the first device of the root bus.</summary>
    /// <param name="roles">Names of drives by their address.</param>
    internal static JsonArray Describe(IReadOnlyDictionary<string, string> roles)
    {
        SortedSet<string> chosen = new(StringComparer.Ordinal);
        foreach (string address in roles.Keys)
        {
            chosen.UnionWith(Path(address));
        }

        // "The first device of the root bus" stands for the host bridge in the allow list.
        chosen.Add(Directory.GetDirectories(Devices).Order(StringComparer.Ordinal).First()[(Devices.Length + 1)..]);
        return [.. chosen.Select(address => Function(address, roles.GetValueOrDefault(address)))];
    }

    private static JsonObject Function(string address, string? role)
    {
        byte[] configuration = File.ReadAllBytes($"{Devices}/{address}/config");
        JsonObject function = new()
        {
            ["address"] = address,
            ["parent"] = Path(address) is [.., string parent, _] ? parent : null,
            ["role"] = role,
            ["vendor"] = Read(address, "vendor"),
            ["device"] = Read(address, "device"),
            ["class"] = Read(address, "class"),
            ["port_type"] = PortType(configuration),
        };
        int acs = Extended(configuration, AcsCapability);
        function["acs_capability"] =
            acs == 0 ? null : BinaryPrimitives.ReadUInt16LittleEndian(configuration.AsSpan(acs + 4));
        function["acs_control"] =
            acs == 0 ? null : BinaryPrimitives.ReadUInt16LittleEndian(configuration.AsSpan(acs + 6));
        IEnumerable<string> bars = File.ReadLines($"{Devices}/{address}/resource").Take(6);
        function["bar_sizes"] = new JsonArray([.. bars.Select(Size)]);
        return function;
    }

    // The addresses from the root bus down to the device.
    private static List<string> Path(string address)
    {
        FileSystemInfo target = new DirectoryInfo($"{Devices}/{address}").ResolveLinkTarget(returnFinalTarget: true)!;
        return [.. target.FullName.Split('/').Where(part => part.Length == 12 && part[4] == ':' && part[10] == '.')];
    }

    private static string Read(string address, string name) => File.ReadAllText($"{Devices}/{address}/{name}").Trim();

    private static JsonNode? Size(string resource)
    {
        string[] parts = resource.Split(' ');
        ulong start = Convert.ToUInt64(parts[0], 16), end = Convert.ToUInt64(parts[1], 16);
        return end == 0 ? 0 : (long)(end - start + 1);
    }

    // PCI Express capability, device/port type (bits 7:4 of the register at offset 2); null: no PCI Express.
    private static string? PortType(byte[] configuration)
    {
        for (int at = configuration[0x34]; at != 0; at = configuration[at + 1])
        {
            if (configuration[at] == ExpressCapability)
            {
                return ((configuration[at + 2] >> 4) & 15) switch
                {
                    0 => "endpoint",
                    4 => "root-port",
                    5 => "upstream-port",
                    6 => "downstream-port",
                    9 => "integrated-endpoint",
                    int other => other.ToString(CultureInfo.InvariantCulture),
                };
            }
        }

        return null;
    }

    private static int Extended(byte[] configuration, int capability)
    {
        for (int at = configuration.Length > 256 ? 256 : 0; at != 0;)
        {
            uint header = BinaryPrimitives.ReadUInt32LittleEndian(configuration.AsSpan(at));
            if ((header & 0xffff) == capability)
            {
                return at;
            }

            at = (int)(header >> 20);
        }

        return 0;
    }
}
