using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Scenarios;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Scenarios;

/// <summary>
/// The scenarios on real threads: what no explorer sees, the memory order of the processor. Bounded by rounds, not by
/// time.
/// </summary>
public class TakeBackStressTests(ITestOutputHelper output)
{
    private const byte OldUser = 0x11;
    private const byte NewOwner = 0xEE;

    private static readonly string[] s_users = ["nic", "nvme"];

    [Fact]
    public async Task Nobody_writes_or_reads_after_the_proof_while_the_buffer_is_moved_and_taken_back()
    {
        const int Rounds = 60;
        long writes = 0;
        for (int round = 0; round < Rounds; round++)
        {
            writes += await TakeBack(round, TestContext.Current.CancellationToken) switch
            {
                (0, long done) => done,
                (long late, _) => throw new InvalidOperationException($"{late} late accesses in round {round}"),
            };
        }

        output.WriteLine($"{writes} writes in {Rounds} rounds");
        Assert.True(writes > Rounds, "the users hardly ran");
    }

    // Two users write without pause, the engine copies, the buffer moves a few times, then it is freed and handed out.
    private static async Task<(long Late, long Writes)> TakeBack(int round, CancellationToken stop)
    {
        World world = new(Choices.Exhaustive());
        bool isOver = false;
        long late = 0, writes = 0;
        SimulatedImporter[] importers = world.Host.Locked(() => s_users
            .Select(n => new SimulatedImporter(world.Host, world.Fabric, world.Lent.Shared, n)).ToArray());
        Task[] threads =
        [
            .. importers.Select((importer, i) => Start(() =>
            {
                while (!Volatile.Read(ref isOver) && Use(world, importer, i, ref late))
                {
                    Interlocked.Increment(ref writes);
                }
            })),
            Start(() =>
            {
                while (!Volatile.Read(ref isOver))
                {
                    if (world.Gpu.CopyEngine.Drive(1) == 0)
                    {
                        Thread.Yield();
                    }
                }
            }),
        ];

        Wait(() => Volatile.Read(ref writes) > round % 7, stop);
        for (int move = 0; move < round % 3; move++)
        {
            MoveOperation operation = world.Host.Locked(() => world.Gpu.Move(world.Lent, (GpuDomain)((move + 1) % 2)));
            Wait(() => operation.IsCompleted, stop);
        }

        GpuDomain domain = world.Lent.Placement.Domain;
        RevokeOperation revoke = world.Host.Locked(() => world.Gpu.Free(world.Lent, new RevokePolicy()));
        Wait(() => revoke.IsCompleted, stop);
        GpuBuffer? next = null;
        GpuBufferInfo info = new("next", World.SmallBufferBytes, StorageKind.Static, domain);
        world.Host.Locked(() => world.Gpu.TryCreate(info, out next));
        Wait(() => world.IsIdle(next!), stop);
        Span<byte> bytes = Bytes(world, next!);
        late += bytes.ContainsAnyExcept((byte)0) ? 1 : 0;
        bytes.Fill(NewOwner);
        Thread.Yield();
        Volatile.Write(ref isOver, true);
        await Task.WhenAll(threads);
        late += Bytes(world, next!).ContainsAnyExcept(NewOwner) ? 1 : 0;
        Assert.Equal(RetirementGrade.Retired, revoke.Proof!.Grade);
        return (late, writes);
    }

    // One access; false when the buffer is gone.
    private static bool Use(World world, SimulatedImporter importer, int offset, ref long late)
    {
        if (importer.Current is not { } translation)
        {
            return Map(world, importer);
        }

        if (translation.Gate.TryEnter())
        {
            translation.Addresses.TryLocate((ulong)offset, out DeviceAddress address, out _);
            importer.Port.TryWrite(address, 1, out Span<byte> bytes);
            if (bytes[0] == NewOwner)
            {
                Interlocked.Increment(ref late);
            }

            bytes[0] = OldUser;
            translation.Gate.Exit();
        }

        return true;
    }

    private static bool Map(World world, SimulatedImporter importer)
    {
        AcquireTicket? ticket = null;
        LockWait? wait = null;
        world.Host.Locked(() =>
        {
            ticket = new AcquireTicket(world.Host, importer.Name);
            wait = world.Lent.Shared.Reservation.TryLock(ticket).Wait;
        });
        Wait(() => wait is null or { IsCompleted: true }, CancellationToken.None);
        Errno errno = world.Host.Locked(() =>
        {
            Errno mapped = importer.MapLocked(ticket!);
            world.Lent.Shared.Reservation.Unlock(ticket!);
            return mapped;
        });
        if (errno == Errno.ENODEV)
        {
            return false;
        }

        Wait(() => !world.Host.Locked(() => importer.MustWait), CancellationToken.None);
        world.Host.Locked(importer.TryPublish);
        return true;
    }

    private static Span<byte> Bytes(World world, GpuBuffer buffer)
    {
        DeviceRange range = buffer.Placement.Addresses.Entries[0];
        DmaPort port = new(world.Gpu.Function);
        port.TryWrite(range.Start, (int)range.LengthBytes, out Span<byte> bytes);
        return bytes;
    }

    private static void Wait(Func<bool> done, CancellationToken stop)
    {
        while (!done())
        {
            stop.ThrowIfCancellationRequested();
            Thread.Yield();
        }
    }

    private static Task Start(Action body) =>
        Task.Factory.StartNew(body, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
}

/// <summary>Short forms of taking the host lock.</summary>
internal static class HostContextExtensions
{
    public static T Locked<T>(this HostContext host, Func<T> action)
    {
        using (host.Enter())
        {
            return action();
        }
    }

    public static void Locked(this HostContext host, Action action)
    {
        using (host.Enter())
        {
            action();
        }
    }
}
