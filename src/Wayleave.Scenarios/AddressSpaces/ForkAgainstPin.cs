using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// Why pin_user_pages is not get_user_pages: a fork makes private pages shared, and the first store of the parent gives
// the parent a new page. A device that holds the old one writes where nobody looks. A pin says that the page must stay
// the parent's, so the child gets its copy at once (copy_present_page, since 5.9).

/// <summary>A process forks while a NIC has one of its pages.</summary>
internal static class ForkAgainstPin
{
    public static NamedScenario Scenario { get; } = new(
        "fork-against-pin",
        "A NIC pins a page of a process that forks and goes on writing; the NIC and the parent see each other's bytes "
        + "in the same page, the child sees neither.",
        c => Build(c, PinMode.Pin | PinMode.LongTerm | PinMode.Write),
        [
            new("reference-only", "The NIC takes a reference instead of a pin.",
                c => Build(c, PinMode.Get | PinMode.Write)),
        ])
    {
        Defence = "a fork copies pinned pages for the child at once",
    };

    private static Scenario Build(Choices choices, PinMode mode)
    {
        SpaceWorld world = new(choices, pages: 1);
        world.Store(0, 1);
        PinOperation pin = world.Locked(() => world.Space.Pin(world.Range, mode));
        ForkOperation fork = world.Locked(() => world.Space.Fork("child"));
        return world.ToScenario(
            atEnd: () => CheckEnd(world, pin, fork),
            ("nic", Use(world, pin)),
            ("process", ForkAndWrite(world, fork)));
    }

    private static IEnumerable<Step> Use(SpaceWorld world, PinOperation pin)
    {
        foreach (Step step in world.Complete(pin))
        {
            yield return step;
        }

        yield return "the packet lands";
        pin.Result!.Frames[0].Bytes.Span[1] = 0x77;
    }

    private static IEnumerable<Step> ForkAndWrite(SpaceWorld world, ForkOperation fork)
    {
        foreach (Step step in world.Complete(fork))
        {
            yield return step;
        }

        world.NoteChild(fork.Child!);
        foreach (Step step in world.Write(2, 0x22))
        {
            yield return step;
        }
    }

    private static void CheckEnd(SpaceWorld world, PinOperation pin, ForkOperation fork)
    {
        byte packet = world.Load(1);
        byte sent = pin.Result!.Frames[0].Bytes.Span[2];
        if ((packet, sent) != (0x77, 0x22))
        {
            throw new ViolationException(
                $"the process reads 0x{packet:x2} where the packet landed, and the NIC would send 0x{sent:x2}");
        }

        byte[] child = new byte[3];
        world.Locked(() =>
        {
            AccessOperation load = fork.Child!.Read(world.Range.Start, child);
            load.Proceed();
            pin.Result.Release(areDirty: true);
        });
        if (child[0] != 1 || child[2] != 0)
        {
            throw new ViolationException("the child sees what its parent wrote after the fork");
        }

        world.ExpectNothingLeft();
    }
}
