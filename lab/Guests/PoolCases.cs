using System.Globalization;
using System.Text.Json.Nodes;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Lab.Interop;
using Wayleave.Linux.Pci;
using Wayleave.Scenarios.Conformance;
using Wayleave.Simulation;

namespace Wayleave.Lab.Guests;

/// <summary>
/// What a process may do with the pool of a drive: asked by system calls, then lent and taken back by the product's
/// adapter.
/// </summary>
internal sealed class PoolCases(Records records, string folder)
{
    private const int Bytes = 65536;

    private string _part = "";

    /// <summary>Asks everything of one function's pool.</summary>
    internal void Ask()
    {
        _part = "common";
        new PoolConformance(new SysfsPool(folder), Step).Run();
        _part = "adapter";
        string address = Path.GetFileName(folder);
        Lend(PeerMemoryFile.List().Single(f => f.Address == address));
    }

    private void Step(string name, string what, string result) => records.Add(new JsonObject
    {
        ["record"] = "pool",
        ["boot"] = Records.Boot,
        ["case"] = name,
        ["part"] = _part,
        ["do"] = what,
        ["result"] = result,
    });

    // A device of ours maps what is lent, writes, and is cut off; then the pages are the kernel's again.
    private void Lend(PeerMemoryFile file)
    {
        HostContext host = new(TimeProvider.System);
        PciFabric fabric = new();
        ulong before = file.AvailableBytes;
        Step("P2P-02", "size is that of the sysfs file", Yes(file.SizeBytes == SysfsPool.Read(folder, "size")));
        Step("P2P-04", "published", Yes(file.IsPublished));
        Step("P2P-21", "a page more than there is", file.TryAllocate((int)file.SizeBytes + 4096, out _).ToString());
        using HostContext.Scope held = host.Enter();
        KernelPeerMemory owner = new(host, fabric, file);
        Errno errno = owner.TryLend("lab", Bytes, out SharedBuffer? buffer);
        Step("P2P-25", "lend 16 pages", KernelResult.Name((int)errno) is "Success" ? "ok" : errno.ToString());
        Step("P2P-25", "pages that are missing", Missing(file, before));
        owner.TryGetMemory(buffer!, out Memory<byte> memory);
        Step("P2P-25", "the bytes are zero", Yes(!memory.Span.ContainsAnyExcept((byte)0)));
        SimulatedImporter importer = new(host, fabric, buffer!, "device");
        Locked(host, buffer!, ticket => AdapterDevices.Required(importer.MapLocked(ticket), "map"));
        importer.TryPublish();
        Translation mapped = importer.Current!;
        mapped.Addresses.TryLocate(0, out DeviceAddress at, out _);
        importer.Port.TryWrite(at, Bytes, out Span<byte> window);
        window.Fill(0x5a);
        Step("P2P-25", "what the device writes is in the mapping", Yes(!memory.Span.ContainsAnyExcept((byte)0x5a)));

        RevokeOperation operation = owner.TakeBack(buffer!, new RevokePolicy { Reason = "lab" });
        Step("P2P-25", "the device may go on after the take-back", Yes(mapped.Gate.TryEnter()));
        Step("P2P-25", "grade of the take-back", $"{operation.Proof?.Grade}");
        Step("P2P-25", "pages that are missing after it", Missing(file, before));
        Step("P2P-25", "its addresses answer", importer.Port.TryWrite(at, 1, out _).ToString());
    }

    private static void Locked(HostContext host, SharedBuffer buffer, Action<AcquireTicket> action)
    {
        AcquireTicket ticket = new(host, "lab");
        if (buffer.Reservation.TryLock(ticket).Kind != LockOutcomeKind.Acquired)
        {
            throw new InvalidOperationException("the reservation is held");
        }

        action(ticket);
        buffer.Reservation.Unlock(ticket);
    }

    private static string Missing(PeerMemoryFile file, ulong before) =>
        ((before - file.AvailableBytes) / PeerPool.PageBytes).ToString(CultureInfo.InvariantCulture);

    private static string Yes(bool isSo) => isSo ? "yes" : "no";

    /// <summary>The kernel's pool by system calls.</summary>
    private sealed unsafe class SysfsPool(string folder) : IPoolBackend
    {
        public ulong SizeBytes => Read(folder, "size");

        public ulong AvailableBytes => Read(folder, "available");

        public IDisposable? TryMap(ulong lengthBytes, bool isShared, ulong offset, out string result)
        {
            int file = KernelResult.Required(
                Libc.open($"{folder}/p2pmem/allocate", Libc.O_RDWR | Libc.O_CLOEXEC), "p2pmem/allocate");
            byte* mapped = Libc.mmap(
                null, (nuint)lengthBytes, Libc.PROT_READ | Libc.PROT_WRITE,
                isShared ? Libc.MAP_SHARED : Libc.MAP_PRIVATE, file, (long)offset);
            result = KernelResult.Ok(mapped == Libc.MapFailed ? -1 : 0);
            Libc.close(file);
            return mapped == Libc.MapFailed ? null : new Mapping((nint)mapped, (nuint)lengthBytes);
        }

        internal static ulong Read(string folder, string name) =>
            ulong.Parse(File.ReadAllText($"{folder}/p2pmem/{name}"), CultureInfo.InvariantCulture);

        private sealed class Mapping(nint start, nuint length) : IDisposable
        {
            public void Dispose() => Libc.munmap((byte*)start, length);
        }
    }
}
