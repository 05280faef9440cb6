using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Xunit;

namespace Wayleave.Tests.Gpu.Compute;

/// <summary>
/// Queues of copies on an engine of their own: jobs with fences, and rings that may fault, beside the compute engine.
/// </summary>
public class CopyQueueTests
{
    private const ulong Page = ComputeFixture.Page;
    private const ulong ComputeRing = ComputeFixture.Va;
    private const ulong CopyRing = ComputeRing + Page;
    private const ulong Data = CopyRing + Page;
    private const ulong Mirror = 0x40_0000;

    private readonly ComputeFixture _f;
    private readonly GpuBuffer _computeRing;
    private readonly GpuBuffer _copyRing;
    private readonly GpuBuffer _data;
    private readonly UserQueue _compute;
    private readonly UserQueue _copy;

    public CopyQueueTests()
        : this(new GpuOptions { FaultAheadPages = 0 })
    {
    }

    private CopyQueueTests(GpuOptions options)
    {
        _f = new ComputeFixture(options);
        (_computeRing, _copyRing, _data) = (_f.Map(ComputeRing), _f.Map(CopyRing), _f.Map(Data, pages: 2));
        (_compute, _copy) = (Create(ComputeRing, GpuEngineKind.Compute), Create(CopyRing, GpuEngineKind.Copy));
        _f.Gpu.Clock.Advance(TimeSpan.FromSeconds(1));
    }

    private GpuEviction Eviction => _f.Process.Eviction;

    private QueueEngine Copies => _f.Gpu.Gpu.CopyQueueEngine;

    [Fact]
    public void A_ring_of_copies_runs_on_the_copy_engine_and_nothing_of_it_enters_a_reservation()
    {
        Start();
        Write(_copy, _copyRing, Fill(7, Page), Copy(Data + Page, Data), Release(Data, 99));
        Run();

        Assert.Equal((3UL, 99u, 7u, 7u), (_copy.Done, Word(0), Word(4), Word((2 * Page) - 4)));
        Assert.Equal(0, _f.Engine.Port.BytesWritten(PeerRoute.SameDevice));
        Assert.Equal((2 * (long)Page) + 4, Copies.Port.BytesWritten(PeerRoute.SameDevice));
        _f.Gpu.Locked(() => Assert.Equal(
            [Eviction.Fence!], _data.Shared.Reservation.GetPendingFences(ReservationUsage.Bookkeep)));
        Assert.False(Eviction.Fence!.IsSignaled);
    }

    [Fact]
    public void What_a_copy_engine_does_not_know_is_garbage_to_it()
    {
        Start();
        GpuCommand add = new() { Opcode = GpuOpcode.Add, Target = Data, A = Data, B = Data, Count = 1 };
        Write(_copy, _copyRing, add);
        Run();
        Assert.Equal((true, Errno.EINVAL, false), (_copy.IsLost, _copy.Error, _compute.IsLost));

        ComputeQueue jobs = Jobs();
        SubmitOperation spin = _f.Submit(
            GpuCommandMode.Paged, [new GpuCommand { Opcode = GpuOpcode.Spin, Count = 1 }], queue: jobs);
        Assert.Equal((SubmitState.Refused, Errno.EINVAL), (spin.State, spin.Error));
        Assert.Equal("command 0: a copy engine does not know Spin", spin.Problem);
        Assert.Null(spin.Fence);
    }

    [Theory]
    [InlineData(GpuCommandMode.Parsed)]
    [InlineData(GpuCommandMode.Paged)]
    public void A_job_of_copies_has_a_fence_and_waits_for_one_of_the_compute_engine(GpuCommandMode mode)
    {
        bool isParsed = mode == GpuCommandMode.Parsed;
        uint handle = _f.Gpu.Locked(() => _f.Process.Bindings.Single(b => b.Buffer == _data.Shared).Handle);
        GpuCommand fill = new()
        {
            Opcode = GpuOpcode.Fill,
            Value = 5,
            Count = Page,
            TargetHandle = isParsed ? handle : 0,
            Target = isParsed ? 0 : Data,
        };
        GpuCommand copy = new()
        {
            Opcode = GpuOpcode.Copy,
            Count = Page,
            TargetHandle = isParsed ? handle : 0,
            AHandle = isParsed ? handle : 0,
            Target = isParsed ? Page : Data + Page,
            A = isParsed ? 0 : Data,
        };
        SubmitOperation first = _f.Submit(mode, [fill]);
        SubmitOperation second = _f.Submit(mode, [copy], [first.Fence!], Jobs());
        _f.Gpu.Locked(() => Assert.Contains(
            second.Fence!, _data.Shared.Reservation.GetPendingFences(ReservationUsage.Bookkeep)));

        Copies.Drive(int.MaxValue);
        Assert.False(second.Fence!.IsSignaled); // the first has not run yet
        Run();
        Assert.Equal((true, Errno.Success, 5u), (second.Fence.HasEnded, second.Fence.Error, Word((2 * Page) - 4)));
    }

