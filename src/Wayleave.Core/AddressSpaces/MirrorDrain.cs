namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// The accesses of a device that were under way when a range was taken from it: a mirror's callback waits for them to
/// end. It is no fence: nothing else depends on it, and it ends without anybody's help. Host lock held by the caller,
/// unless a member says otherwise.
/// </summary>
public sealed class MirrorDrain(HostContext host)
{
    private Action? _callback;
    private volatile bool _isCompleted;

    /// <summary>Readable without the lock.</summary>
    public bool IsCompleted => _isCompleted;

    /// <summary>The last access has ended. The second call does nothing.</summary>
    public void Complete()
    {
        host.AssertHeld();
        _isCompleted = true;
        (Action? callback, _callback) = (_callback, null);
        if (callback is not null)
        {
            host.Defer(callback);
        }
    }

    /// <summary>Runs <paramref name="callback"/> after the end, without the lock; false when that was before.</summary>
    public bool TryAddCallback(Action callback)
    {
        host.AssertHeld();
        if (_isCompleted)
        {
            return false;
        }

        _callback += callback;
        return true;
    }
}
