using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Gpu.Compute;

/// <summary>A process never reaches another's memory, and who tries is named and harms nobody else.</summary>
public class ProtectionTests
{
    private const ulong Page = ComputeFixture.Page;
    private const ulong Va = ComputeFixture.Va;

    private readonly ComputeFixture _f = new();

    [Fact]
    public void A_handle_that_is_not_the_processs_is_refused_before_anything_runs()
    {
        (GpuBuffer buffer, uint mine) = _f.Create("mine");
        (GpuProcess other, _) = _f.Open("process 2");
        (GpuBuffer secret, _) = _f.Create("other", process: other);
        (_, uint second) = _f.Create("second", process: other);
        SubmitOperation forged = _f.Parsed(Fill(mine), Fill(second));
        Assert.Equal((Errno.ENOENT, SubmitState.Refused), (forged.Error, forged.State));
        Assert.Equal("command 1: handle 2 is not one of process 1", forged.Problem);
        Assert.Equal(Errno.Success, _f.Do(GpuCommandMode.Parsed, Fill(1))); // its own number 1, not the other's
        Assert.Equal((1u, 0u), (_f.Values<uint>(buffer)[0], _f.Values<uint>(secret)[0]));
    }

    [Theory]
    [InlineData(Page - 4, 8)]
    [InlineData(Page, 4)]
    [InlineData(0, Page + 4)]
    [InlineData(2, 4)]
    [InlineData(0, 0)]
    [InlineData(0, 6)]
    [InlineData(ulong.MaxValue - 3, 4)]
    [InlineData(0, ulong.MaxValue - 3)]
    public void A_range_outside_the_buffer_or_one_that_makes_no_sense_is_refused(ulong offset, ulong count)
    {
        (_, uint handle) = _f.Create("mine");
        SubmitOperation operation = _f.Parsed(Fill(handle) with { Target = offset, Count = count });
        Assert.Equal(Errno.EINVAL, operation.Error);
        Assert.StartsWith("command 0: ", operation.Problem, StringComparison.Ordinal);
    }

    [Fact]
    public void A_handle_that_may_be_read_only_is_not_written()
    {
        (GpuBuffer buffer, uint handle) = _f.Create("mine", access: GpuAccess.Read);
        SubmitOperation operation = _f.Parsed(Fill(handle));
        Assert.Equal(Errno.EACCES, operation.Error);
        Assert.Equal(0u, _f.Values<uint>(buffer)[0]);
        _f.Gpu.Locked(() => Assert.Equal(
            Errno.EACCES, _f.Process.Memory.TryMap(Va, handle, 0, Page, GpuAccess.ReadWrite)));
    }

    [Fact]
    public void Garbage_in_a_ring_is_refused_and_so_is_a_job_that_waits_for_a_program()
    {
        SplitMix64 random = new(3);
        for (int i = 0; i < 2000; i++)
        {
            byte[] garbage = new byte[GpuCommand.SizeBytes];
            for (int at = 0; at < garbage.Length; at++)
            {
                garbage[at] = (byte)random.NextUInt64();
            }

            garbage[0] = (byte)(i % 12); // near what exists
            garbage[1] = 0;
            SubmitOperation operation = Start(GpuCommandMode.Paged, garbage);
            Assert.Equal((SubmitState.Refused, Errno.EINVAL), (operation.State, operation.Error));
        }

        Assert.Equal(Errno.EINVAL, Start(GpuCommandMode.Paged, new byte[63]).Error);
        Assert.Equal(Errno.EINVAL, Start(GpuCommandMode.Paged, []).Error);
        SubmitOperation acquire = _f.Paged(new GpuCommand { Opcode = GpuOpcode.Acquire, A = Va, Value = 1 });
        Assert.Equal(
            (Errno.EINVAL, "command 0: a job with a fence must not wait for memory that a program writes"),
            (acquire.Error, acquire.Problem));
        using (_f.Host.Enter())
        {
            Fence own = new SoftwareTimeline(_f.Host, "program").CreateFence(1);
            byte[] nop = new byte[GpuCommand.SizeBytes];
            SubmitOperation waits =
                SubmitOperation.Start(_f.Queue, new GpuSubmission(GpuCommandMode.Paged, nop, [own]));
            Assert.Equal(Errno.EINVAL, waits.Error);
        }
    }

