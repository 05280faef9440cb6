using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// Two devices, each with memory of its own, want the same page. What one device has, the other gets through the
// machine's memory (hmm_range_fault faults a foreign private page home); each fault of one is an invalidation of the
// other.

/// <summary>Two devices migrate one page and write to it.</summary>
internal static class TwoDevicesOnePage
{
    public static NamedScenario Scenario { get; } = new(
        "two-devices-one-page",
        "Two devices migrate the same page to themselves and write a byte of it each, twice; what each wrote last is "
        + "there in the end.",
        c => Build(c, new MirrorFaults()),
        [
            new("entry-kept", "A device keeps its entry for a page that migrates away.",
                c => Build(c, new MirrorFaults { Zaps = false })),
            new("drain-not-awaited", "The callback returns while the device is still writing.",
                c => Build(c, new MirrorFaults { Drains = false })),
        ])
    {
        Defence = "before a page migrates every other device's entry is gone and its access has ended",
        Orders = OrderSource.Priorities,
    };

    private static Scenario Build(Choices choices, MirrorFaults faults)
    {
        SpaceWorld world = new(choices, pages: 1);
        world.Store(0, 1);
        SimulatedMirror one = world.AddDevice("one", faults);
        SimulatedMirror two = world.AddDevice("two");
        return world.ToScenario(
            atEnd: () =>
            {
                byte[] seen = [world.Load(0), world.Load(1), world.Load(2)];
                if (!seen.AsSpan().SequenceEqual((byte[])[1, 0xB1, 0xB2]))
                {
                    throw new ViolationException($"the page holds {Convert.ToHexString(seen)} instead of 01B1B2");
                }

                world.ExpectNothingLeft();
            },
            ("one", Work(world, one, 1)),
            ("two", Work(world, two, 2)));
    }

    private static IEnumerable<Step> Work(SpaceWorld world, SimulatedMirror device, byte number)
    {
        MigrateOperation migrate =
            world.Locked(() => world.Space.MigrateToDevice(world.Range, device.Memory!));
        foreach (Step step in migrate.Drive(world.Host))
        {
            yield return step;
        }

        for (int round = 0; round < 2; round++)
        {
            SimulatedMirror.Access? access = null;
            while (!world.Locked(() => device.TryEnter(world.Range.Start + number, isWrite: true, out access)))
            {
                foreach (Step step in world.Locked(() => device.Fault(world.Range, isWrite: true)).Drive(world.Host))
                {
                    yield return step;
                }
            }

            yield return "write";
            world.Locked(() => device.Exit(access!, default, [(byte)(0xA0 + number + (round * 16))]));
        }
    }
}
