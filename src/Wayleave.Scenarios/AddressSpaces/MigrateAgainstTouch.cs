using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// migrate_vma step by step against the fault that brings a page home (migrate_to_ram), with a copy engine that takes
// its time. A page is in one of two places or on its way; whoever touches it on its way waits for the lock of the page.

/// <summary>A driver migrates pages that their process uses.</summary>
internal static class MigrateAgainstTouch
{
    public static NamedScenario Scenario { get; } = new(
        "migrate-against-touch",
        "A driver migrates two pages to its device while the process writes to one and reads the other; nothing that "
        + "was written is lost, in whichever place a page is.",
        c => Build(c, new MirrorFaults()),
        [
            new("copy-not-awaited", "The driver says that the pages were copied before its engine has begun.",
                c => Build(c, new MirrorFaults { WaitsForCopy = false })),
        ])
    {
        Defence = "a page on its way is locked and in no page table, and the copy's fence is awaited",
    };

    private static Scenario Build(Choices choices, MirrorFaults faults)
    {
        SpaceWorld world = new(choices, pages: 2);
        world.Store(0, 1);
        world.Store(SpaceWorld.Page, 2);
        SimulatedMirror device = world.AddDevice("device", faults);
        device.CopiesAtOnce = false;
        int running = 2;
        return world.ToScenario(
            atEnd: () =>
            {
                byte first = world.Load(0), second = world.Load(SpaceWorld.Page);
                if ((first, second) != (7, 2))
                {
                    throw new ViolationException($"the process reads {first} and {second} where it wrote 7 and 2");
                }

                world.ExpectNothingLeft();
            },
            ("driver", Then(Migrate(world, device), () => running--)),
            ("process", Then(Touch(world), () => running--)),
            ("engine", world.Engine(device, () => running == 0)));
    }

    internal static IEnumerable<Step> Then(IEnumerable<Step> steps, Action end)
    {
        foreach (Step step in steps)
        {
            yield return step;
        }

        end();
    }

    private static IEnumerable<Step> Touch(SpaceWorld world)
    {
        foreach (Step step in world.Write(0, 7))
        {
            yield return step;
        }

        byte[] second = new byte[1];
        AccessOperation load = world.Locked(() => world.Space.Read(world.Range.Start + SpaceWorld.Page, second));
        foreach (Step step in world.Complete(load))
        {
            yield return step;
        }

        if (second[0] != 2)
        {
            throw new ViolationException($"the process reads {second[0]} where it wrote 2");
        }
    }

    private static IEnumerable<Step> Migrate(SpaceWorld world, SimulatedMirror device)
    {
        MigrateOperation migrate =
            world.Locked(() => world.Space.MigrateToDevice(world.Range, device.Memory!));
        return migrate.Drive(world.Host);
    }
}
