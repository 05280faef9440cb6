using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.TakeBack;

/// <summary>The other machine: it WRITEs messages, each of one byte over and over, under the keys it is told.</summary>
internal sealed class TakeBackPeer
{
    private readonly HostContext _host;
    private readonly AddressRange _source;
    private readonly AddressSpace _space;
    private readonly MemoryRegion _region;
    private readonly Dictionary<ulong, int> _slots = []; // of WRITEs into the process's memory that are under way
    private readonly int _messageBytes;

    public TakeBackPeer(TakeBackOptions options, VirtualClock clock)
    {
        _messageBytes = options.MessageBytes;
        _host = new HostContext(clock);
        PciFabric fabric = new();
        int pages = options.Depth * options.MessageBytes / PageFrame.SizeBytes;
        byte[] bytes = new byte[pages * PageFrame.SizeBytes];
        using (_host.Enter())
        {
            MemorySystem memory = new(_host);
            memory.AddMemory(bytes, fabric.AddWindow(bytes, owner: null).Range.Start);
            _space = new AddressSpace(memory, "peer");
            MapOperation map = _space.Map(new RegionRequest { LengthBytes = (ulong)bytes.Length });
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

        Depth = options.Depth;
        Written = new byte[options.Slots];
    }

    public RdmaEnd Nic { get; }

    public int Depth { get; }

    /// <summary>WRITEs that have not completed.</summary>
    public int UnderWay { get; private set; }

    /// <summary>The byte of the last message that completed in each slot of the process's memory.</summary>
    public byte[] Written { get; }

    /// <summary>Even messages go into the process's memory, odd ones into the landing buffer.</summary>
    public void Post(TakeBackMachine machine, int number)
    {
        ulong local = _source.Start + (ulong)(number % Depth * _messageBytes);
        byte value = (byte)((number % 255) + 1);
        byte[] bytes = new byte[_messageBytes];
        Array.Fill(bytes, value);
        using (_host.Enter())
        {
            if (!_space.TryWriteNow(local, bytes))
            {
                throw new InvalidOperationException("pinned memory is not there");
            }
        }

        ulong id = ((ulong)number << 8) + value;
        bool isIntoMemory = number % 2 == 0;
        int slot = number / 2 % Written.Length;
        (uint key, ulong address) = isIntoMemory
            ? (machine.UserRegion.Key, machine.User.Start + machine.InputOffset(slot))
            : (machine.LandingRegion.Key, 0UL);
        if (isIntoMemory)
        {
            _slots[id] = slot;
        }

        World.Require(Errno.Success, Nic.TryPostWrite(id, _region, local, key, address, _messageBytes));
        UnderWay++;
    }

    /// <summary>Takes the next completion. False: it failed, and the queue pair with it.</summary>
    public bool TakeCompletion(TakeBackCounts counts)
    {
        WorkCompletion completion = Nic.Poll();
        UnderWay--;
        _slots.Remove(completion.WrId, out int slot);
        if (completion.Status == WorkCompletionStatus.Success)
        {
            counts.WrittenBytes += _messageBytes;
            if ((completion.WrId >> 8) % 2 == 0)
            {
                Written[slot] = (byte)completion.WrId;
            }

            return true;
        }

        counts.FailedMessages++;
        return false;
    }
}
