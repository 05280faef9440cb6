using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Tests.Buffers;

/// <summary>An exporter that does what it is told and writes down what it was asked.</summary>
internal sealed class TestExporter(StorageKind storage = StorageKind.Movable)
    : IPinningExporter, ICpuAccessExporter, IVmapExporter, IMmapExporter
{
    private readonly byte[] _bytes = new byte[0x1000];

    public string Name => "exporter";

    public StorageKind Storage { get; } = storage;

    public List<string> Calls { get; } = [];

    public int PinCount { get; private set; }

    public Errno AttachResult { get; set; }

    public Errno PinResult { get; set; }

    public Errno MapResult { get; set; }

    public Errno CpuAccessResult { get; set; }

    public Errno VmapResult { get; set; }

    public Errno MmapResult { get; set; }

    public Errno UnrevokeResult { get; set; }

    public bool MapsNothing { get; set; }

    /// <summary>How long the list of a map is.</summary>
    public ulong MappedBytes { get; set; } = 0x1000;

    public bool ClearsPeerToPeer { get; set; }

    public bool? SeenPeerToPeer { get; private set; }

    /// <summary>A last move that the next pin begins.</summary>
    public Action? Pinning { get; set; }

    /// <summary>Work of its own that an access of the processor has to wait for.</summary>
    public Fence? CpuWork { get; set; }

    public Errno Attach(Attachment attachment)
    {
        Calls.Add("attach");
        SeenPeerToPeer = attachment.PeerToPeer;
        attachment.PeerToPeer &= !ClearsPeerToPeer;
        return AttachResult;
    }

    public void Detach(Attachment attachment) => Calls.Add("detach");

    public Errno Pin(Attachment attachment)
    {
        Calls.Add("pin");
        PinCount += PinResult == Errno.Success ? 1 : 0;
        (Action? pinning, Pinning) = (Pinning, null);
        pinning?.Invoke();
        return PinResult;
    }

    public void Unpin(Attachment attachment)
    {
        Calls.Add("unpin");
        PinCount--;
    }

    public Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        Calls.Add("map");
        bool maps = MapResult == Errno.Success && !MapsNothing;
        addresses = maps ? new DmaAddressList([new DeviceRange(new DeviceAddress(0x1000), MappedBytes)]) : null;
        return MapResult;
    }

    public void Unmap(Attachment attachment, DmaAddressList addresses) => Calls.Add("unmap");

    public void Release(SharedBuffer buffer) => Calls.Add("release");

    public Errno Unrevoke(SharedBuffer buffer)
    {
        Calls.Add("unrevoke");
        return UnrevokeResult;
    }

    public Errno BeginCpuAccess(CpuAccess access, out CacheMaintenance maintenance, out Fence? work)
    {
        Calls.Add($"begin {access.Direction}");
        maintenance = access.Reads ? CacheMaintenance.InvalidateBeforeRead : CacheMaintenance.None;
        work = CpuWork;
        return CpuAccessResult;
    }

    public Errno EndCpuAccess(CpuAccess access, out CacheMaintenance maintenance)
    {
        Calls.Add($"end {access.Direction}");
        maintenance = access.Writes ? CacheMaintenance.CleanAfterWrite : CacheMaintenance.None;
        return CpuAccessResult;
    }

    public Errno Vmap(SharedBuffer buffer, out Memory<byte> memory)
    {
        Calls.Add("vmap");
        memory = VmapResult == Errno.Success ? _bytes : default(Memory<byte>);
        return VmapResult;
    }

    public void Vunmap(SharedBuffer buffer) => Calls.Add("vunmap");

    public Errno Mmap(CpuMapping mapping)
    {
        Calls.Add("mmap");
        return MmapResult;
    }

    public void Munmap(CpuMapping mapping) => Calls.Add("munmap");
}

/// <summary>An exporter that leaves out everything it may.</summary>
internal sealed class BareExporter(StorageKind storage = StorageKind.Static) : IExporter
{
    public string Name => "bare exporter";

    public StorageKind Storage { get; } = storage;

    public int Releases { get; private set; }

    public Errno Attach(Attachment attachment) => Errno.Success;

    public void Detach(Attachment attachment)
    {
        // Nothing depends on who is attached.
    }

    public Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        addresses =
            new DmaAddressList([new DeviceRange(new DeviceAddress(0x1000), attachment.Buffer.SizeBytes)]);
        return Errno.Success;
    }

    public void Unmap(Attachment attachment, DmaAddressList addresses)
    {
        // One place for ever.
    }

    public void Release(SharedBuffer buffer) => Releases++;
}
