using Wayleave.Core.Checking;

namespace Wayleave.Core.Fences;

/// <summary>
/// Who waits for one event of a fence: Core's own observers, which run inside it with the host lock held, and
/// callbacks, which run after the lock. Each hears of it once. Most fences have one of a kind at most, which is kept
/// without a list: whoever signals would fetch each object on the way from the processor that added it. Host lock held.
/// </summary>
internal struct FenceWatchers
{
    private object? _observers; // an Action<Fence>, or a list of several
    private object? _callbacks;

    public void Observe(Action<Fence> observer) => Add(ref _observers, observer);

    public bool TryStopObserving(Action<Fence> observer) => TryRemove(ref _observers, observer);

    public void AddCallback(Action<Fence> callback) => Add(ref _callbacks, callback);

    public bool TryRemoveCallback(Action<Fence> callback) => TryRemove(ref _callbacks, callback);

    /// <summary>It has happened. Both are taken before anything runs: what runs may look at the fence.</summary>
    public void Tell(Fence fence)
    {
        if (_observers is null && _callbacks is null)
        {
            return;
        }

        (object? observers, object? callbacks) = (_observers, _callbacks);
        (_observers, _callbacks) = (null, null);
        if (observers is not null)
        {
            using SignalingSection suspended = SignalingSection.Suspend(); // waiters go on, not who signals
            if (observers is Action<Fence> only)
            {
                only(fence);
            }
            else
            {
                foreach (Action<Fence> observer in (List<Action<Fence>>)observers)
                {
                    observer(fence);
                }
            }
        }

        if (callbacks is Action<Fence> one)
        {
            fence.Host.Defer(one, fence);
        }
        else if (callbacks is not null)
        {
            foreach (Action<Fence> callback in (List<Action<Fence>>)callbacks)
            {
                fence.Host.Defer(callback, fence);
            }
        }
    }

    private static void Add(ref object? watchers, Action<Fence> watcher)
    {
        if (watchers is null)
        {
            watchers = watcher;
        }
        else if (watchers is List<Action<Fence>> several)
        {
            several.Add(watcher);
        }
        else
        {
            watchers = new List<Action<Fence>> { (Action<Fence>)watchers, watcher };
        }
    }

    private static bool TryRemove(ref object? watchers, Action<Fence> watcher)
    {
        if (watchers is List<Action<Fence>> several)
        {
            return several.Remove(watcher);
        }

        bool isKept = watcher.Equals(watchers);
        watchers = isKept ? null : watchers;
        return isKept;
    }
}
