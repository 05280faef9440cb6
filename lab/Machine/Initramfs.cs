using System.Globalization;
using System.IO.Compression;
using System.Security.Cryptography;
using System.Text;
using Wayleave.Lab.Packages;

namespace Wayleave.Lab.Machine;

/// <summary>
/// The memory file system that the guest starts from: busybox, <c>init.sh</c>, and the few modules that are needed to
/// reach the host's root.
/// </summary>
internal static class Initramfs
{
    private static readonly string[] s_modules = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

    /// <summary>Writes the archive (newc cpio, gzip) unless it is there already.</summary>
    /// <returns>Its path.</returns>
    internal static string Build(LabCache cache, KernelImage kernel, ToolLayer tools)
    {
        byte[] init = ReadInit();
        string hash = Convert.ToHexStringLower(SHA256.HashData(init))[..12];
        string path = cache.Of("initramfs", $"{kernel.Version}-{hash}.gz");
        if (File.Exists(path))
        {
            return path;
        }

        Directory.CreateDirectory(cache.Of("initramfs"));
        string busybox = tools.Find("busybox");
        using (FileStream file = File.Create(path + ".next"))
        using (GZipStream gzip = new(file, CompressionLevel.Fastest))
        {
            Cpio archive = new(gzip);
            archive.Folder("bin");
            archive.Folder("dev");
            archive.File("bin/busybox", File.ReadAllBytes(busybox), executable: true);
            archive.File("init", init, executable: true);
            archive.Folder("modules");
            StringBuilder list = new();
            foreach (string module in Order(kernel))
            {
                (string plain, byte[] content) = Decompress(Path.Combine(kernel.Modules, module), busybox);
                archive.File("modules/" + plain, content, executable: false);
                list.Append(plain).Append('\n');
            }

            archive.File("modules/list", Encoding.UTF8.GetBytes(list.ToString()), executable: false);
            archive.End();
        }

        File.Move(path + ".next", path, overwrite: true);
        return path;
    }

    private static byte[] ReadInit()
    {
        using Stream stream = typeof(Initramfs).Assembly.GetManifestResourceStream("init.sh")!;
        using MemoryStream content = new();
        stream.CopyTo(content);
        return content.ToArray();
    }

    // The modules with what they depend on, in an order in which they load. Those built into the kernel are not in
    // the table.
    private static List<string> Order(KernelImage kernel)
    {
        Dictionary<string, (string Path, string[] Needs)> table = [];
        foreach (string line in File.ReadLines(Path.Combine(kernel.Modules, "modules.dep")))
        {
            string[] parts = line.Split(':', 2);
            string name = Path.GetFileName(parts[0]).Split('.')[0].Replace('-', '_');
            table[name] = (parts[0], parts[1].Split(' ', StringSplitOptions.RemoveEmptyEntries));
        }

        List<string> order = [];
        foreach (string module in s_modules)
        {
            if (table.TryGetValue(module, out (string Path, string[] Needs) entry))
            {
                // depmod lists what is needed from the nearest to the farthest.
                order.AddRange(entry.Needs.Reverse().Append(entry.Path).Where(p => !order.Contains(p)));
            }
        }

        return order;
    }

    private static (string Name, byte[] Content) Decompress(string module, string busybox)
    {
        string name = Path.GetFileName(module);
        if (name.EndsWith(".ko", StringComparison.Ordinal))
        {
            return (name, File.ReadAllBytes(module));
        }

        if (!name.EndsWith(".ko.xz", StringComparison.Ordinal))
        {
            throw new LabException(ExitCodes.Failed, $"{name}: the lab knows no way to decompress this");
        }

        string plain = Path.GetTempFileName();
        try
        {
            ToolResult result = Tool.Run("/bin/sh", ["-c", "exec \"$0\" xzcat \"$1\" >\"$2\"", busybox, module, plain]);
            return result.ExitCode == 0
                ? (name[..^3], File.ReadAllBytes(plain))
                : throw new LabException(ExitCodes.Failed, $"{name}: {result.Complaint}");
        }
        finally
        {
            File.Delete(plain);
        }
    }

    /// <summary>
    /// Writes the "newc" form of cpio, which the kernel unpacks
    /// (Documentation/driver-api/early-userspace/buffer-format.rst).
    /// </summary>
    private sealed class Cpio(Stream stream)
    {
        private const int RegularFile = 0x8000;
        private const int DirectoryType = 0x4000;

        private int _inode;

        internal void Folder(string name) => Entry(name, DirectoryType | 0b111_101_101, []);

        internal void File(string name, byte[] content, bool executable) =>
            Entry(name, RegularFile | (executable ? 0b111_101_101 : 0b110_100_100), content);

        internal void End() => Entry("TRAILER!!!", 0, []);

        private void Entry(string name, int mode, byte[] content)
        {
            // magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
            // namesize, check
            int[] fields = [_inode++, mode, 0, 0, 1, 0, content.Length, 0, 0, 0, 0, name.Length + 1, 0];
            IEnumerable<string> numbers = fields.Select(f => f.ToString("x8", CultureInfo.InvariantCulture));
            Padded(Encoding.ASCII.GetBytes("070701" + string.Concat(numbers) + name + '\0'));
            Padded(content);
        }

        private void Padded(byte[] bytes)
        {
            stream.Write(bytes);
            stream.Write(new byte[-bytes.Length & 3]);
        }
    }
}
