using Wayleave.Core;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

public class FutexTests
{
    private static readonly TimeSpan s_short = TimeSpan.FromMilliseconds(1);

    [Fact]
    public void A_word_with_another_value_lets_nobody_sleep()
    {
        int word = 7;
        Assert.Equal(Errno.EAGAIN, Futex.Wait(ref word, expected: 6, Timeout.InfiniteTimeSpan));
    }

    [Fact]
    public void A_sleep_ends_when_its_time_is_up()
    {
        int word = 7;
        Assert.Equal(Errno.ETIMEDOUT, Futex.Wait(ref word, expected: 7, s_short));
        Assert.Throws<ArgumentOutOfRangeException>(() => Futex.Wait(ref word, expected: 7, TimeSpan.FromTicks(-2)));
    }

    [Fact]
    public void Waking_nobody_wakes_nobody()
    {
        int word = 0;
        Assert.Equal(0, Futex.Wake(ref word));
    }

    [Fact]
    public void A_sleeper_is_woken_through_a_word_in_an_object()
    {
        int[] words = new int[1];
        Thread sleeper = Start(() =>
        {
            while (Volatile.Read(ref words[0]) == 0)
            {
                Futex.Wait(ref words[0], expected: 0, Timeout.InfiniteTimeSpan);
            }
        });
        GC.Collect(); // may move the array if nobody sleeps on it yet; the word is found all the same
        while (Futex.Wake(ref words[0], sleepersMax: 1) == 0)
        {
            Thread.Yield();
        }

        Volatile.Write(ref words[0], 1);
        Futex.Wake(ref words[0]);
        sleeper.Join();
    }

    [Fact]
    public void A_set_word_does_not_wait_and_a_clear_one_times_out()
    {
        WaitWord word = new();
        Assert.False(word.Wait(TimeSpan.Zero));
        Assert.False(word.Wait(s_short));
        word.Set();
        Assert.True(word.Wait(TimeSpan.Zero));
        Assert.True(word.Wait(Timeout.InfiniteTimeSpan));
        word.Reset();
        Assert.False(word.Wait(TimeSpan.Zero));
        Assert.Throws<ArgumentOutOfRangeException>(() => word.Wait(TimeSpan.FromTicks(-2)));
    }

    [Fact]
    public void A_word_that_nobody_waits_for_is_set_without_a_system_call()
    {
        WaitWord word = new();
        Assert.False(word.HasSleepers);
        Assert.False(word.Set());
        Assert.True(word.IsSet);
    }

    [Fact]
    public void One_set_lets_every_sleeper_go()
    {
        WaitWord word = new();
        Thread[] sleepers =
            [.. Enumerable.Range(0, 3).Select(_ => Start(() => Assert.True(word.Wait(Timeout.InfiniteTimeSpan))))];
        while (!word.HasSleepers)
        {
            Thread.Yield();
        }

        word.Set();
        foreach (Thread sleeper in sleepers)
        {
            sleeper.Join();
        }

        Assert.True(word.IsSet);
    }

    [Fact]
    public void No_set_is_lost_between_the_spin_and_the_sleep()
    {
        // Two threads hand a turn to and fro; a lost wake-up would hang the test for ever.
        const int Rounds = 20_000;
        WaitWord ping = new(), pong = new();
        Thread other = Start(() =>
        {
            for (int round = 0; round < Rounds; round++)
            {
                ping.Wait(Timeout.InfiniteTimeSpan);
                ping.Reset();
                pong.Set();
            }
        });
        for (int round = 0; round < Rounds; round++)
        {
            ping.Set();
            Assert.True(pong.Wait(Timeout.InfiniteTimeSpan));
            pong.Reset();
        }

        other.Join();
    }

    private static Thread Start(Action body)
    {
        Thread thread = new(() => body()) { IsBackground = true };
        thread.Start();
        return thread;
    }
}
