using System.Collections.Concurrent;
using System.Globalization;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Control;

/// <summary>
/// Objects that a client made and has not leased yet. A client that dies between the two requests holds no stream by
/// which that would be noticed; a timer gives its object up.
/// </summary>
internal sealed class UnleasedObjects(ObjectStore objects, ControlListenerOptions options) : IDisposable
{
    private readonly ConcurrentDictionary<DeviceObject, ITimer> _timers = [];

    public void Watch(DeviceObject made)
    {
        ITimer timer = options.Clock.CreateTimer(
            _ => _ = GiveUpAsync(made), null, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
        _timers[made] = timer;
        timer.Change(options.UnleasedObjectMax, Timeout.InfiniteTimeSpan);
    }

    /// <summary>Somebody else looks after the object from now on.</summary>
    public void Forget(DeviceObject made)
    {
        if (_timers.TryRemove(made, out ITimer? timer))
        {
            timer.Dispose();
        }
    }

    public void Dispose()
    {
        foreach (DeviceObject made in _timers.Keys)
        {
            Forget(made);
        }
    }

    private async Task GiveUpAsync(DeviceObject made)
    {
        if (!_timers.TryRemove(made, out ITimer? timer))
        {
            return;
        }

        await timer.DisposeAsync().ConfigureAwait(false);
        try
        {
            await objects.AbortAsync(made, "nobody leased it in time").ConfigureAwait(false);
        }
        catch (Exception e)
        {
            // Nobody awaits a timer: what went wrong must at least be seen.
            options.Log?.WriteLine(string.Create(CultureInfo.InvariantCulture, $"wayleave: give up {made}: {e}"));
        }
    }
}
