using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// A process dies in the middle of everything: a device reads its memory, pages are on their way to another, a NIC has
// one pinned, and memory is short. exit_mmap tells every mirror, waits for the lock, clears the entries; a pin outlives
// the process until its holder lets go.

/// <summary>A process ends while devices use its memory.</summary>
internal static class ExitAgainstAll
{
    public static NamedScenario Scenario { get; } = new(
        "exit-against-all",
        "A process ends while a device faults and writes, pages migrate, a NIC holds a pin and reclaim runs; everybody "
        + "ends, nobody touches a page of somebody else, and in the end no page is anybody's.",
        c => Build(c, new MirrorFaults()),
        [
            new("drain-not-awaited", "The callback returns while the device is still writing.",
                c => Build(c, new MirrorFaults { Drains = false })),
            new("entry-kept", "The device keeps its entries of a process that has ended.",
                c => Build(c, new MirrorFaults { Zaps = false })),
            new("reclaim-tells-nobody", "Pages are reclaimed without a word to the devices that mirror them.",
                c => Build(c, new MirrorFaults(), defences: CoreDefences.All & ~CoreDefences.TellsBeforeReclaim)),
            new("pin-kept", "The NIC's driver does not let go when the process has ended.",
                c => Build(c, new MirrorFaults(), releasesPin: false)),
        ])
    {
        Defence = "mirrors are told before entries go, whoever works on entries holds the lock, pins are counted",
        Orders = OrderSource.Priorities,
    };

    private static Scenario Build(
        Choices choices,
        MirrorFaults faults,
        bool releasesPin = true,
        CoreDefences defences = CoreDefences.All)
    {
        SpaceWorld world = new(choices, pages: 2, defences);
        world.Store(0, 1);
        world.Store(SpaceWorld.Page, 2);
        SimulatedMirror device = world.AddDevice("device", faults);
        SimulatedMirror other = world.AddDevice("other");
        other.CopiesAtOnce = false;
        int running = 5;
        void End() => running--;
        ExitOperation exit = world.Locked(() => world.Space.Exit());
        MigrateOperation migrate = world.Locked(() => world.Space.MigrateToDevice(world.Range, other.Memory!));
        ReclaimOperation reclaim = world.Locked(() => world.Memory.Reclaim(1));
        return world.ToScenario(
            world.ExpectNothingLeft,
            ("process", MigrateAgainstTouch.Then(world.Complete(exit), End)),
            ("device", MigrateAgainstTouch.Then(Write(world, device), End)),
            ("driver", MigrateAgainstTouch.Then(migrate.Drive(world.Host), End)),
            ("nic", MigrateAgainstTouch.Then(Pin(world, releasesPin), End)),
            ("reclaim", MigrateAgainstTouch.Then(reclaim.Drive(world.Host), End)),
            ("engine", world.Engine(other, () => running == 0)));
    }

    private static IEnumerable<Step> Write(SpaceWorld world, SimulatedMirror device)
    {
        for (byte round = 0; round < 2; round++)
        {
            SimulatedMirror.Access? access = null;
            while (!world.Locked(() => device.TryEnter(world.Range.Start, isWrite: true, out access)))
            {
                SpaceOperation fault = world.Locked(() => device.Fault(world.Range, isWrite: true));
                foreach (Step step in fault.Drive(world.Host))
                {
                    yield return step;
                }

                if (fault.Errno != Core.Errno.Success)
                {
                    yield break; // the process has ended
                }
            }

            yield return "write";
            byte value = (byte)(0xD1 + round);
            world.Locked(() => device.Exit(access!, default, [value]));
        }
    }

    private static IEnumerable<Step> Pin(SpaceWorld world, bool releasesPin)
    {
        PinOperation pin = world.Locked(() => world.Space.Pin(world.Range, PinMode.Pin | PinMode.Write));
        foreach (Step step in pin.Drive(world.Host))
        {
            yield return step;
        }

        if (pin.Result is not { } pages)
        {
            yield break; // the process has ended
        }

        yield return "a packet lands";
        pages.Frames[0].Bytes.Span[9] = 0x99;
        yield return "let go";
        if (releasesPin)
        {
            world.Locked(() => pages.Release(areDirty: true));
        }
    }
}
