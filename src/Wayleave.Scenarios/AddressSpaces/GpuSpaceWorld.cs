using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.AddressSpaces;

/// <summary>
/// A machine of few pages, one process, and a GPU that reaches the process's memory where it is, at
/// <see cref="Va"/> of its own addresses.
/// </summary>
internal sealed class GpuSpaceWorld
{
    public const ulong Va = 0x10_0000;
    private const int Page = PageFrame.SizeBytes;
    private const int MachinePages = 8;

    private readonly byte[] _bytes = new byte[MachinePages * Page];
    private readonly DeviceAddress _start;
    private readonly byte[] _vram = new byte[4 * Page];
    private readonly byte[] _system = new byte[Page];

    public GpuSpaceWorld(
        Choices choices,
        GpuOptions options,
        int pages,
        GpuUserMemory mode = GpuUserMemory.Fault,
        CoreDefences defences = CoreDefences.All)
    {
        Story = new Story(choices);
        Host = new HostContext(Clock, choices.IsTold ? Story : null) { Defences = defences };
        using (Host.Enter())
        {
            _start = Fabric.AddWindow(_bytes, owner: null).Range.Start;
            Memory = new MemorySystem(Host, swapPages: MachinePages);
            Memory.AddMemory(_bytes, _start);
            Space = new AddressSpace(Memory, "process");
            MapOperation map = Space.Map(new RegionRequest { LengthBytes = (ulong)(pages * Page) });
            Finish(map);
            Range = map.Addresses;
            GpuOptions small = options with { GranularityBytes = Page };
            Gpu = new GpuDevice(
                Host, Fabric, new PciFunction("0000:01:00.0", "gpu0"), small, [_vram], [_system]);
            Process = Gpu.OpenProcess("process");
            World.Require(
                Errno.Success,
                Process.TryOpenUserPointer(Space, Range, GpuAccess.ReadWrite, out uint handle, mode));
            Handle = handle;
            World.Require(
                Errno.Success, Process.Memory.TryMap(Va, handle, 0, Range.LengthBytes, GpuAccess.ReadWrite));
        }
    }

    public Story Story { get; }

    public VirtualClock Clock { get; } = new();

    public HostContext Host { get; }

    public PciFabric Fabric { get; } = new();

    public MemorySystem Memory { get; }

    public AddressSpace Space { get; }

    public AddressRange Range { get; }

    public GpuDevice Gpu { get; }

    public GpuProcess Process { get; }

    public uint Handle { get; }

    /// <summary>Of <see cref="Range"/>; only where it may fault.</summary>
    public MirrorBinding Mirror => (MirrorBinding)Process.Find(Handle)!;

    /// <summary>Set by a scenario that wants to know.</summary>
    public bool DiscardedBeforeLastBlock { get; set; }

    /// <summary>A word of the process's memory, before the actors start.</summary>
    public void Store(ulong offset, uint value)
    {
        using (Host.Enter())
        {
            Finish(Space.Write(Range.Start + offset, BitConverter.GetBytes(value)));
        }
    }

    /// <summary>As <see cref="Store"/>, a page of them.</summary>
    public void Fill(ulong page, uint value)
    {
        for (ulong at = 0; at < Page; at += 4)
        {
            Store((page * Page) + at, value);
        }
    }

    /// <summary>What the process reads there now, wherever it is; for the end.</summary>
    public uint Load(ulong offset)
    {
        byte[] bytes = new byte[4];
        AccessOperation load = Locked(() => Space.Read(Range.Start + offset, bytes));
        if (!Locked(load.Proceed))
        {
            Gpu.CopyEngine.Drive(int.MaxValue); // it is to come home
        }

        Locked(() => Finish(load));
        return BitConverter.ToUInt32(bytes);
    }

    /// <summary>VRAM that pages of the process migrate to when its queues fault on them.</summary>
    public void SetAside(int pages) => World.Require(
        Errno.Success, Locked(() => GpuProcessMemory.TryCreate(Gpu, Memory, (ulong)(pages * Page), out _)));

