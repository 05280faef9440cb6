using System.Globalization;
using Wayleave.Core.Topology;

namespace Wayleave.Linux.Pci;

/// <summary>One folder of <c>/sys/bus/pci/devices</c>.</summary>
internal sealed class SysfsFunction
{
    // include/linux/ioport.h
    private const ulong ResourcePorts = 0x100;
    private const ulong ResourceMemory = 0x200;
    private const ulong ResourcePrefetch = 0x2000;
    private const ulong ResourceUnset = 0x2000_0000;

    private const int BridgeClass = 0x0604;
    private const int ConfigBytesMax = 4096;

    // What users know a function by, best first; a virtio device has its children one level deeper.
    private static readonly string[] s_children = ["infiniband", "nvme", "drm", "net", "block"];

    private readonly PciConfigSpace _config;
    private readonly PciId _id;
    private readonly string? _name;
    private readonly IReadOnlyList<BarDescription> _bars;
    private readonly bool _isVirtual;

    private SysfsFunction(string folder, PciAddress address, PciAddress? parent, (ushort Domain, byte Bus) rootBus)
    {
        (Address, Parent, RootBus) = (address, parent, rootBus);
        string config = Path.Combine(folder, "config");
        _config = new PciConfigSpace(ReadBytes(config), new FileInfo(config).Length);
        int classCode = (int)ReadHex(folder, "class");
        IsBridge = _config.IsBridge ?? classCode >> 8 == BridgeClass;
        _id = new PciId((ushort)ReadHex(folder, "vendor"), (ushort)ReadHex(folder, "device"));
        _isVirtual = Path.Exists(Path.Combine(folder, "physfn"));
        string[] parents = [folder, .. Directory.GetDirectories(folder, "virtio*").Order(StringComparer.Ordinal)];
        _name = s_children.SelectMany(c => parents.Select(p => FirstChild(p, c))).FirstOrDefault(n => n is not null);
        _bars = ReadBars(Path.Combine(folder, "resource"), IsBridge ? 2 : PciFunction.BarCountMax);
        NumaNode = ReadNumber(Path.Combine(folder, "numa_node")) ?? -1;
        string group = Path.Combine(folder, "iommu_group");
        string? type = ReadText(Path.Combine(group, "type"));
        OwnMode = type switch
        {
            null => IommuMode.Off,
            "identity" => IommuMode.Passthrough,
            _ => IommuMode.Strict,
        };
        Details = new PciDetails
        {
            ClassCode = classCode,
            Driver = TargetName(Path.Combine(folder, "driver")),
            IsAcsKnown = _config.IsExtendedKnown,
            IommuGroup = int.TryParse(
                TargetName(group), NumberStyles.None, CultureInfo.InvariantCulture, out int number) ? number : null,
            IommuType = type,
        };
    }

    public PciAddress Address { get; }

    /// <summary>The bridge above, or null on a root bus.</summary>
    public PciAddress? Parent { get; }

    public (ushort Domain, byte Bus) RootBus { get; }

    public bool IsBridge { get; }

    public PciBridgeKind? KnownKind => _config.BridgeKind;

    /// <summary>-1 when the machine does not say.</summary>
    public int NumaNode { get; }

    /// <summary>How the IOMMU treats this function.</summary>
    public IommuMode OwnMode { get; }

    /// <summary>The strictest of this function and everything below it.</summary>
    public IommuMode TreeMode { get; set; }

    public PciDetails Details { get; }

    /// <summary>
    /// Reads a folder, by its link. Null for one in a domain that a <see cref="PciAddress"/> cannot say.
    /// </summary>
    /// <exception cref="IOException">It is gone, or a file of it cannot be read.</exception>
    public static SysfsFunction? Read(string link)
    {
        DirectoryInfo info = new(link);
        string folder = info.ResolveLinkTarget(returnFinalTarget: true)?.FullName ?? info.FullName;
        if (!PciAddress.TryParse(Path.GetFileName(folder), out PciAddress address))
        {
            return null;
        }

        string above = Path.GetFileName(Path.GetDirectoryName(folder)) ?? "";
        PciAddress? parent = PciAddress.TryParse(above, out PciAddress bridge) ? bridge : null;
        (ushort, byte) rootBus = parent is null
            && above.StartsWith("pci", StringComparison.Ordinal)
            && PciAddress.TryParse(above[3..] + ":00.0", out PciAddress root)
                ? (root.Domain, root.Bus)
                : (address.Domain, address.Bus);
        return new SysfsFunction(folder, address, parent, rootBus);
    }

    public FunctionDescription Describe() => new()
    {
        Address = Address,
        Name = _name,
        Id = _id,
        Below = Parent?.ToString() ?? $"pci{RootBus.Domain:x4}:{RootBus.Bus:x2}",
        Acs = _config.Acs,
        Bars = _bars,
        IsVirtual = _isVirtual,
    };

    private static List<BarDescription> ReadBars(string file, int count)
    {
        List<BarDescription> bars = [];
        string[] lines = File.Exists(file) ? File.ReadAllLines(file) : [];
        for (int i = 0; i < Math.Min(count, lines.Length); i++)
        {
            string[] words = lines[i].Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words.Length < 3)
            {
                continue;
            }

            (ulong start, ulong end, ulong flags) = (ParseHex(words[0]), ParseHex(words[1]), ParseHex(words[2]));
            if ((flags & (ResourcePorts | ResourceMemory)) == 0 || (flags & ResourceUnset) != 0 || end <= start)
            {
                continue;
            }

            bars.Add(new BarDescription
            {
                Index = i,
                Kind = (flags & ResourceMemory) != 0 ? PciBarKind.Memory : PciBarKind.IoPort,
                SizeBytes = end - start + 1,
                Start = start,
                IsPrefetchable = (flags & ResourcePrefetch) != 0,
            });
        }

        return bars;
    }

    // The size that sysfs shows is not what this user gets: the kernel stops after 64 bytes.
    private static byte[] ReadBytes(string file)
    {
        using FileStream stream = File.OpenRead(file);
        byte[] bytes = new byte[ConfigBytesMax];
        int length = stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
        return bytes[..length];
    }

    private static string? FirstChild(string folder, string kind)
    {
        string path = Path.Combine(folder, kind);
        return !Directory.Exists(path) ? null : Directory.GetDirectories(path)
            .Select(p => Path.GetFileName(p))
            .Where(n => kind != "drm" || n.StartsWith("card", StringComparison.Ordinal))
            .Order(StringComparer.Ordinal)
            .FirstOrDefault();
    }

    private static string? TargetName(string link) =>
        new DirectoryInfo(link).LinkTarget is { } target ? Path.GetFileName(target) : null;

    private static string? ReadText(string file) => File.Exists(file) ? File.ReadAllText(file).Trim() : null;

    private static int? ReadNumber(string file) =>
        int.TryParse(ReadText(file), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int number)
            ? number
            : null;

    private static ulong ReadHex(string folder, string name) => ParseHex(File.ReadAllText(Path.Combine(folder, name)));

    private static ulong ParseHex(string text)
    {
        ReadOnlySpan<char> digits = text.AsSpan().Trim();
        digits = digits.StartsWith("0x", StringComparison.Ordinal) ? digits[2..] : digits;
        return ulong.Parse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
    }
}
