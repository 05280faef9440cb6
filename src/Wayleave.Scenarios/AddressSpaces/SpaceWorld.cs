using System.Numerics;
using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

/// <summary>
/// A machine of few pages and one process whose memory devices mirror: what the scenarios of address spaces share.
/// </summary>
internal sealed class SpaceWorld
{
    public const int Page = PageFrame.SizeBytes;
    private const int MachinePages = 6;

    private readonly List<SimulatedMirror> _devices = [];
    private readonly List<AddressSpace> _children = [];

    /// <param name="choices">Of this run.</param>
    /// <param name="pages">Of the process's memory.</param>
    /// <param name="defences">All but the one that a broken variant is about.</param>
    /// <param name="isHuge">The memory is one folio, if the number of pages is a power of two.</param>
    public SpaceWorld(
        Choices choices, int pages, CoreDefences defences = CoreDefences.All, bool isHuge = false)
    {
        Story = new Story(choices);
        Host = new HostContext(Clock, choices.IsTold ? Story : null) { Defences = defences };
        using (Host.Enter())
        {
            Memory = new MemorySystem(Host, swapPages: MachinePages)
            {
                HugeOrder = BitOperations.Log2((uint)pages),
            };
            Memory.AddMemory(new byte[MachinePages * Page]);
            Space = new AddressSpace(Memory, "process");
            MapOperation map = Space.Map(
                new RegionRequest { LengthBytes = (ulong)(pages * Page), UsesHugePages = isHuge });
            Finish(map);
            Range = map.Addresses;
        }
    }

    public Story Story { get; }

    public VirtualClock Clock { get; } = new();

    public HostContext Host { get; }

    public MemorySystem Memory { get; }

    public AddressSpace Space { get; }

    public AddressRange Range { get; }

    /// <summary>A device that mirrors the process's memory and has as much of its own.</summary>
    public SimulatedMirror AddDevice(string name, MirrorFaults? faults = null)
    {
        using (Host.Enter())
        {
            SimulatedMirror device = new(Space, Range, name, faults);
            device.AddMemory((int)(Range.LengthBytes / Page));
            _devices.Add(device);
            return device;
        }
    }

    /// <summary>
    /// A store of the process that takes as many faults as it takes and no time; before the actors start.
    /// </summary>
    public void Store(ulong offset, byte value)
    {
        using (Host.Enter())
        {
            Finish(Space.Write(Range.Start + offset, new[] { value }));
        }
    }

    /// <summary>Runs what takes no time and must go well; before the actors start.</summary>
    public void FinishNow(Func<SpaceOperation> start)
    {
        using (Host.Enter())
        {
            Finish(start());
        }
    }

    /// <summary>Drives a store of the process.</summary>
    public IEnumerable<Step> Write(ulong offset, byte value)
    {
        AccessOperation operation = Locked(() => Space.Write(Range.Start + offset, new[] { value }));
        return Complete(operation);
    }

    /// <summary>Drives an operation that must go well.</summary>
    public IEnumerable<Step> Complete(SpaceOperation operation)
    {
        foreach (Step step in operation.Drive(Host))
        {
            yield return step;
        }

        World.Require(Errno.Success, operation.Errno);
    }

    /// <summary>What the process reads there now; for the end, when nobody else is at work.</summary>
    public byte Load(ulong offset)
    {
        byte[] bytes = new byte[1];
        using (Host.Enter())
        {
            AccessOperation load = Space.Read(Range.Start + offset, bytes);
            while (!load.Proceed())
            {
                if (!_devices.Exists(d => d.IsCopying))
                {
                    throw new ViolationException($"the process waits for ever at '{load.Next}'");
                }

                FinishCopies();
            }

            World.Require(Errno.Success, load.Errno);
        }

        return bytes[0];
    }

    /// <summary>
    /// The copy engine of a device: ends each copy some time after it began, until everybody else is done.
    /// </summary>
    public IEnumerable<Step> Engine(SimulatedMirror device, Func<bool> isOver)
    {
        while (true)
        {
            yield return new Step("end the copy", () => device.IsCopying || isOver());
            if (!device.IsCopying)
            {
                yield break;
            }

            Locked(() => device.FinishCopy());
        }
    }

    public void NoteChild(AddressSpace child) => _children.Add(child);

    /// <summary>
    /// Whatever is left of all processes ends; then nothing may be anybody's, and no rule was broken.
    /// </summary>
    public void ExpectNothingLeft()
    {
        using (Host.Enter())
        {
            foreach (AddressSpace space in (AddressSpace[])[Space, .. _children])
            {
                if (!space.IsDead)
                {
                    Finish(space.Exit());
                }
            }

            if (Memory.FreePages != Memory.PageCount || Memory.SwapUsed != 0)
            {
                throw new ViolationException(
                    $"{Memory.PageCount - Memory.FreePages} pages are still somebody's when every process has ended");
            }

            foreach (SimulatedMirror device in _devices)
            {
                if (device.Memory!.FreePages != device.Memory.PageCount)
                {
                    throw new ViolationException($"pages of {device.Name} are still somebody's");
                }
            }

            if (Host.Checker.Violations is [{ } first, ..])
            {
                throw new ViolationException(first.ToString());
            }
        }
    }

    public T Locked<T>(Func<T> action)
    {
        using (Host.Enter())
        {
            return action();
        }
    }

    public void Locked(Action action)
    {
        using (Host.Enter())
        {
            action();
        }
    }

    public Scenario ToScenario(Action atEnd, params ReadOnlySpan<(string Name, IEnumerable<Step> Steps)> actors)
    {
        List<Actor> all = [];
        foreach ((string name, IEnumerable<Step> steps) in actors)
        {
            all.Add(new Actor(name, steps));
        }

        Story.Take();
        return new Scenario(all, Invariant: () => { }, AtEnd: atEnd, Narrate: Story.Take);
    }

    private void FinishCopies()
    {
        foreach (SimulatedMirror device in _devices)
        {
            device.FinishCopy();
        }
    }

    private static void Finish(SpaceOperation operation)
    {
        if (!operation.Proceed())
        {
            throw new ViolationException($"{operation.Activity.Label} waits at '{operation.Next}'");
        }

        World.Require(Errno.Success, operation.Errno);
    }
}
