using Wayleave.Core.Checking;

namespace Wayleave.Core.Fences;

/// <summary>
/// Who waits for one event of a fence: Core's own observers, which run inside it with the host lock held, and
/// callbacks, which run after the lock. Each hears of it once. Host lock held.
/// </summary>
internal sealed class FenceWatchers
{
    private List<Action<Fence>>? _observers;
    private List<Action<Fence>>? _callbacks;

    public void Observe(Action<Fence> observer) => (_observers ??= []).Add(observer);

    public bool TryStopObserving(Action<Fence> observer) => _observers?.Remove(observer) ?? false;

    public void AddCallback(Action<Fence> callback) => (_callbacks ??= []).Add(callback);

    public bool TryRemoveCallback(Action<Fence> callback) => _callbacks?.Remove(callback) ?? false;

    /// <summary>It has happened. Both lists are taken before anything runs: what runs may look at the fence.</summary>
    public void Tell(Fence fence)
    {
        (List<Action<Fence>>? observers, _observers) = (_observers, null);
        (List<Action<Fence>>? callbacks, _callbacks) = (_callbacks, null);
        if (observers is not null)
        {
            using SignalingSection suspended = SignalingSection.Suspend(); // waiters go on, not who signals
            foreach (Action<Fence> observer in observers)
            {
                observer(fence);
            }
        }

        if (callbacks is not null)
        {
            foreach (Action<Fence> callback in callbacks)
            {
                fence.Host.Defer(() => callback(fence));
            }
        }
    }
}
