using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// One host with one GPU whose memory holds exactly one buffer, and the users of that buffer: whoever gets the memory
/// next gets the same bytes, so that anything late is seen.
/// </summary>
internal sealed class World
{
    /// <summary>Enough where one byte says it all.</summary>
    public const int SmallBufferBytes = 64;

    private readonly List<User> _users = [];
    private readonly byte[] _vram;
    private readonly byte[] _system;
    private int _running; // actors that must end before those who serve them do

    public World(
        Choices choices, GpuOptions? options = null, int bufferBytes = SmallBufferBytes, VirtualClock? clock = null)
    {
        Story = new Story(choices);
        BufferBytes = bufferBytes;
        _vram = new byte[bufferBytes];
        _system = new byte[bufferBytes];
        Clock = clock ?? new VirtualClock();
        Host = new HostContext(Clock, choices.IsTold ? Story : null);
        using (Host.Enter())
        {
            GpuOptions small =
                (options ?? new GpuOptions()) with { GranularityBytes = BufferBytes, CopyBlockBytes = BlockBytes };
            Gpu = new GpuDevice(Host, Fabric, new PciFunction("0000:01:00.0", "gpu0"), small, [_vram], [_system]);
            Require(
                Errno.Success,
                Gpu.TryCreate(new GpuBufferInfo("lent", (ulong)BufferBytes, StorageKind.Movable), out GpuBuffer? lent));
            Lent = lent!;
        }

        Gpu.CopyEngine.Drive(int.MaxValue); // it is cleared before anybody acts
    }

    /// <summary>The buffer, all of VRAM, and all of system memory: two blocks of the copy engine.</summary>
    public int BufferBytes { get; }

    public int BlockBytes => BufferBytes / 2;

    public VirtualClock Clock { get; }

    /// <summary>What the steps of a told run did.</summary>
    public Story Story { get; }

    public HostContext Host { get; }

    public PciFabric Fabric { get; } = new();

    public GpuDevice Gpu { get; }

    public GpuBuffer Lent { get; }

    /// <summary>The buffers of the next owner.</summary>
    public List<GpuBuffer> Next { get; } = [];

    /// <summary>What the buffers of the next owner hold at the end: zeros, or its own bytes.</summary>
    public byte Expected { get; set; }

    public IReadOnlyList<User> Users => _users;

    public User AddUser(string name, ImporterKind kind, int offset, ImporterFaults? faults = null)
    {
        using (Host.Enter())
        {
            User user = new(this, new SimulatedImporter(Host, Fabric, Lent.Shared, name, kind, faults), offset);
            _users.Add(user);
            return user;
        }
    }

    /// <summary>Whether the copy engine has something to do.</summary>
    public bool CanStep => Gpu.CopyEngine.HasReadyJob;

    /// <summary>Whether an actor that is no service has steps left.</summary>
    public bool IsRunning => _running > 0;

    public Scenario ToScenario(params ReadOnlySpan<(string Name, IEnumerable<Step> Steps)> actors) =>
        ToScenario([], actors);

    /// <param name="services">Serve the others: they end when those have ended and nothing is left to do.</param>
    /// <param name="actors">The others.</param>
    public Scenario ToScenario(
        IReadOnlyList<Service> services, params ReadOnlySpan<(string Name, IEnumerable<Step> Steps)> actors)
    {
        List<Actor> all = [];
        foreach ((string name, IEnumerable<Step> steps) in actors)
        {
            _running++;
            all.Add(new Actor(name, Counted(steps)));
        }

        all.Add(new Actor("engine", Serve(new Service("engine", () => CanStep, StepEngine))));
        all.AddRange(services.Select(s => new Actor(s.Name, Serve(s))));
        Story.Take();
        return new Scenario(all, Check, Fingerprint, CheckEnd, Story.Take);
    }

    /// <summary>The next owner takes memory, waits until it is cleared, and reads it.</summary>
    /// <param name="domain">Where.</param>
    /// <param name="name">Of the next owner's buffer; null for one named after the place.</param>
    public IEnumerable<Step> HandOut(GpuDomain domain, string? name = null)
    {
        yield return new($"hand out {domain}", () => Gpu.Memory(domain).FreeBytes == (ulong)BufferBytes);
        GpuBuffer? next;
        using (Host.Enter())
        {
            GpuBufferInfo info = new(name ?? $"next {domain}", (ulong)BufferBytes, StorageKind.Static, domain);
            Require(Errno.Success, Gpu.TryCreate(info, out next));
        }

        Next.Add(next!);
        yield return new("read it", () => IsIdle(next!));
        Require(next!, expected: 0);
    }

