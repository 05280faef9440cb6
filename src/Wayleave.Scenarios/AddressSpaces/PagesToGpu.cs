using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// What a host does with "user_memory": "fault" and user_vram_bytes: a ring of the client faults, and the page migrates
// to VRAM by the copy engine. Meanwhile its process stores to the same page, which brings it home; a NIC's region on
// demand over it gets packets, and brings it home or reaches it in the BAR (private_pages); and the region is taken
// from the peer. Each of the three writes words of its own, so whatever is lost, was lost by a copy.
//
// Faithful: the queue with its faults, the mirrors of GPU and NIC, the migration, the copy engine, the way home, the
// region, its gate and its end are the shipped ones.
// Not faithful: a packet is an access to the region's translation without a wire, which may be preempted inside.

/// <summary>Pages of a client that migrate to a GPU, and everybody else who wants them.</summary>
internal static class PagesToGpu
{
    private const ulong RingVa = 0x20_0000;
    private const uint OfProcess = 0x11111111;
    private const uint OfGpu = 0x22222222;
    private const uint OfPacket = 0x33333333;
    private const ulong PacketAt = 8, GpuAt = 16; // the process has the first word

    public static NamedScenario Scenario { get; } = new(
        "pages-to-gpu",
        "Pages of a process migrate to a GPU whose ring faults on them, while the process stores to one, packets of a "
        + "NIC land in it, where it is or after it came home, and the NIC's region is taken back; nothing that was "
        + "written is lost, and no packet lands after that.",
        c => Build(c, CoreDefences.All, MirrorDefences.All),
        [
            new("gate-not-entered", "A packet uses the region's translation without entering its gate.",
                c => Build(c, CoreDefences.All, MirrorDefences.All, entersGate: false)),
            new("retry-not-made", "What GPU and NIC saw before an invalidation goes into their tables.",
                c => Build(c, CoreDefences.All & ~CoreDefences.RetriesMirrors, MirrorDefences.All)),
            new("entry-kept", "The GPU keeps its entry of a page that migrates.",
                c => Build(c, CoreDefences.All, MirrorDefences.All & ~MirrorDefences.ClearsEntries)),
        ])
    {
        Defence = "mirrors are told before a page is copied either way, the packet inside is awaited, and a fault that "
            + "came too late looks again",
        Orders = OrderSource.Priorities,
    };

    private static Scenario Build(
        Choices choices, CoreDefences core, MirrorDefences mirrors, bool entersGate = true)
    {
        bool isDirect = choices.Next(2) == 1;
        GpuSpaceWorld world = new(
            choices, new GpuOptions { MirrorDefences = mirrors, FaultAheadPages = 0, CopyBlockBytes = 2048 }, pages: 1,
            defences: core);
        world.SetAside(pages: 2);
        Packets packets = new(world, isDirect, entersGate);
        world.Store(0, 1);
        UserQueue queue = world.StartQueue(RingVa, Fill(GpuAt), Fill(GpuAt + 4));
        int running = 3;
        bool isOver() => running == 0 && (queue.Done == 2 || queue.IsLost) && world.Process.Faults.PendingCount == 0;
        return world.ToScenario(
            () =>
            {
                world.ExpectNoViolation();
                Expect(world, 0, OfProcess);
                Expect(world, PacketAt, packets.Landed);
                Expect(world, GpuAt, OfGpu);
                Expect(world, GpuAt + 4, OfGpu);
                world.ExpectNothingLeft();
            },
            ("process", MigrateAgainstTouch.Then(world.Write(0, OfProcess), () => running--)),
            ("port", MigrateAgainstTouch.Then(packets.Arrive(), () => running--)),
            ("owner", MigrateAgainstTouch.Then(packets.TakeBack(), () => running--)),
            ("engine", world.Engine(isOver)),
            ("faults", world.ServeFaults(isOver)),
            ("copies", world.CopyEngine(isOver)));
    }

    private static GpuCommand Fill(ulong at) =>
        new() { Opcode = GpuOpcode.Fill, Target = GpuSpaceWorld.Va + at, Count = 4, Value = OfGpu };

    private static void Expect(GpuSpaceWorld world, ulong at, uint value)
    {
        if (world.Load(at) is var found && found != value)
        {
            throw new ViolationException($"the page holds {found:x} at {at}, and {value:x} was written there");
        }
    }

    /// <summary>A NIC with a region on demand, and packets for it.</summary>
    private sealed class Packets
    {
        private const int PacketsMax = 3;

        private readonly GpuSpaceWorld _world;
        private readonly RdmaDevice _nic;
        private readonly ProtectionDomain _domain;
        private readonly MemoryRegion _region;
        private readonly DmaPort _port;
        private readonly bool _entersGate;
        private bool _isTakenBack;

        public Packets(GpuSpaceWorld world, bool isDirect, bool entersGate)
        {
            (_world, _entersGate) = (world, entersGate);
            _nic = new RdmaDevice(
                world.Host, world.Fabric, new PciFunction("0000:03:00.0", "rdma0"),
                new RdmaDeviceOptions { ReachesPrivatePages = isDirect }, new Keys());
            _port = new DmaPort(_nic.Function);
            _domain = _nic.CreateProtectionDomain();
            SpaceRegionRequest request = new(
                world.Space, world.Range, world.Range.Start,
                AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.OnDemand);
            _region = world.Locked(() => RegionRegistration.Start(_nic, _domain, request)).Region!;
        }

        /// <summary>What landed last; 0 while nothing has.</summary>
        public uint Landed { get; private set; }

        public IEnumerable<Step> Arrive()
        {
            for (int packet = 0; packet < PacketsMax; packet++)
            {
                yield return "a packet comes";
                if (_region.Current is not { } translation)
                {
                    yield break; // its key is dead
                }

                if (_entersGate && !translation.Gate.TryEnter())
                {
                    continue; // it comes again
                }

                DmaAddressList list = translation.Writable ?? translation.Addresses;
                if (list.TryLocate(PacketAt, out DeviceAddress address, out _)
                    && _port.TryWrite(address, 4, out _) == Errno.Success)
                {
                    yield return "its bytes land";
                    Land(address);
                    Leave(translation);
                    continue;
                }

                Leave(translation);
                bool hasEnded = false;
                Errno asked = _world.Locked(() => RegionAdvice.Advise(
                    _nic, _domain, AdviceKind.PrefetchWrite,
                    [new Sge(_world.Range.Start, PageFrame.SizeBytes, _region.Key)], _ => hasEnded = true));
                yield return new("the page is in reach", () => hasEnded || asked != Errno.Success);
            }
        }

        public IEnumerable<Step> TakeBack()
        {
            while (true)
            {
                yield return "take the region back";
                Fence? drain = null;
                World.Require(
                    Errno.Success, _world.Locked(() => RegionRegistration.TryDeregister(_nic, _region, out drain)));
                if (drain is null)
                {
                    _isTakenBack = true;
                    yield break;
                }

                yield return new("the packet inside has left", () => drain.IsSignaled);
            }
        }

        private void Land(DeviceAddress address)
        {
            if (_isTakenBack)
            {
                throw new ViolationException("a packet lands after the region was taken back");
            }

            World.Require(Errno.Success, _port.TryWrite(address, 4, out Span<byte> bytes));
            BitConverter.TryWriteBytes(bytes, OfPacket);
            Landed = OfPacket;
        }

        private void Leave(Translation translation)
        {
            if (_entersGate)
            {
                translation.Gate.Exit();
            }
        }
    }

    private sealed class Keys : IKeySource
    {
        private uint _next = 0x100;

        public uint NextUInt32() => _next += 0x100;
    }
}
