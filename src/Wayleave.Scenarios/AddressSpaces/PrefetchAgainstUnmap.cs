using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// ibv_advise_mr against munmap and a new mmap of the same address, on a region that pages on demand. The port's packet
// enters the gate of the translation it found, and leaves some time later, as a port thread that was preempted.
//
// Faithful: the region, its list of addresses, the gate, the notifier, the prefetch and the unmap are the shipped ones.
// Not faithful: one actor is the port, and its packet is an access to the translation without a wire.

/// <summary>A NIC prefetches memory that its process gives back.</summary>
internal static class PrefetchAgainstUnmap
{
    private const byte Old = 0x11;
    private const byte Others = 0x22;

    public static NamedScenario Scenario { get; } = new(
        "prefetch-against-unmap",
        "A process unmaps a page and another process gets it while a NIC prefetches the page and a packet reads it; no "
        + "packet finds what belongs to the other.",
        c => Build(c, entersGate: true),
        [
            new("gate-not-entered", "The port uses the translation without entering its gate.",
                c => Build(c, entersGate: false)),
        ])
    {
        Defence = "the unmap waits for the packet inside, and a prefetch that came too late looks again",
    };

    private static Scenario Build(Choices choices, bool entersGate)
    {
        Story story = new(choices);
        HostContext host = new(new VirtualClock(), choices.IsTold ? story : null);
        PciFabric fabric = new();
        RdmaDevice nic = new(
            host, fabric, new PciFunction("0000:03:00.0", "rdma0"), new RdmaDeviceOptions(), new Keys());
        ProtectionDomain domain = nic.CreateProtectionDomain();
        byte[] bytes = new byte[PageFrame.SizeBytes]; // one page: whoever comes next gets it
        MemorySystem memory;
        AddressSpace space, other;
        AddressRange range;
        MemoryRegion region;
        using (host.Enter())
        {
            Core.Topology.MemoryWindow window = fabric.AddWindow(bytes, owner: null);
            memory = new MemorySystem(host);
            memory.AddMemory(bytes, window.Range.Start);
            (space, other) = (new AddressSpace(memory, "process"), new AddressSpace(memory, "other"));
            range = Map(space);
            Map(other);
            Finish(space.Write(range.Start, new[] { Old }));
            region = RegionRegistration.Start(
                nic, domain,
                new SpaceRegionRequest(
                    space, range, range.Start, AccessFlags.RemoteRead | AccessFlags.OnDemand)).Region!;
            Finish(space.Discard(range)); // out of the NIC's reach again, and the page is free
            Finish(space.Write(range.Start, new[] { Old }));
        }

        story.Take();
        return new Scenario(
            [
                new Actor("process", GiveAway(host, space, other, range)),
                new Actor("user", Prefetch(host, nic, domain, region, range)),
                new Actor("port", Read(region, new DmaPort(nic.Function), entersGate)),
            ],
            Invariant: () => { },
            AtEnd: () =>
            {
                if (host.Checker.Violations is [{ } first, ..])
                {
                    throw new ViolationException(first.ToString());
                }
            },
            Narrate: story.Take);
    }

    private static IEnumerable<Step> GiveAway(
        HostContext host, AddressSpace space, AddressSpace other, AddressRange range)
    {
        ChangeOperation unmap;
        AccessOperation write;
        using (host.Enter())
        {
            unmap = space.Unmap(range);
            write = other.Write(other.Regions[0].Addresses.Start, new[] { Others });
        }

        foreach (Step step in unmap.Drive(host))
        {
            yield return step;
        }

        foreach (Step step in write.Drive(host))
        {
            yield return step;
        }

        World.Require(Errno.Success, unmap.Errno);
        World.Require(Errno.Success, write.Errno);
    }

    private static IEnumerable<Step> Prefetch(
        HostContext host, RdmaDevice nic, ProtectionDomain domain, MemoryRegion region, AddressRange range)
    {
        yield return "prefetch";
        bool hasEnded = false;
        using (host.Enter())
        {
            RegionAdvice.Advise(
                nic, domain, AdviceKind.Prefetch,
                [new Sge(range.Start, PageFrame.SizeBytes, region.Key)],
                _ => hasEnded = true);
        }

        yield return new("the prefetch has ended", () => hasEnded); // well, or because the page is gone
    }

    private static IEnumerable<Step> Read(MemoryRegion region, DmaPort port, bool entersGate)
    {
        for (int packet = 0; packet < 3; packet++)
        {
            yield return "a packet comes";
            Translation translation = region.Current!;
            if (entersGate && !translation.Gate.TryEnter())
            {
                continue;
            }

            yield return "its bytes are read";
            Look(translation, port);
            if (entersGate)
            {
                translation.Gate.Exit();
            }
        }
    }

    private static void Look(Translation translation, DmaPort port)
    {
        bool isOthers = translation.Addresses.TryLocate(0, out DeviceAddress address, out _)
            && port.TryRead(address, 1, out ReadOnlySpan<byte> bytes) == Errno.Success && bytes[0] != Old;
        if (isOthers)
        {
            throw new ViolationException("a packet reads what belongs to another process");
        }
    }

    private static AddressRange Map(AddressSpace space)
    {
        MapOperation map = space.Map(new RegionRequest { LengthBytes = PageFrame.SizeBytes });
        Finish(map);
        return map.Addresses;
    }

    private static void Finish(SpaceOperation operation)
    {
        operation.Proceed();
        World.Require(Errno.Success, operation.Errno);
    }

    private sealed class Keys : IKeySource
    {
        private uint _next = 0x100;

        public uint NextUInt32() => _next += 0x100;
    }
}
