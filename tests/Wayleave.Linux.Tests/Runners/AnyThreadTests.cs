using System.Buffers.Binary;
using System.Net;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Perftest;
using Xunit;

namespace Wayleave.Linux.Tests.Runners;

/// <summary>
/// Any thread may call anything: threads post to the same queue pairs, poll the same completion queues, drive the port
/// that two contexts share, and make and end objects of it meanwhile. Afterwards every request must have completed
/// once, and every byte have arrived.
/// </summary>
public sealed class AnyThreadTests
{
    private const int Threads = 4;
    private const int PostsPerThread = 4000;
    private const int PairsPerContext = 2;
    private const int Slots = Threads * PostsPerThread;
    private const int MarkerSlots = 2 * PairsPerContext;
    private const int RegionBytes = 8 * (Slots + MarkerSlots);

    [Fact(Timeout = Patience.TestMs)]
    public async Task Threads_that_share_queue_pairs_and_a_port_lose_nothing_and_see_nothing_twice() =>
        Assert.Null(await RunAsync(ResponderDefences.All, Patience.Max));

    // Without the flag two threads write into one slot. That a run finds it depends on how threads meet; that twenty do
    // not has never been seen, on one processor either.
    [Fact(Timeout = Patience.TestMs)]
    public async Task Posting_without_an_order_of_threads_is_noticed()
    {
        ResponderDefences broken = new() { OrdersPosters = false };
        string? verdict = null;
        for (int run = 0; run < 20 && verdict is null; run++)
        {
            verdict = await RunAsync(broken, TimeSpan.FromSeconds(3));
        }

        Assert.NotNull(verdict);
    }

    private static async Task<string?> RunAsync(ResponderDefences defences, TimeSpan patience)
    {
        await using WayleaveHost host = await WayleaveHost.StartAsync(
            new HostConfig
            {
                Nics = [new NicConfig { Address = IPAddress.Parse("127.0.0.41"), UdpPort = 0 }],
                Gpus = [new GpuConfig { VramBytes = 4 << 20, SystemPoolBytes = 4 << 20 }],
            },
            new WayleaveHostOptions { Defences = defences });
        await using Context first = await Context.OpenAsync(host);
        await using Context second = await Context.OpenAsync(host);
        Stress stress = new(host.Nics[0], first, second, patience);
        return await stress.RunAsync();
    }

    /// <summary>What one user of the device has of its own: a domain, memory, a completion queue.</summary>
    private sealed class Context(NicHandle nic, PerftestMemory memory) : IAsyncDisposable
    {
        public PerftestMemory Memory => memory;

        public MemoryRegion Region => memory.Region;

        public CompletionQueue Completions { get; } = nic.CreateCompletionQueue(4096);

        public QueuePair[] Pairs { get; } = new QueuePair[PairsPerContext];

        public static async Task<Context> OpenAsync(WayleaveHost host)
        {
            NicHandle nic = host.Nics[0];
            Context context = new(nic, await PerftestMemory.OpenAsync(
                host,
                nic,
                "memory",
                RegionBytes,
                AccessFlags.LocalWrite | AccessFlags.RemoteWrite,
                nic.Device.CreateProtectionDomain()));
            for (int i = 0; i < PairsPerContext; i++)
            {
                context.Pairs[i] = nic.CreateQueuePair(
                    context.Region.Domain, context.Completions, new QueuePairCapabilities { MaxSendWr = 64 });
            }

            return context;
        }

        public async ValueTask DisposeAsync()
        {
            foreach (QueuePair pair in Pairs)
            {
                nic.Destroy(pair);
            }

            await memory.CloseAsync();
        }
    }

    private sealed class Stress
    {
        private readonly NicHandle _nic;
        private readonly Context[] _contexts;
        private readonly CancellationTokenSource _patience;
        private readonly int[] _seen = new int[Slots + MarkerSlots];
        private int _next;
        private string? _problem;

        public Stress(NicHandle nic, Context first, Context second, TimeSpan patience)
        {
            (_nic, _contexts, _patience) = (nic, [first, second], new CancellationTokenSource(patience));
            for (int i = 0; i < PairsPerContext; i++)
            {
                (uint a, uint b) = (nic.ChoosePsn(), nic.ChoosePsn());
                (QueuePair one, QueuePair other) = (first.Pairs[i], second.Pairs[i]);
                nic.Connect(one, nic.DescribeEnd(other, b), AccessFlags.RemoteWrite, a);
                nic.Connect(other, nic.DescribeEnd(one, a), AccessFlags.RemoteWrite, b);
            }

            foreach (Context context in _contexts)
            {
                Span<byte> bytes = context.Memory.Bytes(0, RegionBytes);
                bytes.Clear();
            }
        }

        public async Task<string?> RunAsync()
        {
            Task[] threads = [.. Enumerable.Range(0, Threads).Select(i => Task.Factory.StartNew(
                () => Work(new Random(i)),
                CancellationToken.None,
                TaskCreationOptions.LongRunning,
                TaskScheduler.Default))];
            await Task.WhenAll(threads);
            AwaitMarkers();
            return _problem ?? Compare();
        }

        private void Work(Random random)
        {
            WorkCompletion[] batch = new WorkCompletion[8];
            SendChain[][] chains = [.. _contexts.Select(c => c.Pairs.Select(p => new SendChain(p)).ToArray())];
            try
            {
                for (int done = 0; done < PostsPerThread && _problem is null;)
                {
                    int context = random.Next(2);
                    switch (random.Next(24))
                    {
                        case < 12:
                            done += Post(chains, context, random, Math.Min(random.Next(1, 4), PostsPerThread - done));
                            break;
                        case < 20:
                            Poll(_contexts[context], batch);
                            break;
                        case < 22:
                            _nic.Driver.TryProgress();
                            break;
                        case 22:
                            _contexts[context].Completions.RequestNotify(solicitedOnly: random.Next(2) == 0);
                            break;
                        default:
                            UseDevice(_contexts[context], random);
                            break;
                    }
                }
            }
            catch (Exception e) when (e is not OutOfMemoryException)
            {
                _problem ??= e.ToString();
            }
        }

