using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// A folio has one lock, one entry and one copy. Who needs a single page splits it, also while it is on its way: the
// migration finds single pages then, each as locked as the folio was (split_folio, remove_migration_ptes). And who
// touches one page of it brings all home, so that mirrors must hear of all (migrate_to_ram with a large folio).
//
// Faithful: the folio, the steps and the splits are the shipped ones; the switches are inside them.

/// <summary>Folios that move while somebody needs one page of them.</summary>
internal static class FolioScenarios
{
    public static NamedScenario SplitAgainstMigrate { get; } = new(
        "split-against-migrate",
        "A driver migrates a folio of two pages to its device while the process gives one of them up and writes to it "
        + "again; both pages hold what was written last, and nothing stays locked.",
        c => Migrate(c),
        [
            new("split-not-followed", "The migration goes on as if the folio were still one.",
                c => Migrate(c, CoreDefences.All & ~CoreDefences.FollowsSplits)),
        ])
    {
        Defence = "a migration takes up the pages of a folio that was split on its way",
    };

    public static NamedScenario SplitAgainstFault { get; } = new(
        "split-against-fault",
        "A process touches one page of a folio that its device has and uses, while another thread gives the other page "
        + "up; the device touches nothing that is not the process's, and no byte is lost.",
        c => Fault(c),
        [
            new("one-page-told", "Mirrors hear of the page that was touched and not of the folio.",
                c => Fault(c, CoreDefences.All & ~CoreDefences.TellsOfFolios)),
            new("split-not-followed", "The way home goes on as if the folio were still one.",
                c => Fault(c, CoreDefences.All & ~CoreDefences.FollowsSplits)),
        ])
    {
        Defence = "the round covers the folio, and the way home takes up the pages of one that was split",
        Orders = OrderSource.Priorities,
    };

    private static Scenario Migrate(Choices choices, CoreDefences defences = CoreDefences.All)
    {
        SpaceWorld world = MakeFolio(choices, defences);
        SimulatedMirror device = world.AddDevice("device");
        device.CopiesAtOnce = false;
        int running = 2;
        MigrateOperation migrate =
            world.Locked(() => world.Space.MigrateToDevice(world.Range, device.Memory!));
        return world.ToScenario(
            atEnd: () => Expect(world, first: 7, second: 2),
            ("driver", MigrateAgainstTouch.Then(migrate.Drive(world.Host), () => running--)),
            ("process", MigrateAgainstTouch.Then(GiveUpAndWrite(world, 0), () => running--)),
            ("engine", world.Engine(device, () => running == 0)));
    }

    private static Scenario Fault(Choices choices, CoreDefences defences = CoreDefences.All)
    {
        SpaceWorld world = MakeFolio(choices, defences);
        SimulatedMirror device = world.AddDevice("device");
        world.FinishNow(() => world.Space.MigrateToDevice(world.Range, device.Memory!));
        world.FinishNow(() => device.Fault(world.Range, isWrite: false));
        device.CopiesAtOnce = false;
        int running = 2;
        return world.ToScenario(
            atEnd: () => Expect(world, first: 7, second: 9),
            ("process", MigrateAgainstTouch.Then(world.Write(0, 7), () => running--)),
            ("thread", MigrateAgainstTouch.Then(GiveUpAndWrite(world, SpaceWorld.Page, 9), () => running--)),
            ("device", Use(world, device)),
            ("engine", world.Engine(device, () => running == 0)));
    }

    private static SpaceWorld MakeFolio(Choices choices, CoreDefences defences)
    {
        SpaceWorld world = new(choices, pages: 2, defences, isHuge: true);
        world.Store(0, 1);
        world.Store(SpaceWorld.Page, 2);
        return world;
    }

    private static IEnumerable<Step> GiveUpAndWrite(SpaceWorld world, ulong offset, byte value = 7)
    {
        AddressRange page = new(world.Range.Start + offset, SpaceWorld.Page);
        foreach (Step step in world.Complete(world.Locked(() => world.Space.Discard(page))))
        {
            yield return step;
        }

        foreach (Step step in world.Write(offset, value))
        {
            yield return step;
        }
    }

    // Reads the second page where its table says that it is: what the callback took away is no longer there.
    private static IEnumerable<Step> Use(SpaceWorld world, SimulatedMirror device)
    {
        yield return "start a read";
        SimulatedMirror.Access? access = null;
        bool isInside = world.Locked(
            () => device.TryEnter(world.Range.Start + SpaceWorld.Page, isWrite: false, out access));
        if (isInside)
        {
            yield return "end the read";
            world.Locked(() => device.Exit(access!, new byte[1], []));
        }
    }

    private static void Expect(SpaceWorld world, byte first, byte second)
    {
        (byte, byte) found = (world.Load(0), world.Load(SpaceWorld.Page));
        if (found != (first, second))
        {
            throw new ViolationException($"the process reads {found} where it wrote {(first, second)}");
        }

        world.ExpectNothingLeft();
    }
}
