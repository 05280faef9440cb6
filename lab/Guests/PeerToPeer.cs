using System.Globalization;
using System.Text.Json.Nodes;
using Wayleave.Core.Topology;
using Wayleave.Host.Topology;
using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Guests;

/// <summary>
/// Moves file data between NVMe drives and the controller memory of others, for every pair: what the kernel answers,
/// which map type and distance it computed, and whether the bytes are the right ones, because a route that the rules
/// allow can still corrupt.
/// </summary>
internal static unsafe class PeerToPeer
{
    private const int Bytes = 65536;
    private const int Block = 4096;
    private const long WriteOffset = 1 << 20;

    /// <summary>
    /// Writes a record of the machine and one of each pair; with the argument <c>pool</c>, what a pool answers too.
    /// </summary>
    internal static int Run(string[] arguments)
    {
        if (arguments is not ([] or ["pool"]))
        {
            return ExitCodes.Usage;
        }

        Drive[] drives = [.. Directory.GetDirectories("/sys/class/nvme").Select(Drive.Read)
            .OrderBy(d => d.Role, StringComparer.Ordinal)];
        if (!drives.Any(d => d.IsProvider))
        {
            Console.Error.WriteLine("no drive publishes controller memory");
            return ExitCodes.Failed;
        }

        Records records = new();
        records.Add(new JsonObject
        {
            ["record"] = "machine",
            ["boot"] = Records.Boot,
            ["cpu_vendor"] = CpuInfo("vendor_id"),
            ["cpu_family"] = int.Parse(CpuInfo("cpu family"), CultureInfo.InvariantCulture),
            ["iommu"] = Iommu(drives[0]),
            ["functions"] = PciTree.Describe(drives.ToDictionary(d => d.Address, d => d.Role)),
        });
        if (arguments is ["pool"])
        {
            new PoolCases(records, drives.First(d => d.IsProvider).Folder).Ask();
        }

        PciTopology live = TopologyView.OfMachine().Topology;
        bool isAgreed = true;
        MapTypeProbe.Start();
        byte* memory = Libc.mmap(
            null, Bytes, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED | Libc.MAP_ANONYMOUS, -1, 0);
        Span<byte> staging = new(memory, Bytes);
        foreach (Drive provider in drives.Where(d => d.IsProvider))
        {
            foreach (Drive client in drives)
            {
                JsonObject pair = Pair(provider, client, staging, memory);
                isAgreed &= Hold(live, provider, client, pair);
                records.Add(pair);
            }
        }

        return isAgreed ? ExitCodes.Done : ExitCodes.Failed;
    }

    // The route as `wayleave topo --live` and `explain --live` would print it, from what sysfs says in this guest.
    private static bool Hold(PciTopology live, Drive provider, Drive client, JsonObject pair)
    {
        PeerVerdict verdict = PeerPath.Calculate(live, live.Find(provider.Address)!, live.Find(client.Address)!);
        string ours = verdict.MapType switch
        {
            PeerMapType.NotSupported => "not-supported",
            PeerMapType.BusAddress => "bus-address",
            PeerMapType.ThroughHostBridge => "through-host-bridge",
            _ => verdict.MapType.ToString(),
        };
        pair["live_map_type"] = ours;
        pair["live_distance"] = verdict.Distance;
        bool isAgreed = ours == (string?)pair["map_type"] && verdict.Distance == (int?)pair["distance"];
        if (!isAgreed)
        {
            Console.Error.WriteLine(
                $"{provider.Role} to {client.Role}: {ours} {verdict.Distance} of sysfs, the kernel {pair["map_type"]} "
                + $"{pair["distance"]}: {verdict.Refusal}");
        }

        return isAgreed;
    }

