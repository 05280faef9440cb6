using System.Buffers.Binary;
using System.Globalization;

namespace Wayleave.Linux.Tests.Topology;

/// <summary>A folder with <c>sys</c> and <c>proc</c> as a kernel would show them, made function by function.</summary>
internal sealed class SysfsFixture : IDisposable
{
    public const int RootPort = 4;
    public const int Upstream = 5;
    public const int Downstream = 6;
    private const int ConfigBytes = 4096;
    private const int HeaderBytes = 64;

    public SysfsFixture() => Directory.CreateDirectory(Path.Combine(Root, "sys/bus/pci/devices"));

    public string Root { get; } = Directory.CreateTempSubdirectory("wayleave-sysfs-").FullName;

    public void SetProcessor(string vendor, int family) => Write(
        Path.Combine(Root, "proc/cpuinfo"),
        $"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family.ToString(CultureInfo.InvariantCulture)}\n"
            + "\nprocessor\t: 1\nvendor_id\t: another\n");

    /// <summary>Makes a function; its folder is returned for what else it is to have.</summary>
    /// <param name="path">From its host bridge down: <c>pci0000:00/0000:00:01.0</c>.</param>
    /// <param name="id">Vendor and device: <c>8086:2030</c>.</param>
    /// <param name="classCode">As in its file: 0x060400.</param>
    /// <param name="portType">Of the PCI Express capability, or null for a function without it.</param>
    /// <param name="acs">The ACS control register, or null for no such capability.</param>
    /// <param name="isRoot">Whether the reader sees more than the first 64 bytes of the configuration space.</param>
    /// <param name="resources">Lines of the resource file.</param>
    public string Add(
        string path,
        string id,
        int classCode,
        int? portType = null,
        int? acs = null,
        bool isRoot = true,
        params string[] resources)
    {
        string folder = Path.Combine(Root, "sys/devices", path);
        Directory.CreateDirectory(folder);
        string name = Path.GetFileName(path);
        File.CreateSymbolicLink(Path.Combine(Root, "sys/bus/pci/devices", name), folder);
        Write(Path.Combine(folder, "vendor"), $"0x{id[..4]}\n");
        Write(Path.Combine(folder, "device"), $"0x{id[5..]}\n");
        Write(Path.Combine(folder, "class"), string.Create(CultureInfo.InvariantCulture, $"0x{classCode:x6}\n"));
        Write(Path.Combine(folder, "numa_node"), "-1\n");
        string[] lines = [.. resources, .. Enumerable.Repeat("0x0 0x0 0x0", Math.Max(0, 6 - resources.Length))];
        Write(Path.Combine(folder, "resource"), string.Join('\n', lines) + "\n");
        byte[] config = Config(classCode >> 8 == 0x0604, portType, acs);
        File.WriteAllBytes(Path.Combine(folder, "config"), isRoot ? config : config[..HeaderBytes]);
        return folder;
    }

    public void SetGroup(string folder, int group, string type)
    {
        string path = Path.Combine(
            Root, "sys/kernel/iommu_groups", group.ToString(CultureInfo.InvariantCulture));
        Write(Path.Combine(path, "type"), type + "\n");
        File.CreateSymbolicLink(Path.Combine(folder, "iommu_group"), path);
    }

    public void Dispose() => Directory.Delete(Root, recursive: true);

    private static byte[] Config(bool isBridge, int? portType, int? acs)
    {
        byte[] config = new byte[ConfigBytes];
        config[0x0e] = (byte)(isBridge ? 0x81 : 0x80);
        if (portType is { } type)
        {
            // A power capability first, so that the list is one.
            (config[0x06], config[0x34]) = (0x10, 0x40);
            (config[0x40], config[0x41]) = (0x01, 0x60);
            (config[0x60], config[0x61], config[0x62]) = (0x10, 0x00, (byte)(2 | (type << 4)));
        }

        // Advanced error reporting, then ACS.
        BinaryPrimitives.WriteUInt32LittleEndian(config.AsSpan(0x100), 0x0001 | (2u << 16) | (0x150u << 20));
        if (acs is { } control)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(config.AsSpan(0x150), 0x000d | (1u << 16));
            BinaryPrimitives.WriteUInt16LittleEndian(config.AsSpan(0x156), (ushort)control);
        }

        return config;
    }

    private static void Write(string path, string text)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, text);
    }
}