    [Fact]
    public void A_ring_of_copies_that_faults_stalls_alone_and_goes_on_from_the_same_block()
    {
        MapMirror();
        Start();
        Write(_copy, _copyRing, Fill(7, 2 * Page) with { Target = Mirror }, Copy(Data, Mirror + Page));
        Write(_compute, _computeRing, Release(Data + Page, 3));
        Run();

        Assert.Equal((0UL, 1UL, false), (_copy.Done, _compute.Done, _copy.IsLost)); // the other engine goes on
        Assert.Equal(1, _f.Gpu.Locked(() => _f.Process.Faults.PendingCount));
        Assert.Equal(GpuEvictionState.Running, Eviction.State); // and no fence was needed for that
        while (_f.Gpu.Locked(_f.Process.Faults.ServeAll) > 0)
        {
            Run();
        }

        Assert.Equal((2UL, 7u, 2L), (_copy.Done, Word(0), _f.Process.Faults.Count));
        Assert.Equal(0, _f.Host.Checker.ViolationCount);

        // Nobody can wait for what may fault: a job with a fence that names it ends without it.
        SubmitOperation job = _f.Submit(GpuCommandMode.Paged, [Fill(8, Page) with { Target = Mirror }], queue: Jobs());
        Run();
        Assert.Equal(Errno.EFAULT, job.Fence!.Error);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void The_eviction_fence_signals_when_both_engines_have_left(bool awaitsEveryEngine)
    {
        CopyQueueTests t = new(new GpuOptions { AwaitsEveryEngine = awaitsEveryEngine });
        t.EnterBoth();
        Fence fence = t.Eviction.Fence!;
        t._f.Gpu.Locked(fence.EnableSignaling);
        Assert.Equal((GpuEvictionState.Stopping, false), (t.Eviction.State, fence.IsSignaled));

        t._f.Engine.Drive(1);
        Assert.Equal(!awaitsEveryEngine, fence.IsSignaled); // the twin signals while the copy engine is inside
        Assert.NotNull(t._f.Gpu.Locked(() => t.Copies.RunningQueue));
        t.Copies.Drive(1);
        Assert.Equal((true, false, Errno.Success), (fence.HasEnded, fence.IsForced, fence.Error));
        Assert.Equal(GpuEvictionState.Evicted, t.Eviction.State);
        Assert.Equal(0, t._f.Engine.Hangs.WatchedCount);
    }

    [Fact]
    public void A_copy_engine_that_does_not_leave_gets_the_fence_forced_although_the_other_has_left()
    {
        EnterBoth();
        Assert.True(Copies.TryEnter()); // and does not come back
        RevokeOperation revoke = _f.Gpu.Free(_data);
        _f.Engine.Drive(int.MaxValue);
        for (int i = 0; i < 2; i++)
        {
            _f.Gpu.Clock.Advance(TimeSpan.FromMinutes(1));
            _f.Gpu.Locked(() => Copies.Hangs.HandleTimeout(_f.Host.Now));
        }

        Assert.Equal((true, false), (Eviction.Fence!.IsForced, Eviction.Fence.HasEnded));
        EngineHang hang = Assert.Single(_f.Engine.Hangs.Hangs);
        Assert.Equal((Copies.Name, false), (hang.Engine, hang.WasStopped));
        Assert.NotEqual(RevokeState.Retired, revoke.State);
        SubmitOperation job = _f.Paged(Fill(1, Page) with { Target = ComputeRing });
        Assert.Equal(SubmitState.Submitted, job.State); // the compute engine was not given up with it

        Assert.True(Copies.Step());
        Copies.Exit();
        Run();
        Assert.Equal((RevokeState.Retired, Errno.Success), (revoke.State, job.Fence!.Error));
    }

    [Fact]
    public void Rings_of_two_engines_that_wait_for_each_other_in_turns_get_on()
    {
        Start();
        Write(_copy, _copyRing, [.. PingPong(Data, Data + 4, first: true)]);
        Write(_compute, _computeRing, [.. PingPong(Data + 4, Data, first: false)]);
        Run();
        Assert.Equal((8UL, 8UL), (_copy.Done, _compute.Done));
    }

    [Fact]
    public void Rings_of_one_engine_that_wait_for_each_other_in_turns_get_on()
    {
        ulong second = ComputeRing + (32 * GpuCommand.SizeBytes);
        UserQueue other = Create(second, GpuEngineKind.Compute, commands: 32);
        Start();
        Write(_compute, _computeRing, [.. PingPong(Data, Data + 4, first: true)]);
        int slot = 32;
        foreach (GpuCommand command in PingPong(Data + 4, Data, first: false))
        {
            command.Write(_f.Gpu.Bytes(_computeRing)[(slot++ * GpuCommand.SizeBytes)..]);
        }

        other.RingDoorbell(8);
        Run();
        Assert.Equal((8UL, 8UL), (_compute.Done, other.Done));
    }

    private static IEnumerable<GpuCommand> PingPong(ulong own, ulong other, bool first)
    {
        for (uint round = 1; round <= 4; round++)
        {
            GpuCommand acquire = new() { Opcode = GpuOpcode.Acquire, A = other, Value = round };
            yield return first ? Release(own, round) : acquire;
            yield return first ? acquire : Release(own, round);
        }
    }

    private static GpuCommand Fill(uint value, ulong bytes) =>
        new() { Opcode = GpuOpcode.Fill, Target = Data, Value = value, Count = bytes };

    private static GpuCommand Copy(ulong target, ulong source) =>
        new() { Opcode = GpuOpcode.Copy, Target = target, A = source, Count = Page };

    private static GpuCommand Release(ulong target, uint value) =>
        new() { Opcode = GpuOpcode.Release, Target = target, Value = value };

    // Each engine is in a ring, between two blocks.
    private void EnterBoth()
    {
        Start();
        Write(_copy, _copyRing, Fill(7, 2 * Page));
        Write(_compute, _computeRing, Fill(7, 2 * Page));
        Assert.Equal((2, 2), (Copies.Drive(2), _f.Engine.Drive(2)));
    }

    private void Start()
    {
        _f.Gpu.Locked(Eviction.Start);
        _f.Gpu.Clock.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal(GpuEvictionState.Running, Eviction.State);
    }

    private void Run()
    {
        while (_f.Gpu.Run() + _f.Engine.Drive(int.MaxValue) + Copies.Drive(int.MaxValue) > 0)
        {
        }
    }

    private uint Word(ulong offset) => _f.Values<uint>(_data)[(int)(offset / 4)];

    private ComputeQueue Jobs() =>
        _f.Gpu.Locked(() => _f.Process.CreateQueue("copies", engine: GpuEngineKind.Copy));

    private UserQueue Create(ulong ring, GpuEngineKind engine, uint commands = 64) => _f.Gpu.Locked(() =>
    {
        Assert.Equal(
            Errno.Success,
            _f.Process.TryCreateUserQueue("ring", ring, commands, out UserQueue? queue, engine: engine));
        return queue!;
    });

    private void Write(UserQueue queue, GpuBuffer ring, params ReadOnlySpan<GpuCommand> commands)
    {
        for (int i = 0; i < commands.Length; i++)
        {
            commands[i].Write(_f.Gpu.Bytes(ring)[(i * GpuCommand.SizeBytes)..]);
        }

        queue.RingDoorbell((ulong)commands.Length);
    }

    // Memory of the process, of which the GPU has no page yet.
    private void MapMirror()
    {
        using (_f.Host.Enter())
        {
            byte[] pages = new byte[8 * Page];
            MemorySystem memory = new(_f.Host, swapPages: 8);
            memory.AddMemory(pages, _f.Gpu.Fabric.AddWindow(pages, owner: null).Range.Start);
            AddressSpace space = new(memory, "process 1");
            MapOperation map = space.Map(new RegionRequest { LengthBytes = 2 * Page });
            Assert.True(map.Proceed());
            Assert.Equal(
                Errno.Success,
                _f.Process.TryOpenUserPointer(
                    space, map.Addresses, GpuAccess.ReadWrite, out uint handle, GpuUserMemory.Fault));
            Assert.Equal(
                Errno.Success, _f.Process.Memory.TryMap(Mirror, handle, 0, 2 * Page, GpuAccess.ReadWrite));
        }
    }
}