    /// <summary>The process ends; then no page is anybody's, in either place.</summary>
    public void ExpectNothingLeft()
    {
        Locked(Process.Close);
        Gpu.ComputeEngine.Drive(int.MaxValue);
        using (Host.Enter())
        {
            Finish(Space.Exit());
            if (Memory.FreePages != Memory.PageCount || Memory.SwapUsed != 0)
            {
                throw new ViolationException($"{Memory.PageCount - Memory.FreePages} pages are still somebody's");
            }

            if (Gpu.ProcessMemory is { Pages: { } pages } && pages.FreePages != pages.PageCount)
            {
                throw new ViolationException($"{pages.PageCount - pages.FreePages} pages of VRAM are still somebody's");
            }
        }

        ExpectNoViolation();
    }

    public IEnumerable<Step> Write(ulong offset, uint value) =>
        Complete(Locked(() => Space.Write(Range.Start + offset, BitConverter.GetBytes(value))));

    /// <summary>Drives an operation that must go well.</summary>
    public IEnumerable<Step> Complete(SpaceOperation operation)
    {
        foreach (Step step in operation.Drive(Host))
        {
            yield return step;
        }

        World.Require(Errno.Success, operation.Errno);
    }

    /// <summary>The frame that answers at an address.</summary>
    public PageFrame FrameAt(DeviceAddress address)
    {
        PageFrame? found = null;
        using (Host.Enter())
        {
            for (PageFrame? frame = Memory.Oldest; frame is not null; frame = frame.NewerUsed)
            {
                found = frame.Address.Value == (address.Value & ~(ulong)(Page - 1)) ? frame : found;
            }
        }

        return found ?? throw new ViolationException($"the GPU has an entry for {address}, which is nobody's page");
    }

    /// <summary>A buffer of one page at an address of the process.</summary>
    public GpuBuffer MapBuffer(string name, ulong address)
    {
        GpuBuffer? buffer;
        using (Host.Enter())
        {
            World.Require(Errno.Success, Gpu.TryCreate(new GpuBufferInfo(name, Page, StorageKind.Movable), out buffer));
            World.Require(Errno.Success, Process.TryOpen(buffer!.Shared, GpuAccess.ReadWrite, out uint handle));
            World.Require(Errno.Success, Process.Memory.TryMap(address, handle, 0, Page, GpuAccess.ReadWrite));
        }

        Gpu.CopyEngine.Drive(int.MaxValue);
        return buffer;
    }

    /// <summary>Throws unless every word of a buffer is that.</summary>
    public void RequireFilled(GpuBuffer buffer, uint value)
    {
        DeviceRange range = buffer.Placement.LocalAddresses.Entries[0];
        World.Require(
            Errno.Success,
            new DmaPort(Gpu.Function).TryRead(range.Start, Page, out ReadOnlySpan<byte> bytes));
        for (int at = 0; at < Page; at += 4)
        {
            if (BitConverter.ToUInt32(bytes[at..]) is var found && found != value)
            {
                throw new ViolationException($"the buffer holds {found:x} at {at}, and {value:x} was written there");
            }
        }
    }

    /// <summary>The copy engine: one block each step.</summary>
    public IEnumerable<Step> CopyEngine(Func<bool> isOver)
    {
        while (true)
        {
            yield return new Step("copy a block", () => Gpu.CopyEngine.HasReadyJob || isOver());
            if (!Gpu.CopyEngine.HasReadyJob)
            {
                yield break;
            }

            Gpu.CopyEngine.TryEnter();
            Gpu.CopyEngine.Step();
            Gpu.CopyEngine.Exit();
        }
    }

    /// <summary>A ring in VRAM with these commands, and a queue that runs it.</summary>
    public UserQueue StartQueue(ulong ringVa, params ReadOnlySpan<GpuCommand> commands) =>
        StartQueue(GpuEngineKind.Compute, ringVa, commands);

