using System.Net;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Connections;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Ports;
using Xunit;

namespace Wayleave.Linux.Tests.Runners;

public sealed class PortDriverTests
{
    private const ulong Size = 1 << 16;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_wait_for_a_completion_that_is_given_up_leaves_nothing_with_what_would_have_ended_it()
    {
        await using WayleaveHost host = await StartAsync("127.0.0.4", new WayleaveHostOptions());
        TaskCompletionSource ended = new();
        WeakReference wait = await GiveUpAsync(host.Nics[0], ended.Task);
        while (wait.IsAlive)
        {
            GC.Collect(); // the time limit of the test ends it
            await Task.Delay(1, Cancellation);
        }

        ended.SetResult(); // it was there all the time

        static async Task<WeakReference> GiveUpAsync(NicHandle nic, Task ended)
        {
            CompletionWait wait = new(nic, depth: 1);
            using CancellationTokenSource over = new(TimeSpan.FromMilliseconds(20));
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => wait.NextAsync(ended, over.Token).AsTask());
            return new WeakReference(wait);
        }
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_READ_of_memory_that_had_to_be_mapped_again_is_answered_when_that_has_happened()
    {
        // Nothing else can help: the engine sleeps at once and for ever, and the reader never repeats its request.
        FaultLog faults = new();
        PortDriverOptions sleepy = new() { EngineIdleSpin = TimeSpan.Zero, EngineSleepMax = TimeSpan.FromHours(1) };
        await using WayleaveHost owner =
            await StartAsync("127.0.0.2", new WayleaveHostOptions { Driver = sleepy, Trace = faults });
        await using WayleaveHost reader = await StartAsync("127.0.0.3", new WayleaveHostOptions());
        NicHandle nic = reader.Nics[0];
        DeviceObject source = await owner.Objects
            .CreateAsync("gpu0", "source", Size, StorageKind.Movable, Cancellation);
        DeviceObject target = await reader.Objects
            .CreateAsync("gpu0", "target", Size, StorageKind.Movable, Cancellation);
        MemoryRegion local = await nic.RegisterAsync(
            nic.Device.CreateProtectionDomain(),
            target.Buffer,
            new MemoryRegionRequest(0, Size, 0, AccessFlags.LocalWrite, ImporterKind.Dynamic));
        CompletionQueue completions = nic.CreateCompletionQueue(16);
        QueuePair pair = nic.CreateQueuePair(local.Domain, completions);
        uint psn = nic.ChoosePsn();
        Lease lease = await owner.Leases.LendAsync(
            source, new LeaseRequest(LeaseAccess.Read, ImporterKind.Dynamic, nic.DescribeEnd(pair, psn)));
        Connect(nic, pair, lease.Local, psn);

        AcquireTicket ticket = Invalidate(owner.Context, source.Buffer);
        SendWorkRequest read = new()
        {
            WrId = 7,
            Opcode = WorkRequestOpcode.RdmaRead,
            Flags = SendFlags.Signaled,
            RKey = lease.Region.Key,
        };
        Assert.Equal(Errno.Success, pair.PostSend(read, new Sge(0, (uint)Size, local.Key)));
        await UntilAsync(nic, () => faults.Count > 0);
        await UntilAsync(nic, owner.Nics[0].Device.Port.TryEnter); // the turn that met the fault has ended
        owner.Nics[0].Device.Port.Exit();
        using (owner.Context.Enter())
        {
            source.Buffer.Reservation.Unlock(ticket); // the map that waited for this ends on our thread
        }

        WorkCompletion[] found = new WorkCompletion[1];
        await UntilAsync(nic, () => completions.Poll(found) == 1);
        Assert.Equal((7UL, WorkCompletionStatus.Success), (found[0].WrId, found[0].Status));
        nic.Destroy(pair);
        await nic.DeregisterAsync(local);
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task An_engine_that_relies_on_polls_comes_back_when_its_application_is_about_to_wait()
    {
        // It relies on many polls in each absence. Who offers the processor with each gets it back when the slice of
        // somebody else is over: a handful of polls, on a busy machine.
        PortDriverOptions options = new()
        {
            EngineStandBack = TimeSpan.FromMilliseconds(20),
            EngineStandBackMax = TimeSpan.FromHours(1),
            IdlePollsBeforeYield = int.MaxValue,
        };
        await using WayleaveHost host = await StartAsync("127.0.0.2", new WayleaveHostOptions { Driver = options });
        NicHandle nic = host.Nics[0];
        CompletionWait completions = new(nic, 16);
        long wakes;
        do
        {
            // Its time may be over before the wait begins: then once more.
            await UntilAsync(nic, () => nic.Driver.Engine.IsAwayForLong);
            wakes = nic.Driver.Engine.Wakes;
            using CancellationTokenSource ends = CancellationTokenSource.CreateLinkedTokenSource(Cancellation);
            Task<WorkCompletion?> waiting = completions.NextAsync(ended: null, ends.Token).AsTask();
            await ends.CancelAsync();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => waiting);
            Cancellation.ThrowIfCancellationRequested();
        }
        while (nic.Driver.Engine.Wakes == wakes);
    }

