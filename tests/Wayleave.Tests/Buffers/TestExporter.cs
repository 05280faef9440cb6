using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Tests.Buffers;

/// <summary>An exporter that does what it is told and writes down what it was asked.</summary>
internal sealed class TestExporter(StorageKind storage = StorageKind.Movable) : IExporter
{
    public string Name => "exporter";

    public StorageKind Storage { get; } = storage;

    public List<string> Calls { get; } = [];

    public int PinCount { get; private set; }

    public Errno AttachResult { get; set; }

    public Errno PinResult { get; set; }

    public Errno MapResult { get; set; }

    public bool MapsNothing { get; set; }

    public bool ClearsPeerToPeer { get; set; }

    public bool? SeenPeerToPeer { get; private set; }

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
        addresses = maps ? new DmaAddressList([new DeviceRange(new DeviceAddress(0x1000), 0x1000)]) : null;
        return MapResult;
    }

    public void Unmap(Attachment attachment, DmaAddressList addresses) => Calls.Add("unmap");

    public void Release(SharedBuffer buffer) => Calls.Add("release");
}
