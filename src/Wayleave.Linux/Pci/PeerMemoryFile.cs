using System.Globalization;
using Wayleave.Core;

namespace Wayleave.Linux.Pci;

// drivers/pci/p2pdma.c, Documentation/ABI/testing/sysfs-bus-pci: sys/bus/pci/devices/ADDRESS/p2pmem/
//
//   size        all memory of the function's pool, bytes
//   available   what nobody has
//   published   1 when others may find it
//   allocate    mmap takes pages of the pool; munmap gives them back

/// <summary>
/// The peer-to-peer memory that a PCI function's driver registered with the kernel, such as an NVMe drive's controller
/// memory, as sysfs shows it.
/// </summary>
public sealed class PeerMemoryFile
{
    private readonly string _folder;

    private PeerMemoryFile(string folder, string address) => (_folder, Address) = (folder, address);

    /// <summary>Of the function: <c>0000:03:00.0</c>.</summary>
    public string Address { get; }

    /// <summary><c>size</c>: of all its resources together.</summary>
    /// <exception cref="IOException">The function has gone.</exception>
    public ulong SizeBytes => ReadNumber("size");

    /// <summary><c>available</c>: what nobody has at this moment.</summary>
    /// <exception cref="IOException">The function has gone.</exception>
    public ulong AvailableBytes => ReadNumber("available");

    /// <summary><c>published</c>: whether other drivers may find it.</summary>
    /// <exception cref="IOException">The function has gone.</exception>
    public bool IsPublished => ReadNumber("published") != 0;

    /// <summary>The file whose mmap takes memory: Linux 6.2 and later.</summary>
    public string AllocatePath => Path.Combine(_folder, "allocate");

    /// <summary>Every function of this machine that has such memory, by address.</summary>
    /// <param name="root">The folder that holds <c>sys</c>.</param>
    public static IReadOnlyList<PeerMemoryFile> List(string root = "/")
    {
        string devices = Path.Combine(root, "sys/bus/pci/devices");
        return !Directory.Exists(devices)
            ? []
            : [.. Directory.GetFileSystemEntries(devices)
                .Where(d => File.Exists(Path.Combine(d, "p2pmem/size")))
                .Select(d => new PeerMemoryFile(Path.Combine(d, "p2pmem"), Path.GetFileName(d)))
                .OrderBy(p => p.Address, StringComparer.Ordinal)];
    }

    /// <summary>
    /// Takes pages of the pool into this process. A device reaches them through this mapping only: O_DIRECT on it is a
    /// transfer between two devices, which the kernel refuses where there is no route.
    /// </summary>
    /// <param name="lengthBytes">Rounded up to whole pages; in one piece.</param>
    /// <param name="memory">
    /// The bytes are what the last holder left; the pages go back to the pool when the mapping ends.
    /// </param>
    /// <returns>
    /// ENOMEM: not that much in one piece. ENODEV: its driver is letting go. EACCES: only root may. ENOENT: no peer
    /// memory any more, or a kernel without <c>allocate</c>.
    /// </returns>
    public Errno TryAllocate(int lengthBytes, out MappedMemory? memory)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(lengthBytes);
        memory = null;
        try
        {
            using FileDescriptor file = DeviceFile.Open(AllocatePath);
            memory = MappedMemory.MapShared(file, 0, lengthBytes, AllocatePath);
            return Errno.Success;
        }
        catch (LinuxException e)
        {
            return e.Errno;
        }
    }

    public override string ToString() => $"peer memory of {Address}";

    private ulong ReadNumber(string name) =>
        ulong.Parse(File.ReadAllText(Path.Combine(_folder, name)).AsSpan().Trim(), CultureInfo.InvariantCulture);
}
