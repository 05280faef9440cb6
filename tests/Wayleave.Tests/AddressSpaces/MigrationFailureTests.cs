using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

/// <summary>
/// What can go wrong at each step of a migration: pages that cannot go stay as they were, and all others go.
/// </summary>
public sealed class MigrationFailureTests
{
    private const int Page = SpaceFixture.Page;

    [Theory]
    [InlineData("collect: a mirror waits for who waits for the migration", Errno.EDEADLK, 0)]
    [InlineData("collect: somebody else has locked a page", Errno.Success, 3)]
    [InlineData("collect: a page is pinned", Errno.Success, 3)]
    [InlineData("isolate: a mirror of the child waits for who waits for the migration", Errno.Success, 3)]
    [InlineData("isolate: somebody holds the child's page", Errno.Success, 3)]
    [InlineData("copy: the device has no room for all", Errno.Success, 2)]
    [InlineData("copy: the driver refuses", Errno.ENOENT, 0)]
    [InlineData("copy: the engine fails", Errno.ENOENT, 0)]
    [InlineData("copy: one page in the middle cannot be copied", Errno.Success, 3)]
    [InlineData("copy: the engine cannot copy one page in the middle", Errno.Success, 3)]
    [InlineData("copy: no page can be copied", Errno.ENOENT, 0)]
    [InlineData("copy: killed under way", Errno.EINTR, 0)]
    [InlineData("move: a mirror waits for who waits for the migration", Errno.Success, 3)]
    [InlineData("move: a page that was empty was touched meanwhile", Errno.Success, 3)]
    public void A_step_that_fails_leaves_the_page_where_it_was(string what, Errno expected, int migrated)
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        AddressRange written = what.StartsWith("move", StringComparison.Ordinal)
            ? SpaceFixture.Pages(range.Start, 3)
            : range;
        f.Fill(written, 1);
        bool isForked = what.StartsWith("isolate", StringComparison.Ordinal);
        AddressSpace? child = isForked ? f.Done(f.Space.Fork("child")).Child! : null;
        SimulatedMirror device = new(f.Space, range, "device");
        device.AddMemory(what == "copy: the device has no room for all" ? 2 : 8);
        MigrateOperation migrate = f.Space.MigrateToDevice(range, device.Memory!);
        Action undo = Break(f, what, range, child, device, migrate);

        f.Run(migrate);
        undo();

        Assert.Equal((expected, migrated), (migrate.Errno, migrate.MigratedCount));
        Assert.True(expected != Errno.EDEADLK || migrate.Cycle is not null);
        Assert.Equal(device.Memory!.PageCount - migrated, device.Memory.FreePages);
        f.ExpectFilled(written, 1);
        if (child is not null)
        {
            f.ExpectFilled(written, 1, child);
            f.Done(child.Exit());
        }

