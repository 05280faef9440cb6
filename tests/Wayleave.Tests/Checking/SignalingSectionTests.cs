using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Nvme;
using Wayleave.Tests.Fences;
using Wayleave.Tests.Gpu;
using Wayleave.Tests.Nvme;
using Wayleave.Tests.Rdma;
using Xunit;

namespace Wayleave.Tests.Checking;

/// <summary>
/// What the shipped engines run between publishing a fence and signalling it, with somebody in it who does what must
/// not be done there.
/// </summary>
public class SignalingSectionTests : FenceScenario
{
    [Fact]
    public void FENCE_57_A_reservation_asked_for_in_a_section_is_reported_without_an_activity()
    {
        using (Host.Enter())
        {
            Reservation free = new(Host, "free");
            using (new SignalingSection("gpu0 copy engine", "ring"))
            {
                Take(Host, free);
            }

            Take(Host, free);
            Assert.Equal([ViolationKind.SignalingSection], Violations);
            Assert.Equal("gpu0 copy engine", Host.Checker.Violations[0].Subject);
            Assert.StartsWith(
                "takes reservation (reservation of free) inside fence signalling (ring); elsewhere it is the other way "
                + "round",
                Host.Checker.Violations[0].Message,
                StringComparison.Ordinal);
        }
    }

    [Fact]
    public void A_lock_that_cannot_wait_is_allowed()
    {
        using (Host.Enter())
        {
            Reservation free = new(Host, "free");
            AcquireTicket ticket = new(Host, "t");
            using SignalingSection section = new("engine", "ring");
            Assert.True(free.TryLockNow(ticket));
            free.Unlock(ticket);
            Assert.Empty(Violations);
        }
    }

    [Fact]
    public void FENCE_58_Memory_that_may_be_reclaimed_for_it_is_reported()
    {
        using (Host.Enter())
        using (new SignalingSection("engine", "ring"))
        {
            Host.Checker.MightReclaim("a result");
            Assert.Equal([ViolationKind.SignalingSection], Violations);
        }
    }

    [Fact]
    public void FENCE_59_Sections_nest_and_the_outer_one_goes_on()
    {
        using (Host.Enter())
        {
            Fence done = New();
            done.Signal();
            using (new SignalingSection("outer", "ring"))
            {
                using (new SignalingSection("inner", "drain"))
                {
                    Assert.True(SignalingSection.IsInside);
                }

                FenceWait.Start(Host, waiter: null, done, TimeSpan.Zero);
            }

            Assert.False(SignalingSection.IsInside);
            Assert.Equal("outer", Assert.Single(Host.Checker.Violations).Subject);
        }
    }

    [Fact]
    public void Who_waited_for_the_signal_is_not_in_the_section_of_who_signals()
    {
        Fence fence;
        Reservation free;
        bool wasInside = true;
        using (Host.Enter())
        {
            (fence, free) = (New(), new Reservation(Host, "free"));
            fence.TryObserve(_ =>
            {
                wasInside = SignalingSection.IsInside;
                Take(Host, free);
            });
        }

        bool calledInside = true;
        using (new SignalingSection("engine", "ring"))
        {
            using (Host.Enter())
            {
                fence.TryAddCallback(_ => calledInside = SignalingSection.IsInside);
                fence.Signal();
                Assert.True(SignalingSection.IsInside);
            }
        }

        Assert.Equal((false, false), (wasInside, calledInside));
        Assert.Empty(Violations);
    }

    [Fact]
    public void A_waiter_that_gets_the_lock_goes_on_outside_the_section_of_who_let_it_go()
    {
        using (Host.Enter())
        {
            Reservation one = new(Host, "one"), other = new(Host, "other");
            AcquireTicket holder = new(Host, "holder");
            one.TryLock(holder);
            LockOperation both =
                LockOperation.Start(Host, new AcquireTicket(Host, "both"), [one, other], fenceSlots: 1);
            using (new SignalingSection("engine", "submission"))
            {
                one.Unlock(holder);
            }

            Assert.True(both.IsCompleted);
            Assert.Empty(Violations);
        }
    }