    /// <summary>
    /// Throws when the memory at an address is not the lent buffer's: what a device would corrupt or leak.
    /// </summary>
    public void RequireLent(string user, DeviceAddress address)
    {
        MemoryBlock? block = Gpu.Memory(GpuDomain.Vram).Blocks.Concat(Gpu.Memory(GpuDomain.System).Blocks)
            .FirstOrDefault(b => b.Range.Contains(address, 1));
        if (block?.Owner != Lent.Shared.Name)
        {
            throw new ViolationException(
                $"{user} reaches {address}, which belongs to {block?.Owner ?? "nobody"}");
        }
    }

    public bool IsIdle(GpuBuffer buffer)
    {
        using (Host.Enter())
        {
            return buffer.Shared.Reservation.TestSignaled(ReservationUsage.Kernel);
        }
    }

    /// <summary>The byte at an offset of a buffer, wherever the buffer is.</summary>
    public byte Peek(GpuBuffer buffer, int offset) =>
        (buffer.Placement.Domain == GpuDomain.Vram ? _vram : _system)[offset];

    /// <summary>Fills a buffer, wherever it is. Nobody else uses it.</summary>
    public void Fill(GpuBuffer buffer, byte value) =>
        (buffer.Placement.Domain == GpuDomain.Vram ? _vram : _system).AsSpan().Fill(value);

    public static void Require(Errno expected, Errno errno)
    {
        if (errno != expected)
        {
            throw new ViolationException($"{errno} instead of {expected}");
        }
    }

    private IEnumerable<Step> Counted(IEnumerable<Step> steps)
    {
        foreach (Step step in steps)
        {
            yield return step;
        }

        _running--;
    }

    private IEnumerable<Step> Serve(Service service)
    {
        while (true)
        {
            yield return new("serve", () => service.HasWork() || _running == 0);
            if (!service.HasWork())
            {
                yield break;
            }

            service.Work();
        }
    }

    private void StepEngine()
    {
        Gpu.CopyEngine.TryEnter();
        Gpu.CopyEngine.Step();
        Gpu.CopyEngine.Exit();
    }

    private void Check()
    {
        Contracts.Require(Host, ViolationKind.LateUnmap); // an owner may lose patience with a user
        if (Lent.Freeing?.State != RevokeState.Retired)
        {
            return;
        }

        foreach (User user in _users)
        {
            if (user.IsInside)
            {
                throw new ViolationException(
                    $"{user.Name} is inside after a proof of grade {Lent.Freeing.Proof!.Grade}");
            }
        }
    }

    private void CheckEnd()
    {
        foreach (User user in _users)
        {
            user.CheckEnd();
        }

        foreach (GpuBuffer next in Next)
        {
            Require(next, Expected);
        }
    }

    private void Require(GpuBuffer buffer, byte expected)
    {
        for (int offset = 0; offset < BufferBytes; offset++)
        {
            if (Peek(buffer, offset) is byte found && found != expected)
            {
                throw new ViolationException(
                    $"'{buffer.Shared.Name}' holds 0x{found:x2} of the old user at {offset}");
            }
        }
    }

    private ulong Fingerprint()
    {
        StateHash hash = new();
        AddTo(ref hash);
        return hash.Value;
    }

    /// <summary>Adds everything a later step can see; who waits for what follows from it.</summary>
    public void AddTo(ref StateHash hash)
    {
        foreach (byte b in _vram)
        {
            hash.Add(b);
        }

        foreach (byte b in _system)
        {
            hash.Add(b);
        }

        foreach (GpuDomain domain in Enum.GetValues<GpuDomain>())
        {
            foreach (MemoryBlock block in Gpu.Memory(domain).Blocks)
            {
                hash.Add((ulong)block.State);
                hash.Add((ulong)(block.Owner?.Length ?? 0));
            }
        }

        foreach (CopyJob job in Gpu.CopyEngine.Jobs)
        {
            hash.Add(Gpu.CopyEngine.DoneBytes(job) + 1);
            hash.Add((job.IsReady ? 1UL : 0) + (job.IsCanceled ? 2UL : 0) + (job.Source is null ? 4UL : 0));
            hash.Add(job.Fence.Context);
        }

        hash.Add((ulong)Lent.Placement.Domain);
        hash.Add((ulong)Lent.PinCount);
        hash.Add((ulong)(Lent.Freeing?.State ?? (RevokeState)9));
        hash.Add((ulong)Clock.Now.Ticks);
        hash.Add(Lent.Shared.Reservation.Owner?.Stamp ?? 0);
        using (Host.Enter())
        {
            foreach (Fence fence in Lent.Shared.Reservation.GetFences(ReservationUsage.Bookkeep))
            {
                hash.Add(fence.Context);
                hash.Add((fence.IsSignaled ? 1UL : 0) + (fence.IsForced ? 2UL : 0) + (fence.HasEnded ? 4UL : 0));
            }
        }

        foreach (User user in _users)
        {
            user.AddTo(ref hash);
        }
    }
}