        f.Done(f.Space.Exit());
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
        Assert.Equal(device.Memory.PageCount, device.Memory.FreePages);
    }

    [Fact]
    public void A_page_that_cannot_be_copied_home_stays_on_the_device_and_the_others_come()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        SimulatedMirror device = new(f.Space, range, "device");
        device.AddMemory(4);
        f.Done(f.Space.MigrateToDevice(range, device.Memory!));
        device.CannotCopy = p => p.Bytes.Span[0] == 2;

        EvictOperation evict = f.Done(device.Memory!.Evict());

        Assert.Equal((3, 1, 3), (evict.MigratedCount, evict.LeftCount, device.Memory.FreePages));
        f.ExpectFilled(SpaceFixture.Pages(range.Start, 1), 1);
        f.ExpectFilled(SpaceFixture.Pages(range.Start + (2 * Page), 2), 3);
        Assert.Equal(Errno.EFAULT, f.TryRead(range.Start + Page, new byte[1])); // a SIGBUS, of this page alone
        device.CannotCopy = null;
        f.ExpectFilled(range, 1);
        f.Done(f.Space.Exit());
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
        Assert.Equal(device.Memory.PageCount, device.Memory.FreePages);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_folio_that_cannot_be_copied_stays_whole_also_when_somebody_splits_it_under_way(bool isSplit)
    {
        using SpaceFixture f = new();
        int pages = 1 << f.Memory.HugeOrder;
        AddressRange range = f.Done(f.Space.Map(new RegionRequest
        {
            LengthBytes = (ulong)(2 * pages * Page),
            UsesHugePages = true,
        })).Addresses;
        f.Fill(range, 1);
        SimulatedMirror device = new(f.Space, range, "device")
        {
            CopiesAtOnce = false,
            CannotCopy = p => p.Bytes.Span[0] == 1,
        };
        device.AddMemory(2 * pages);
        MigrateOperation migrate = f.Space.MigrateToDevice(range, device.Memory!);
        Assert.False(migrate.Proceed());
        if (isSplit)
        {
            f.Space.Table.SplitWhole(range.FirstPage);
        }

        device.FinishCopy();
        Assert.True(migrate.Proceed());

        Assert.Equal((Errno.Success, pages), (migrate.Errno, migrate.MigratedCount));
        Assert.Equal(pages, device.Memory!.FreePages);
        (device.CopiesAtOnce, device.CannotCopy) = (true, null);
        f.ExpectFilled(range, 1);
        f.Done(f.Space.Exit());
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
        Assert.Equal(device.Memory.PageCount, device.Memory.FreePages);
    }

    // What is to be undone when the migration has ended.
    private static Action Break(
        in SpaceFixture f,
        string what,
        AddressRange range,
        AddressSpace? child,
        SimulatedMirror device,
        MigrateOperation migrate)
    {
        ulong last = range.Start + (3 * Page);
        switch (what)
        {
            case "collect: somebody else has locked a page":
                // It is on its way to another device, whose engine has not ended.
                SimulatedMirror other = new(f.Space, range, "other") { CopiesAtOnce = false };
                other.AddMemory(1);
                MigrateOperation before =
                    f.Space.MigrateToDevice(SpaceFixture.Pages(last, 1), other.Memory!);
                Assert.False(before.Proceed());
                return () =>
                {
                    other.FinishCopy(Errno.EIO);
                    Assert.True(before.Proceed());
                };
            case "collect: a page is pinned":
                PinnedPages pin = f.Done(f.Space.Pin(
                    SpaceFixture.Pages(last, 1), PinMode.Pin | PinMode.LongTerm | PinMode.Write)).Result!;
                return () => pin.Release();
            case "isolate: somebody holds the child's page":
                // A reference, for a pin would get the child a page of its own.
                StepTo(migrate, MigrationState.Isolating);
                PinnedPages held = f.Done(child!.Pin(SpaceFixture.Pages(last, 1), PinMode.Get)).Result!;
                return () => held.Release();
            case "copy: the device has no room for all":
                return () => { };
            case "copy: the driver refuses":
                device.CopyErrno = Errno.EIO;
                return () => device.CopyErrno = Errno.Success;
            case "copy: the engine fails":
                device.CopiesAtOnce = false;
                Assert.False(migrate.Proceed());
                device.FinishCopy(Errno.EIO);
                return () => device.CopiesAtOnce = true;
            case "copy: one page in the middle cannot be copied":
                device.CannotCopy = p => p.Bytes.Span[0] == 3;
                return () => device.CannotCopy = null;
            case "copy: the engine cannot copy one page in the middle":
                (device.CopiesAtOnce, device.CannotCopy) = (false, p => p.Bytes.Span[0] == 2);
                Assert.False(migrate.Proceed());
                device.FinishCopy();
                return () => (device.CopiesAtOnce, device.CannotCopy) = (true, null);
            case "copy: no page can be copied":
                device.CannotCopy = _ => true;
                return () => device.CannotCopy = null;
            case "copy: killed under way":
                device.CopiesAtOnce = false;
                Assert.False(migrate.Proceed());
                migrate.Abandon();
                device.FinishCopy();
                return () => device.CopiesAtOnce = true;
            case "move: a page that was empty was touched meanwhile":
                StepTo(migrate, MigrationState.Copying);
                f.Write(last, [9]);
                return () => { };
            default:
                return BreakByCircle(f, what, range, child, migrate);
        }
    }

    private static Action BreakByCircle(
        in SpaceFixture f, string what, AddressRange range, AddressSpace? child, MigrateOperation migrate)
    {
        Activity engine = new(f.Host, ActivityKind.Engine, "engine");
        Fence job = new Timeline(f.Host, "engine's ring", engine).CreateFence();
        int calls = what.StartsWith("move", StringComparison.Ordinal) ? 1 : 0;
        Waiter waiter = new(() => calls-- == 0 ? InvalidateAnswer.WaitFor(job) : InvalidateAnswer.Done);
        AddressSpace space = child ?? f.Space;
        Assert.Equal(
            Errno.Success, space.Subscribe(range, waiter, out IntervalNotifier? notifier, mayWaitForFences: true));
        while (!migrate.IsCompleted && f.Space.Lock.HolderCount == 0)
        {
            migrate.Step();
        }

        // The engine needs the address-space lock to write, which the migration has until its end.
        ChangeOperation waiting = f.Space.Unmap(SpaceFixture.Pages(range.End, 1), engine);
        waiting.Step();
        Assert.False(waiting.IsReady);
        return () =>
        {
            Assert.True(waiting.Proceed());
            job.Signal();
            notifier!.Remove();
        };
    }

    private static void StepTo(MigrateOperation migrate, MigrationState state)
    {
        while (migrate.State != state)
        {
            migrate.Step();
        }
    }

    private sealed class Waiter(Func<InvalidateAnswer> answer) : IMirror
    {
        public string Name => "waiter";

        public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
        {
            notifier.SetSequence(sequence);
            return answer();
        }
    }
}