    [Fact]
    public void The_completion_of_a_copy_that_locks_waits_or_evicts_is_reported()
    {
        string[] Run(Action<GpuFixture, GpuBuffer> ended)
        {
            GpuFixture f = new();
            GpuBuffer buffer = f.Create();
            f.Locked(() => f.Gpu.CopyEngine.TrySubmit(new CopyJob
            {
                Name = "fill",
                Target = buffer.Placement.LocalAddresses,
                Fence = f.Work.CreateFence(),
                Ended = _ => ended(f, buffer),
            }));
            f.Run();
            return [.. f.Host.Checker.Violations.Select(v => $"{v.Subject}: {v.Message.Split(" inside ")[0]}")];
        }

        Assert.Empty(Run((_, _) => { }));
        Assert.Equal(
            ["gpu0 copy engine: takes reservation (reservation of a)"],
            Run((f, b) => Take(f.Host, b.Shared.Reservation)));
        Assert.Equal(
            ["gpu0 copy engine: waits for a fence (reservation of a)"],
            Run((f, b) => FenceWait.Start(
                f.Host, null, b.Shared.Reservation, ReservationUsage.Bookkeep, FenceWait.NoTimeout)));
        Assert.Equal(
            [
                "gpu0 copy engine: takes memory reclaim (room in VRAM)",
                "gpu0 copy engine: takes reservation (reservation of a)",
            ],
            Run((f, b) => f.Gpu.TryMakeRoom(4 * GpuFixture.Page, out _)));
        Assert.Equal(
            [
                "gpu0 copy engine: waits for a fence (reservation of a)",
                "gpu0 copy engine: takes reservation (reservation of a)",
            ],
            Run((f, b) => f.Gpu.Free(b, new RevokePolicy())));
    }

    [Fact]
    public void The_completion_of_a_drives_command_that_locks_is_reported()
    {
        NvmeFixture f = new();
        f.Ready();
        GpuBuffer buffer = f.Create(1 << 16);
        NvmeBufferUser user = f.Use(buffer);
        Assert.Equal(Errno.Success, f.Start(user, buffer, NvmeOpcode.Read, 0, 8, 0));
        f.Run();
        Assert.Equal(0, f.Host.Checker.ViolationCount);

        NvmeTransfer transfer = new()
        {
            Opcode = NvmeOpcode.Read,
            NamespaceId = f.Namespace.Id,
            StartLba = 0,
            BlockCount = 8,
            BlockBytes = f.Namespace.BlockBytes,
            Addresses = buffer.Placement.Addresses,
            Ended = _ => Take(f.Host, buffer.Shared.Reservation),
        };
        Assert.Equal(Errno.Success, f.Locked(() => f.Driver.TrySubmit(transfer)));
        f.Run();
        Violation violation = Assert.Single(f.Host.Checker.Violations);
        Assert.Equal(ViolationKind.SignalingSection, violation.Kind);
        Assert.EndsWith("completions", violation.Subject, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void An_exporter_that_locks_in_its_unmap_is_reported_in_the_drain_of_a_region(bool isInside)
    {
        Conversation c = new();
        SharedBuffer buffer = c.Memory.Buffer;
        c.Memory.Unmapping = () => Take(c.Node.Host, buffer.Reservation);
        Translation inside = c.Region.Current!;
        Assert.Equal(isInside, isInside && inside.Gate.TryEnter());
        using (c.Node.Host.Enter())
        {
            RevokeOperation.Start(buffer, new RevokePolicy());
        }

        if (isInside)
        {
            Assert.Equal(0, c.Node.Host.Checker.ViolationCount);
            inside.Gate.Exit();
        }

        Violation violation = Assert.Single(c.Node.Host.Checker.Violations);
        Assert.Equal((ViolationKind.SignalingSection, c.Region.Name), (violation.Kind, violation.Subject));
    }

    private static void Take(HostContext host, Reservation reservation)
    {
        AcquireTicket ticket = AcquireTicket.CreatePlain(host, "t");
        if (reservation.TryLock(ticket).Kind == LockOutcomeKind.Acquired)
        {
            reservation.Unlock(ticket);
        }
    }
}
