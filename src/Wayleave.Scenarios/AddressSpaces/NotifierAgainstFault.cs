using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

// The sequence protocol of mmu_notifier.c with a driver as Documentation/mm/hmm.rst has it: begin to read, fault, take
// the lock, ask for a retry, program. Against it the process throws the page away and writes to the new one.
//
// Faithful: rounds, the sequence, the walk, the retry, the drain of an access under way are the shipped ones.
// Not faithful: the device's page table is a dictionary, and its access takes two steps.

/// <summary>A process takes a page away from a device that is about to map it.</summary>
internal static class NotifierAgainstFault
{
    public static NamedScenario Scenario { get; } = new(
        "notifier-against-fault",
        "A process discards a page and writes to its successor while a device faults on it and reads; the device never "
        + "touches a page that was given away and never reads what was overwritten.",
        c => Build(c, new MirrorFaults()),
        [
            new("sequence-not-set", "The device's callback does not say that what was read before is stale.",
                c => Build(c, new MirrorFaults { SetsSequence = false })),
            new("retry-not-asked", "The driver programs what it saw, without asking whether it still holds.",
                c => Build(c, new MirrorFaults { AsksForRetry = false })),
            new("entry-kept", "The device keeps its entry for the page.",
                c => Build(c, new MirrorFaults { Zaps = false })),
            new("retry-not-made", "The loop around the look goes on although the range was invalidated.",
                c => Build(c, new MirrorFaults(), CoreDefences.All & ~CoreDefences.RetriesMirrors)),
            new("drain-not-awaited", "The callback returns while the device is still reading.",
                c => Build(c, new MirrorFaults { Drains = false })),
        ])
    {
        Defence = "the sequence is compared under the lock that the callback takes, and an access under way is awaited",
    };

    private static Scenario Build(
        Choices choices, MirrorFaults faults, CoreDefences defences = CoreDefences.All)
    {
        SpaceWorld world = new(choices, pages: 1, defences);
        world.Store(0, 1);
        SimulatedMirror device = world.AddDevice("device", faults);
        Allowed allowed = new(1);
        return world.ToScenario(
            atEnd: () => Require(world.Load(0), 2),
            ("process", Discard(world, allowed)),
            ("device", Read(world, device, allowed, rounds: 2)));
    }

    private static IEnumerable<Step> Discard(SpaceWorld world, Allowed allowed)
    {
        allowed.Add(0);
        ChangeOperation discard = world.Locked(() => world.Space.Discard(world.Range));
        foreach (Step step in world.Complete(discard))
        {
            yield return step;
        }

        allowed.Only(0);
        allowed.Add(2);
        foreach (Step step in world.Write(0, 2))
        {
            yield return step;
        }

        allowed.Only(2);
    }

    private static IEnumerable<Step> Read(SpaceWorld world, SimulatedMirror device, Allowed allowed, int rounds)
    {
        for (int round = 0; round < rounds; round++)
        {
            SimulatedMirror.Access? access;
            while (!Enter(world, device, allowed, out access))
            {
                SpaceOperation fault = world.Locked(() => device.Fault(world.Range, isWrite: false));
                foreach (Step step in fault.Drive(world.Host))
                {
                    yield return step;
                }

                if (fault.Errno == Core.Errno.Success)
                {
                    yield return "use what was seen";
                    world.Locked(device.ProgramUnasked);
                }
            }

            yield return "end the access";
            byte[] seen = new byte[1];
            world.Locked(() => device.Exit(access!, seen, default));
            allowed.Check(seen[0]);
        }
    }

    private static bool Enter(
        SpaceWorld world, SimulatedMirror device, Allowed allowed, out SimulatedMirror.Access? access)
    {
        using (world.Host.Enter())
        {
            allowed.Begin();
            return device.TryEnter(world.Range.Start, isWrite: false, out access);
        }
    }

    private static void Require(byte actual, byte expected)
    {
        if (actual != expected)
        {
            throw new ViolationException($"the process reads {actual} where it wrote {expected}");
        }
    }

    /// <summary>What a read may find: whatever the page held at some time between its begin and its end.</summary>
    private sealed class Allowed(byte first)
    {
        private readonly List<byte> _now = [first];
        private readonly List<byte> _during = [];

        public void Add(byte value)
        {
            _now.Add(value);
            _during.Add(value);
        }

        public void Only(byte value)
        {
            _now.Clear();
            _now.Add(value);
        }

        public void Begin()
        {
            _during.Clear();
            _during.AddRange(_now);
        }

        public void Check(byte seen)
        {
            if (!_during.Contains(seen))
            {
                throw new ViolationException($"the device reads {seen}, which the page no longer holds");
            }
        }
    }
}