    private static JsonObject Pair(Drive provider, Drive client, Span<byte> staging, byte* staged)
    {
        int seed = provider.Role.Sum(c => c) * 31 + client.Role.Sum(c => c);
        int drive = Check(Libc.open(client.Device, Libc.O_RDWR | Libc.O_DIRECT | Libc.O_CLOEXEC), client.Device);
        Fill(staging, seed);
        Check((int)Libc.pwrite(drive, staged, Bytes, 0), "write of the pattern");

        int allocate = Check(
            Libc.open($"{provider.Folder}/p2pmem/allocate", Libc.O_RDWR | Libc.O_CLOEXEC), "p2pmem/allocate");
        byte* window = Libc.mmap(null, Bytes, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, allocate, 0);
        Check(window == Libc.MapFailed ? -1 : 0, "mmap of p2pmem/allocate");
        Span<byte> peer = new(window, Bytes);
        peer.Fill(0xa5);

        MapTypeProbe.Take();
        nint read = Libc.pread(drive, window, Bytes, 0);
        int readErrno = read < 0 ? Libc.Errno : 0;
        bool isReadRight = read == Bytes && IsFilled(peer, seed);
        (string Type, int Distance)? route = MapTypeProbe.Take();

        Fill(peer[..Block], seed + 1);
        nint written = Libc.pwrite(drive, window, Block, WriteOffset);
        int writeErrno = written < 0 ? Libc.Errno : 0;
        bool isWriteRight = false;
        if (written == Block)
        {
            staging.Clear();
            Check((int)Libc.pread(drive, staged, Block, WriteOffset), "read back");
            isWriteRight = IsFilled(staging[..Block], seed + 1);
        }

        Libc.munmap(window, Bytes);
        Libc.close(allocate);
        Libc.close(drive);
        return new JsonObject
        {
            ["record"] = "pair",
            ["boot"] = Records.Boot,
            ["provider"] = provider.Role,
            ["client"] = client.Role,
            ["map_type"] = route?.Type,
            ["distance"] = route?.Distance,
            ["verdict"] = readErrno != 0 ? "refused" : isReadRight && isWriteRight ? "works" : "corrupts",
            ["read_errno"] = readErrno,
            ["read_content_ok"] = isReadRight,
            ["write_errno"] = writeErrno,
            ["write_content_ok"] = isWriteRight,
        };
    }

    private static int Check(int result, string what) => result >= 0
        ? result
        : throw new IOException($"{what}: errno {Libc.Errno}");

    private static void Fill(Span<byte> target, int seed)
    {
        for (int i = 0; i < target.Length; i++)
        {
            target[i] = Pattern(i, seed);
        }
    }

    private static bool IsFilled(ReadOnlySpan<byte> bytes, int seed)
    {
        for (int i = 0; i < bytes.Length; i++)
        {
            if (bytes[i] != Pattern(i, seed))
            {
                return false;
            }
        }

        return true;
    }

    // No period that a page or a block has.
    private static byte Pattern(int index, int seed) =>
        (byte)((uint)((index * 31) + (index >> 8) + seed) * 2654435761u >> 24);

    private static string CpuInfo(string key) => File.ReadLines("/proc/cpuinfo")
        .First(l => l.StartsWith(key, StringComparison.Ordinal)).Split(':')[1].Trim();

    private static string Iommu(Drive drive)
    {
        string type = $"{drive.Folder}/iommu_group/type";
        return !File.Exists(type) ? "off" : File.ReadAllText(type).Trim() switch
        {
            "identity" => "pass-through",
            "DMA" => "strict",
            "DMA-FQ" => "lazy",
            string other => other,
        };
    }

    /// <summary>A drive, and whether its controller memory is published for peers.</summary>
    private sealed record Drive(string Role, string Folder, string Address, string Device, bool IsProvider)
    {
        internal static Drive Read(string controller)
        {
            // .../0000:03:00.0/nvme/nvme2
            FileSystemInfo target = new DirectoryInfo(controller).ResolveLinkTarget(returnFinalTarget: true)!;
            string folder = Path.GetFullPath(Path.Combine(target.FullName, "../.."));
            string published = $"{folder}/p2pmem/published";
            return new Drive(
                File.ReadAllText($"{controller}/serial").Trim(), folder, Path.GetFileName(folder),
                $"/dev/{Path.GetFileName(controller)}n1",
                File.Exists(published) && File.ReadAllText(published).Trim() == "1");
        }
    }
}
