using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Scenarios.TakeBack;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

/// <summary>Another host: it WRITEs messages of one byte over and over from memory that is always there.</summary>
internal sealed class RegionPressurePeer
{
    private const int Bytes = RegionPressureWorld.Bytes;

    private readonly HostContext _host;
    private readonly AddressSpace _space;
    private readonly AddressRange _source;
    private readonly MemoryRegion _region;

    public RegionPressurePeer(VirtualClock clock)
    {
        _host = new HostContext(clock);
        PciFabric fabric = new();
        byte[] bytes = new byte[Bytes];
        using (_host.Enter())
        {
            MemorySystem memory = new(_host);
            memory.AddMemory(bytes, fabric.AddWindow(bytes, owner: null).Range.Start);
            _space = new AddressSpace(memory, "peer");
            MapOperation map = _space.Map(new RegionRequest { LengthBytes = Bytes });
            map.Proceed();
            _source = map.Addresses;
        }

        Nic = new RdmaEnd(_host, clock, fabric, new PciFunction("0000:03:00.0", "rdma0"), 0x0A4D0001, seed: 1);
        using (_host.Enter())
        {
            RegionRegistration registration = RegionRegistration.Start(
                Nic.Device, Nic.Domain,
                new SpaceRegionRequest(_space, _source, _source.Start, AccessFlags.LocalWrite));
            World.Require(Errno.Success, registration.Errno);
            _region = registration.Region!;
        }
    }

    public RdmaEnd Nic { get; }

    /// <summary>One message at a time: its bytes are read as its packets leave.</summary>
    public void Post((uint Key, ulong Address) target, byte value)
    {
        byte[] bytes = new byte[Bytes];
        Array.Fill(bytes, value);
        using (_host.Enter())
        {
            if (!_space.TryWriteNow(_source.Start, bytes))
            {
                throw new InvalidOperationException("pinned memory is not there");
            }
        }

        World.Require(
            Errno.Success, Nic.TryPostWrite(value, _region, _source.Start, target.Key, target.Address, Bytes));
    }
}