    [Fact]
    public void A_process_that_changes_its_commands_while_they_wait_changes_nothing()
    {
        (GpuBuffer buffer, uint handle) = _f.Create("mine");
        byte[] ring = new byte[GpuCommand.SizeBytes];
        Fill(handle).Write(ring);
        SubmitOperation operation;
        AcquireTicket ticket;
        using (_f.Host.Enter())
        {
            ticket = new AcquireTicket(_f.Host, "somebody");
            buffer.Shared.Reservation.TryLock(ticket);
            operation = SubmitOperation.Start(_f.Queue, new GpuSubmission(GpuCommandMode.Parsed, ring));
            Assert.Equal(SubmitState.Locking, operation.State);
        }

        (Fill(handle) with { Target = 1UL << 20, TargetHandle = 77 }).Write(ring);
        _f.Gpu.Locked(() => buffer.Shared.Reservation.Unlock(ticket));
        _f.Run();
        Assert.Equal((SubmitState.Submitted, 1u), (operation.State, _f.Values<uint>(buffer)[0]));
    }

    [Theory]
    [InlineData(Va + Page)] // behind the mapping
    [InlineData(Va - 4)] // before it
    [InlineData(1UL << 47)]
    public void An_address_that_is_not_mapped_ends_the_job_and_its_queue_and_nobody_else(ulong address)
    {
        GpuBuffer buffer = _f.Map(Va);
        ComputeQueue neighbour = _f.Gpu.Locked(() => _f.Process.CreateQueue("neighbour"));
        (GpuProcess other, ComputeQueue others) = _f.Open("process 2");
        (GpuBuffer theirs, uint handle) = _f.Create("theirs", process: other);
        SubmitOperation wrong = _f.Paged(FillAt(address)), behind = _f.Paged(FillAt(Va));
        SubmitOperation beside = _f.Submit(GpuCommandMode.Paged, [FillAt(Va)], queue: neighbour);
        SubmitOperation apart = _f.Submit(GpuCommandMode.Parsed, [Fill(handle)], queue: others);
        _f.Run();
        Assert.Equal((Errno.EFAULT, Errno.ECANCELED), (wrong.Fence!.Error, behind.Fence!.Error));
        Assert.Equal((Errno.Success, Errno.Success), (beside.Fence!.Error, apart.Fence!.Error));
        Assert.Equal((1u, 1u), (_f.Values<uint>(buffer)[0], _f.Values<uint>(theirs)[0]));
        Assert.True(_f.Queue.IsLost);
        Assert.Equal(Errno.ECANCELED, _f.Paged(FillAt(Va)).Error);
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_mapping_that_may_be_read_only_is_not_written_and_a_copy_across_its_end_stops_there()
    {
        GpuBuffer source = _f.Map(Va);
        GpuBuffer target = _f.Map(Va + (2 * Page), pages: 1, GpuAccess.Read);
        _f.Values<uint>(source)[0] = 5;
        SubmitOperation write = _f.Paged(
            new GpuCommand { Opcode = GpuOpcode.Copy, A = Va, Target = Va + (2 * Page), Count = Page });
        _f.Run();
        Assert.Equal((Errno.EACCES, 0u), (write.Fence!.Error, _f.Values<uint>(target)[0]));
        ComputeQueue queue = _f.Gpu.Locked(() => _f.Process.CreateQueue("second"));
        SubmitOperation across = _f.Submit(
            GpuCommandMode.Paged, [FillAt(Va + Page - 8) with { Count = 16 }], queue: queue);
        _f.Run();
        Assert.Equal(Errno.EFAULT, across.Fence!.Error);
        Assert.Equal(1u, _f.Values<uint>(source)[(int)(Page / 4) - 1]);
    }

    [Fact]
    public void The_same_address_is_each_processs_own()
    {
        GpuBuffer mine = _f.Map(Va);
        (GpuProcess other, ComputeQueue others) = _f.Open("process 2");
        (GpuBuffer theirs, uint handle) = _f.Create("theirs", process: other);
        _f.Gpu.Locked(() => other.Memory.TryMap(Va, handle, 0, Page, GpuAccess.ReadWrite));
        _f.Paged(FillAt(Va));
        _f.Submit(GpuCommandMode.Paged, [FillAt(Va) with { Value = 2 }], queue: others);
        _f.Run();
        Assert.Equal((1u, 2u), (_f.Values<uint>(mine)[0], _f.Values<uint>(theirs)[0]));
    }

    [Fact]
    public void Mappings_are_whole_pages_inside_their_buffer_that_do_not_overlap()
    {
        (_, uint handle) = _f.Create("mine", pages: 2);
        using (_f.Host.Enter())
        {
            GpuAddressSpace memory = _f.Process.Memory;
            Errno Map(ulong address, ulong offset, ulong length, GpuAccess access = GpuAccess.Read) =>
                memory.TryMap(address, handle, offset, length, access);
            Assert.Equal(Errno.EINVAL, Map(Va + 4, 0, Page));
            Assert.Equal(Errno.EINVAL, Map(Va, 4, Page));
            Assert.Equal(Errno.EINVAL, Map(Va, 0, 0));
            Assert.Equal(Errno.EINVAL, Map(Va, Page, 2 * Page));
            Assert.Equal(Errno.EINVAL, Map(GpuAddressSpace.AddressEnd - Page, 0, 2 * Page));
            Assert.Equal(Errno.EINVAL, Map(Va, 0, Page, GpuAccess.None));
            Assert.Equal(Errno.ENOENT, memory.TryMap(Va, handle + 1, 0, Page, GpuAccess.Read));
            Assert.Equal(Errno.Success, Map(Va, Page, Page));
            Assert.Equal(Errno.EEXIST, Map(Va - Page, 0, 2 * Page));
            Assert.Equal(Errno.EBUSY, _f.Process.TryClose(handle));
            Assert.Equal(Errno.ENOENT, memory.TryUnmap(Va + Page));
            Assert.Equal(Errno.Success, memory.TryUnmap(Va));
            Assert.Equal(Errno.Success, _f.Process.TryClose(handle));
            Assert.Equal(Errno.ENOENT, _f.Process.TryClose(handle));
        }
    }

    [Fact]
    public void Random_commands_of_one_process_change_no_byte_of_another()
    {
        (GpuProcess other, _) = _f.Open("process 2");
        (GpuBuffer secret, _) = _f.Create("secret", 4, process: other);
        _f.Gpu.Bytes(secret).Fill(0x5a);
        _f.Map(Va, 2);
        SplitMix64 random = new(11);
        ulong Address() => Va - Page + (4 * (random.NextUInt64() % Page));
        for (int i = 0; i < 500; i++)
        {
            ComputeQueue queue = _f.Gpu.Locked(() => _f.Process.CreateQueue("try"));
            GpuCommand command = new()
            {
                Opcode = (GpuOpcode)(1 + (random.NextUInt64() % 6)),
                Target = Address(),
                A = Address(),
                B = Address(),
                Count = 4 * (1 + (random.NextUInt64() % 64)),
                Rows = 1 + (uint)(random.NextUInt64() % 64),
                Inner = 1 + (uint)(random.NextUInt64() % 8),
            };
            SubmitOperation operation = _f.Submit(GpuCommandMode.Paged, [command], queue: queue);
            _f.Run();
            Assert.Contains(operation.Fence!.Error, new[] { Errno.Success, Errno.EFAULT });
        }

        Assert.False(_f.Gpu.Bytes(secret).ContainsAnyExcept((byte)0x5a));
    }

    private SubmitOperation Start(GpuCommandMode mode, byte[] bytes) =>
        _f.Gpu.Locked(() => SubmitOperation.Start(_f.Queue, new GpuSubmission(mode, bytes)));

    private static GpuCommand Fill(uint handle) =>
        new() { Opcode = GpuOpcode.Fill, TargetHandle = handle, Value = 1, Count = 4 };

    private static GpuCommand FillAt(ulong address) =>
        new() { Opcode = GpuOpcode.Fill, Target = address, Value = 1, Count = 4 };
}
