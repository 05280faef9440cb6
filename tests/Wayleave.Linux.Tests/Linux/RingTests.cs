using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Sharing;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>
/// The two ends of a ring in shared memory, in every order of their atomic steps, and with garbage in it.
/// </summary>
public sealed class RingTests : IDisposable
{
    private const int Slots = 4;

    private RingMemory? _memory;

    public void Dispose() => _memory?.Dispose();

    [Fact]
    public void A_wake_up_is_never_lost_and_who_does_not_look_again_is_caught()
    {
        Exploration e = Explorer.Exhaustive(_ => Build(entries: 2, consumer => consumer.TryBeginSleep()));
        Assert.True(e.Runs > 20, e.ToString());
        Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => Build(entries: 2, consumer => consumer.BeginSleepWithoutLooking())));
    }

    [Fact]
    public void Entries_come_in_order_and_a_full_ring_has_no_room()
    {
        RingMemory memory = New();
        RingProducer producer = RingProducer.OfCommands(memory);
        RingConsumer consumer = RingConsumer.OfCommands(memory);
        byte[] entry = new byte[RingMemory.CommandBytes];
        for (byte n = 0; n < 3 * Slots; n++)
        {
            entry[63] = n;
            Assert.True(producer.TryGetRoom(out int room) && room == Slots);
            producer.Write(entry);
            Assert.True(producer.TryGetRoom(out room) && room == Slots - 1);
            Assert.True(consumer.TryTake(entry, out bool isThere) && isThere && entry[63] == n);
            Assert.True(consumer.TryTake(entry, out isThere) && !isThere);
        }

        for (int n = 0; n < Slots; n++)
        {
            producer.Write(entry);
        }

        Assert.True(producer.TryGetRoom(out int none) && none == 0);
    }

    // A command whose entries come behind it is cut off when they are not there: the two must be seen in one.
    [Fact]
    public void Entries_that_are_written_together_are_seen_together_and_who_writes_them_one_by_one_is_caught()
    {
        Exploration e = Explorer.Exhaustive(
            _ => BuildPair((producer, entries) => producer.Write(entries)));
        Assert.True(e.Runs > 1, e.ToString());
        Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => BuildPair((producer, entries) =>
        {
            producer.Write(entries.AsSpan(0, RingMemory.CommandBytes));
            producer.Write(entries.AsSpan(RingMemory.CommandBytes));
        })));
    }

    [Theory]
    [InlineData(Slots + 1)]
    [InlineData(int.MinValue)]
    [InlineData(-1)]
    public void Indexes_that_cannot_be_are_noticed_and_nothing_is_read(int submitted)
    {
        RingMemory memory = New();
        RingConsumer consumer = RingConsumer.OfCommands(memory);
        RingProducer producer = RingProducer.OfCompletions(memory);
        byte[] entry = new byte[RingMemory.CommandBytes];
        Span<int> words = MemoryMarshal.Cast<byte, int>(memory.Bytes);
        words[128 / 4] = submitted;
        Assert.False(consumer.TryTake(entry, out bool isThere) || isThere);
        words[768 / 4] = submitted; // taken completions, of which there were none
        Assert.Equal(-submitted is >= 0 and <= Slots, producer.TryGetRoom(out _));
    }

    [Fact]
    public void Two_threads_pass_many_entries_and_sleep_between()
    {
        RingMemory memory = New();
        using EventFd doorbell = new();
        using DescriptorWatch watch = new();
        watch.AddEdges(1, doorbell.Descriptor);
        const int Count = 100_000;
        long sum = 0;
        Thread taker = new(() =>
        {
            RingConsumer consumer = RingConsumer.OfCommands(memory);
            byte[] entry = new byte[RingMemory.CommandBytes];
            List<ulong> ready = [];
            for (int n = 0; n < Count;)
            {
                Assert.True(consumer.TryTake(entry, out bool isThere));
                if (isThere)
                {
                    sum += MemoryMarshal.Read<int>(entry) == n ? 1 : 0;
                    n++;
                }
                else if (consumer.TryBeginSleep())
                {
                    watch.Wait(Timeout.InfiniteTimeSpan, ready);
                    consumer.EndSleep();
                }
            }
        });
        taker.Start();
        RingProducer producer = RingProducer.OfCommands(memory);
        byte[] made = new byte[RingMemory.CommandBytes];
        for (int n = 0; n < Count;)
        {
            Assert.True(producer.TryGetRoom(out int room));
            if (room == 0)
            {
                Thread.Yield();
                continue;
            }

            MemoryMarshal.Write(made, n++);
            producer.Write(made);
            if (producer.MustWake())
            {
                doorbell.Signal();
            }
        }

        taker.Join();
        Assert.Equal(Count, sum);
    }

    [Fact]
    public void Memory_of_another_size_or_that_could_shrink_is_no_ring()
    {
        using RingMemory memory = RingMemory.Create(Slots);
        Assert.Null(RingMemory.Open(MemFd.Create("small", 4096), Slots));
        Assert.Null(RingMemory.Open(MemFd.Create("zeros", 1 << 20), Slots));
        Assert.Throws<ArgumentOutOfRangeException>(() => RingMemory.Create(3));
        Assert.Throws<ArgumentOutOfRangeException>(() => RingMemory.Create(8192));
    }

    // Lost means: the consumer sleeps, the producer is done, an entry is there, and nobody has rung.
    private Scenario Build(int entries, Func<RingConsumer, bool> beginSleep)
    {
        Interleave.Hook = ThreadedActor.Stop;
        RingMemory memory = New();
        RingProducer producer = RingProducer.OfCommands(memory);
        RingConsumer consumer = RingConsumer.OfCommands(memory);
        int rung = 0, seen = 0;
        bool sleeps = false, isDone = false;
        void Consume()
        {
            byte[] entry = new byte[RingMemory.CommandBytes];
            for (int turn = 0; turn < entries; turn++)
            {
                int before = rung;
                if (beginSleep(consumer))
                {
                    if (before == rung && turn + 1 < entries)
                    {
                        consumer.EndSleep(); // as a time-out would
                    }
                    else
                    {
                        sleeps = before == rung;
                    }
                }

                while (!sleeps && consumer.TryTake(entry, out bool isThere) && isThere)
                {
                    seen++;
                }
            }
        }

        void Produce()
        {
            byte[] entry = new byte[RingMemory.CommandBytes];
            for (int n = 0; n < entries; n++)
            {
                producer.Write(entry);
                if (producer.MustWake())
                {
                    rung++;
                    sleeps = false;
                }
            }

            isDone = true;
        }

        return new Scenario(
            [new("consumer", new ThreadedActor(Consume).Steps()), new("producer", new ThreadedActor(Produce).Steps())],
            () =>
            {
                if (sleeps && isDone && seen < entries)
                {
                    throw new InvalidOperationException("the producer is done, an entry is there, and nobody rang");
                }
            });
    }

    // The first entry says that another is behind it, across the end of the ring and not.
    private Scenario BuildPair(Action<RingProducer, byte[]> write)
    {
        Interleave.Hook = ThreadedActor.Stop;
        RingMemory memory = New();
        RingProducer producer = RingProducer.OfCommands(memory);
        RingConsumer consumer = RingConsumer.OfCommands(memory);
        bool isCut = false;
        void Consume()
        {
            byte[] entry = new byte[RingMemory.CommandBytes];
            for (int turn = 0; turn < 3; turn++)
            {
                Interleave.Point("test: look");
                if (consumer.TryTake(entry, out bool isThere) && isThere)
                {
                    isCut |= entry[0] != 1 || !consumer.TryTake(entry, out isThere) || !isThere || entry[0] != 2;
                }
            }
        }

        void Produce()
        {
            byte[] entries = new byte[2 * RingMemory.CommandBytes];
            (entries[0], entries[RingMemory.CommandBytes]) = (1, 2);
            write(producer, entries);
            write(producer, entries);
        }

        return new Scenario(
            [new("consumer", new ThreadedActor(Consume).Steps()), new("producer", new ThreadedActor(Produce).Steps())],
            () =>
            {
                if (isCut)
                {
                    throw new InvalidOperationException("an entry was seen without the one behind it");
                }
            });
    }

    private RingMemory New()
    {
        _memory?.Dispose();
        return _memory = RingMemory.Create(Slots);
    }
}