    private static Task<WayleaveHost> StartAsync(string address, WayleaveHostOptions options) =>
        WayleaveHost.StartAsync(
        new HostConfig
        {
            Nics = [new NicConfig { Address = IPAddress.Parse(address), UdpPort = 0 }],
            Gpus = [new GpuConfig { VramBytes = 4 << 20, SystemPoolBytes = 4 << 20 }],
        },
        options);

    // As NicHandle connects, but without a time-out.
    private static void Connect(NicHandle nic, QueuePair pair, ConnectionEnd peer, uint psn)
    {
        QueuePairAttributes attributes = new()
        {
            AddressVector = new AddressVector(peer.Gid, peer.UdpPort),
            PathMtu = PathMtu.Mtu4096,
            DestQpNumber = peer.QpNumber,
            RqPsn = peer.Psn,
            SqPsn = psn,
            MaxRdAtomic = 16,
            Timeout = 0,
        };
        nic.Driver.WithToken(() =>
        {
            Modify(
                QueuePairState.Init,
                QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.Port | QueuePairAttributeMask.AccessFlags);
            Modify(
                QueuePairState.ReadyToReceive,
                QueuePairAttributeMask.AddressVector | QueuePairAttributeMask.PathMtu
                | QueuePairAttributeMask.DestQpNumber | QueuePairAttributeMask.RqPsn
                | QueuePairAttributeMask.MaxDestRdAtomic | QueuePairAttributeMask.MinRnrTimer);
            Modify(
                QueuePairState.ReadyToSend,
                QueuePairAttributeMask.Timeout | QueuePairAttributeMask.RetryCount | QueuePairAttributeMask.RnrRetry
                    | QueuePairAttributeMask.SqPsn | QueuePairAttributeMask.MaxRdAtomic);
        });

        void Modify(QueuePairState state, QueuePairAttributeMask mask) => Assert.Equal(
            Errno.Success, pair.Modify(attributes with { State = state }, mask | QueuePairAttributeMask.State));
    }

    private static AcquireTicket Invalidate(HostContext host, SharedBuffer buffer)
    {
        using (host.Enter())
        {
            AcquireTicket ticket = new(host, "test");
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
            buffer.InvalidateMappings(ticket);
            return ticket;
        }
    }

    private static async Task UntilAsync(NicHandle polled, Func<bool> condition)
    {
        while (!condition())
        {
            Cancellation.ThrowIfCancellationRequested();
            polled.Driver.TryProgress();
            await Task.Yield();
        }
    }

    private sealed class FaultLog : ITraceSink
    {
        private int _count;

        public int Count => Volatile.Read(ref _count);

        public void Emit(in TraceEvent traceEvent)
        {
            if (traceEvent.Name == "rdma.fault")
            {
                Interlocked.Increment(ref _count);
            }
        }
    }
}