        private int Post(SendChain[][] chains, int context, Random random, int count)
        {
            int index = random.Next(PairsPerContext);
            if (random.Next(2) == 0)
            {
                PostOne(_contexts[context].Pairs[index], context, Interlocked.Increment(ref _next) - 1);
                return 1;
            }

            SendChain chain = chains[context][index];
            for (int i = 0; i < count; i++)
            {
                int slot = Interlocked.Increment(ref _next) - 1;
                while (!TryChain(chain, context, slot) && !HasEnded())
                {
                }
            }

            return count;
        }

        private bool TryChain(SendChain chain, int context, int slot)
        {
            chain.Begin();
            Errno errno = chain.Add(RequestOf(context, slot), [SourceOf(context, slot)]);
            if (errno == Errno.Success)
            {
                chain.End();
                return true;
            }

            chain.Abort();
            Make(errno);
            return false;
        }

        private void PostOne(QueuePair pair, int context, int slot)
        {
            Errno errno;
            while ((errno = pair.PostSend(RequestOf(context, slot), SourceOf(context, slot))) != Errno.Success
                && !HasEnded())
            {
                Make(errno);
            }
        }

        // A full queue is made empty by whoever finds it full.
        private void Make(Errno errno)
        {
            if (errno != Errno.ENOMEM)
            {
                _problem ??= $"a post was refused with {errno}";
            }

            WorkCompletion[] batch = new WorkCompletion[16];
            _nic.Driver.TryProgress();
            Poll(_contexts[0], batch);
            Poll(_contexts[1], batch);
        }

        private bool HasEnded()
        {
            if (_patience.IsCancellationRequested)
            {
                _problem ??= "the queues stay full";
            }

            return _problem is not null;
        }

        private SendWorkRequest RequestOf(int context, int slot)
        {
            Span<byte> source = _contexts[context].Memory.Bytes(8L * slot, 8);
            BinaryPrimitives.WriteUInt64LittleEndian(source, (ulong)slot + 1);
            return new SendWorkRequest
            {
                WrId = (ulong)slot,
                Opcode = WorkRequestOpcode.RdmaWrite,
                Flags = SendFlags.Signaled,
                RemoteAddress = _contexts[1 - context].Region.Iova + (8UL * (ulong)slot),
                RKey = _contexts[1 - context].Region.Key,
            };
        }

        private Sge SourceOf(int context, int slot)
        {
            MemoryRegion region = _contexts[context].Region;
            return new Sge(region.Iova + (8UL * (ulong)slot), 8, region.Key);
        }

        private void Poll(Context context, WorkCompletion[] batch)
        {
            foreach (WorkCompletion completion in batch.AsSpan(0, context.Completions.Poll(batch)))
            {
                if (completion.Status != WorkCompletionStatus.Success)
                {
                    _problem ??= $"request {completion.WrId} ended with {completion.Status}";
                }
                else if (Interlocked.Increment(ref _seen[completion.WrId]) != 1)
                {
                    _problem ??= $"request {completion.WrId} completed twice";
                }
            }
        }

        // Objects come and go beside those in use.
        private void UseDevice(Context context, Random random)
        {
            if (random.Next(4) != 0)
            {
                _nic.Driver.WithToken(() => _nic.Device.Port.Query());
                return;
            }

            QueuePair pair = _nic.CreateQueuePair(context.Region.Domain, context.Completions);
            if (random.Next(2) == 0)
            {
                _nic.Connect(pair, _nic.DescribeEnd(pair, 7), AccessFlags.RemoteWrite, 7); // to itself
            }

            _nic.Destroy(pair);
        }

        // Requests of a queue pair complete in order: when the last one has, so have all.
        private void AwaitMarkers()
        {
            WorkCompletion[] batch = new WorkCompletion[64];
            for (int i = 0; i < MarkerSlots && _problem is null; i++)
            {
                int slot = Slots + i;
                PostOne(_contexts[i % 2].Pairs[i / 2], i % 2, slot);
                while (_problem is null && Volatile.Read(ref _seen[slot]) == 0 && !HasEnded())
                {
                    _nic.Driver.TryProgress();
                    Poll(_contexts[0], batch);
                    Poll(_contexts[1], batch);
                }
            }
        }

        private string? Compare()
        {
            int lost = Array.FindIndex(_seen, n => n != 1);
            if (lost >= 0)
            {
                return $"request {lost} completed {_seen[lost]} times";
            }

            // Each slot was written in one direction, and stands in both memories then.
            ReadOnlySpan<byte> first = _contexts[0].Memory.Bytes(0, RegionBytes);
            ReadOnlySpan<byte> second = _contexts[1].Memory.Bytes(0, RegionBytes);
            for (int slot = 0; slot < Slots; slot++)
            {
                bool isThere = BinaryPrimitives.ReadUInt64LittleEndian(first[(8 * slot)..]) == (ulong)slot + 1
                    && BinaryPrimitives.ReadUInt64LittleEndian(second[(8 * slot)..]) == (ulong)slot + 1;
                if (!isThere)
                {
                    return $"what request {slot} wrote is not there";
                }
            }

            return null;
        }
    }
}
