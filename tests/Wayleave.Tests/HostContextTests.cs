using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests;

public class HostContextTests
{
    private readonly HostContext _host = new(new VirtualClock());

    [Fact]
    public void A_callback_that_throws_takes_nothing_from_the_others_and_is_reported()
    {
        bool ran = false;
        Exception? e = Record.Exception(() =>
        {
            using (_host.Enter())
            {
                Fence fence = new Timeline(_host, "work").CreateFence();
                fence.TryAddCallback(_ => throw new TimeoutException("first waiter"));
                fence.TryAddCallback(_ => ran = true);
                fence.Signal();
            }
        });
        Assert.True(ran);
        Assert.Equal("first waiter", Assert.IsType<TimeoutException>(e).Message);
        Assert.False(_host.IsHeld);
        using (_host.Enter())
        {
            // Nothing is left over from before.
        }
    }

    [Fact]
    public void Callbacks_that_throw_are_all_reported()
    {
        AggregateException e = Assert.Throws<AggregateException>(() =>
        {
            using (_host.Enter())
            {
                _host.Defer(() => throw new TimeoutException());
                _host.Defer(() => throw new InvalidOperationException());
            }
        });
        Assert.Equal(2, e.InnerExceptions.Count);
    }
}
