using System.Globalization;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Host.Programs;

// Documentation/ABI/stable/sysfs-class-infiniband. What the library inside the program says of its devices, said again
// in files, for those who do not ask a library: UCX looks for /dev/infiniband/uverbs0 and for the types of GIDs.

/// <summary>Makes the files by which some programs look for an RDMA device.</summary>
internal static class DeviceFiles
{
    /// <summary>Makes <c>class</c> and <c>dev</c> in a folder, for wayleave-ns.</summary>
    /// <param name="folder">Empty.</param>
    /// <param name="devices">As in <see cref="VerbsProgram.DevicesVariable"/>, and valid.</param>
    public static void Create(string folder, string devices)
    {
        string nodes = Directory.CreateDirectory(Path.Combine(folder, "dev", "infiniband")).FullName;
        string verbs = Directory.CreateDirectory(Path.Combine(folder, "class", "infiniband_verbs")).FullName;
        File.WriteAllText(Path.Combine(verbs, "abi_version"), "6\n");
        File.WriteAllText(Path.Combine(nodes, "rdma_cm"), "");
        int index = 0;
        foreach (string device in devices.Split(',', StringSplitOptions.RemoveEmptyEntries))
        {
            int at = device.IndexOf('@', StringComparison.Ordinal);
            string name = device[..at];
            _ = Gid.TryParse(device.AsSpan(at + 1), out Gid gid);
            string node = string.Create(CultureInfo.InvariantCulture, $"uverbs{index++}");
            File.WriteAllText(Path.Combine(nodes, node), "");
            Write(Path.Combine(verbs, node), ("ibdev", name), ("abi_version", "1"), ("dev", "0:0"));
            string top = Path.Combine(folder, "class", "infiniband", name);
            Write(
                top,
                ("node_type", "1: CA"),
                ("node_guid", Groups(NodeGuid(gid), 8)),
                ("sys_image_guid", Groups(NodeGuid(gid), 8)),
                ("node_desc", "wayleave"),
                ("hca_type", "wayleave"),
                ("fw_ver", "0.1.0"));
            string port = Path.Combine(top, "ports", "1");
            Write(
                port,
                ("state", "4: ACTIVE"),
                ("phys_state", "5: LinkUp"),
                ("rate", "100 Gb/sec (4X EDR)"),
                ("link_layer", "Ethernet"),
                ("lid", "0x0"),
                ("sm_lid", "0x0"),
                ("cap_mask", "0x00010000"));
            Write(Path.Combine(port, "gids"), ("0", Groups(gid)));
            Write(Path.Combine(port, "gid_attrs", "types"), ("0", "RoCE v2"));
            Write(Path.Combine(port, "gid_attrs", "ndevs"), ("0", "lo"));
            Write(Path.Combine(port, "pkeys"), ("0", "0xffff"));
        }
    }

    private static void Write(string folder, params (string Name, string Text)[] files)
    {
        Directory.CreateDirectory(folder);
        foreach ((string name, string text) in files)
        {
            File.WriteAllText(Path.Combine(folder, name), text + "\n");
        }
    }

    // As the library makes it of the address.
    private static ulong NodeGuid(Gid gid) =>
        0x0200_00FF_FE00_0000UL | (gid.Low & 0xFF_FFFF) | ((gid.Low >> 24 & 0xFF) << 40);

    private static string Groups(Gid gid) => $"{Groups(gid.High, 8)}:{Groups(gid.Low, 8)}";

    private static string Groups(ulong value, int bytes) => string.Join(
        ':',
        Enumerable.Range(0, bytes / 2).Select(i => (value >> (48 - (16 * i)) & 0xFFFF)
            .ToString("x4", CultureInfo.InvariantCulture)));
}
