using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// migrate_device_unmap drops a page from the set that somebody holds: whoever holds it knows its address, and nobody
// can tell him that it moved. What he writes where it was would be lost.
//
// Faithful: pins, references, and the steps of the migration are the shipped ones, and the switches are inside them.

/// <summary>A driver migrates a page that a NIC holds.</summary>
internal static class MigrateAgainstHold
{
    private const byte Landed = 0x99;

    public static NamedScenario Scenario { get; } = new(
        "migrate-against-hold",
        "A driver migrates a page to its device while a NIC gets hold of it, a packet lands in it, and the NIC lets "
        + "go; the process finds the packet, wherever the page is.",
        c => Build(c, PinMode.Get),
        [
            new("not-isolated", "The migration does not look whether somebody else has the page.",
                c => Build(c, PinMode.Get, CoreDefences.All & ~CoreDefences.IsolatesPages)),
            new("not-counted", "A hold is not counted in the page.",
                c => Build(c, PinMode.Get, CoreDefences.All & ~CoreDefences.CountsPins)),
            new("pin-not-counted", "A pin is not counted in the page.",
                c => Build(c, PinMode.Pin, CoreDefences.All & ~CoreDefences.CountsPins)),
        ])
    {
        Defence = "a page that somebody holds stays, and one on its way is given to nobody",
    };

    private static Scenario Build(Choices choices, PinMode how, CoreDefences defences = CoreDefences.All)
    {
        SpaceWorld world = new(choices, pages: 1, defences);
        world.Store(0, 1);
        SimulatedMirror device = world.AddDevice("device");
        device.CopiesAtOnce = false;
        int running = 2;
        MigrateOperation migrate = world.Locked(() => world.Space.MigrateToDevice(world.Range, device.Memory!));
        return world.ToScenario(
            atEnd: () =>
            {
                if (world.Load(0) is var found && found != Landed)
                {
                    throw new ViolationException($"the process reads {found:x2} where the packet landed");
                }

                world.ExpectNothingLeft();
            },
            ("driver", MigrateAgainstTouch.Then(migrate.Drive(world.Host), () => running--)),
            ("nic", MigrateAgainstTouch.Then(Hold(world, how), () => running--)),
            ("engine", world.Engine(device, () => running == 0)));
    }

    private static IEnumerable<Step> Hold(SpaceWorld world, PinMode how)
    {
        PinOperation hold = world.Locked(() => world.Space.Pin(world.Range, how | PinMode.Write));
        foreach (Step step in hold.Drive(world.Host))
        {
            yield return step;
        }

        World.Require(Errno.Success, hold.Errno);
        PinnedPages pages = hold.Result!;
        yield return "a packet lands";
        pages.Frames[0].Bytes.Span[0] = Landed;
        yield return "let go";
        world.Locked(() => pages.Release(areDirty: true));
    }
}
