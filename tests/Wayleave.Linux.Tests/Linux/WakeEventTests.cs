using Wayleave.Core;
using Wayleave.Linux.Interop;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>The sleeper and its wakers in every order of their atomic steps, with a real eventfd.</summary>
public sealed unsafe class WakeEventTests : IDisposable
{
    private WakeEvent? _wake;

    public void Dispose() => _wake?.Dispose();

    [Fact]
    public void A_signal_is_never_lost_and_the_wrong_order_of_looking_is_caught()
    {
        Exploration e = Explorer.Exhaustive(_ => Build(wakers: 1, wake => wake.Signal()));
        Assert.True(e.Runs > 100, e.ToString());
        Explorer.Seeded(_ => Build(wakers: 2, wake => wake.Signal()), seed: 1, runs: 500);
        Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(_ => Build(wakers: 1, wake => wake.SignalAfterLooking())));
    }

    [Fact]
    public void Nobody_asleep_costs_no_system_call()
    {
        using WakeEvent wake = new();
        wake.Signal();
        wake.Signal();
        Assert.Equal(0, wake.KernelWakes);
        Assert.False(wake.TryBeginSleep());
        Assert.True(wake.TryBeginSleep());
        wake.Signal();
        wake.Signal();
        Assert.Equal(1, wake.KernelWakes);
        Assert.True(IsReadable(wake.Descriptor));
        Assert.True(wake.EndSleep(eventReady: true));
        Assert.False(IsReadable(wake.Descriptor));
        Assert.True(wake.TryBeginSleep());
        Assert.False(wake.EndSleep(eventReady: false));
    }

    [Fact]
    public void An_eventfd_counts_signals_until_they_are_taken()
    {
        using EventFd e = new();
        Assert.Equal(0u, e.Take());
        e.Signal();
        e.Signal();
        Assert.Equal(2u, e.Take());
        Assert.Equal(0u, e.Take());
        e.Dispose();
        Assert.Throws<ObjectDisposedException>(e.Signal);
    }

    // A waker leaves work and signals. The sleeper sleeps once, and that sleep may end at any time, as by a datagram;
    // it takes the work, and sleeps again, for good. Lost means: it sleeps, every waker is done, there is work it has
    // not seen, and the eventfd (polled, hence level-triggered) does not wake it.
    private Scenario Build(int wakers, Action<WakeEvent> signal)
    {
        Interleave.Hook = ThreadedActor.Stop;
        _wake?.Dispose();
        WakeEvent wake = _wake = new WakeEvent();
        int work = 0, seen = 0, finished = 0;
        bool sleeps = false;
        void Sleep()
        {
            if (wake.TryBeginSleep())
            {
                wake.EndSleep(IsReadable(wake.Descriptor));
            }

            seen = work;
            ThreadedActor.Stop("sleep again");
            sleeps = wake.TryBeginSleep();
        }

        void Wake()
        {
            work++;
            signal(wake);
            finished++;
        }

        List<Actor> actors = [new("sleeper", new ThreadedActor(Sleep).Steps())];
        for (int waker = 0; waker < wakers; waker++)
        {
            actors.Add(new($"waker {waker}", new ThreadedActor(Wake).Steps()));
        }

        return new Scenario(actors, () =>
        {
            if (sleeps && finished == wakers && seen < work && !IsReadable(wake.Descriptor))
            {
                throw new InvalidOperationException("all signals are out, there is work, and the sleeper sleeps");
            }
        });
    }

    private static bool IsReadable(FileDescriptor descriptor)
    {
        using FileDescriptor.Borrowed fd = descriptor.Borrow();
        pollfd polled = new() { fd = fd.Number, events = poll.POLLIN };
        timespec now = default;
        return Libc.ppoll(&polled, 1, &now, null) == 1;
    }
}