    /// <summary>As the other, of an engine.</summary>
    public UserQueue StartQueue(GpuEngineKind engine, ulong ringVa, params ReadOnlySpan<GpuCommand> commands)
    {
        UserQueue queue = AddQueue(engine, ringVa, commands);
        Locked(Process.Eviction.Start);
        return queue;
    }

    /// <summary>As the other; it runs when the process's queues are started, with what is mapped by then.</summary>
    public UserQueue AddQueue(GpuEngineKind engine, ulong ringVa, params ReadOnlySpan<GpuCommand> commands)
    {
        GpuBuffer? ring;
        using (Host.Enter())
        {
            World.Require(
                Errno.Success,
                Gpu.TryCreate(new GpuBufferInfo("ring", Page, StorageKind.Movable), out ring));
            World.Require(Errno.Success, Process.TryOpen(ring!.Shared, GpuAccess.ReadWrite, out uint handle));
            World.Require(Errno.Success, Process.Memory.TryMap(ringVa, handle, 0, Page, GpuAccess.ReadWrite));
        }

        Gpu.CopyEngine.Drive(int.MaxValue);
        DeviceAddress start = ring.Placement.LocalAddresses.Entries[0].Start;
        World.Require(Errno.Success, new DmaPort(Gpu.Function).TryWrite(start, Page, out Span<byte> slots));
        for (int i = 0; i < commands.Length; i++)
        {
            commands[i].Write(slots[(i * GpuCommand.SizeBytes)..]);
        }

        UserQueue? queue;
        using (Host.Enter())
        {
            World.Require(
                Errno.Success,
                Process.TryCreateUserQueue("queue", ringVa, 64, out queue, GpuPriority.Normal, engine));
        }

        queue!.RingDoorbell((ulong)commands.Length);
        return queue;
    }

    /// <summary>The compute engine: one block each step.</summary>
    public IEnumerable<Step> Engine(Func<bool> isOver) => Engine(GpuEngineKind.Compute, isOver);

    /// <summary>One of the engines: one block each step.</summary>
    public IEnumerable<Step> Engine(GpuEngineKind kind, Func<bool> isOver)
    {
        QueueEngine engine = kind == GpuEngineKind.Copy ? Gpu.CopyQueueEngine : Gpu.ComputeEngine;
        while (true)
        {
            yield return new Step("run a block", () => engine.HasReadyJob || isOver());
            if (!engine.HasReadyJob)
            {
                yield break;
            }

            engine.TryEnter();
            engine.Step();
            engine.Exit();
        }
    }

    /// <summary>Who serves faults: one step after the other, one fault after the other.</summary>
    public IEnumerable<Step> ServeFaults(Func<bool> isOver)
    {
        while (true)
        {
            yield return new Step("take a fault", () => Process.Faults.PendingCount > 0 || isOver());
            GpuFault? fault = null;
            if (!Locked(() => Process.Faults.TryTake(out fault)))
            {
                yield break;
            }

            SpaceOperation? operation = Locked(() => fault!.Start());
            if (operation is not null)
            {
                foreach (Step step in operation.Drive(Host))
                {
                    yield return step;
                }
            }

            Locked(() => fault!.End(operation));
        }
    }

    public void ExpectNoViolation()
    {
        if (Host.Checker.Violations is [{ } first, ..])
        {
            throw new ViolationException(first.ToString());
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

    public Scenario ToScenario(Action atEnd, params ReadOnlySpan<(string Name, IEnumerable<Step> Steps)> actors) =>
        ToScenario(atEnd, invariant: () => { }, actors);

    /// <summary>As the other, with what is true after each step.</summary>
    public Scenario ToScenario(
        Action atEnd, Action invariant, params ReadOnlySpan<(string Name, IEnumerable<Step> Steps)> actors)
    {
        List<Actor> all = [];
        foreach ((string name, IEnumerable<Step> steps) in actors)
        {
            all.Add(new Actor(name, steps));
        }

        Story.Take();
        return new Scenario(all, Invariant: invariant, AtEnd: atEnd, Narrate: Story.Take);
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
