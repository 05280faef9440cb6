using Wayleave.Core;

namespace Wayleave.Host.Removal;

/// <summary>Where a device of a running host is on its way out.</summary>
public enum DevicePresenceState
{
    Present,

    /// <summary>Nothing new begins on it; what it has is being taken back.</summary>
    Leaving,

    /// <summary>Nothing answers at its addresses any more.</summary>
    Gone,
}

//   Present --TryLeave--> Leaving --HandleGone--> Gone

/// <summary>
/// Whether a device can be used, and by how many just now: whoever begins something that must not meet the end of the
/// device in its middle says so for that long. Threads may share it; no lock is held while anybody waits.
/// </summary>
/// <param name="name">The device, for failures.</param>
public sealed class DevicePresence(string name)
{
    private readonly Lock _lock = new();
    private int _uses;
    private TaskCompletionSource? _idle;
    private volatile DevicePresenceState _state;

    public DevicePresenceState State => _state;

    public bool IsPresent => _state == DevicePresenceState.Present;

    /// <summary>Begins a use, which ends when what is returned is disposed.</summary>
    /// <param name="operation">For the failure.</param>
    /// <exception cref="WayleaveException">ENODEV: the device is on its way out, or gone.</exception>
    public IDisposable Use(string operation)
    {
        lock (_lock)
        {
            if (_state != DevicePresenceState.Present)
            {
                throw Gone(operation);
            }

            _uses++;
            return new Hold(this);
        }
    }

    /// <summary>What somebody is told whose work ended because the device left.</summary>
    public WayleaveException Gone(string operation, Exception? inner = null) =>
        new(Errno.ENODEV, operation, $"{name} was pulled out", "wayleave devices shows what there is", inner);

    /// <summary>
    /// Awaits an access to memory of the device. A device that is pulled out by surprise stops answering before its
    /// memory is revoked: in both cases it is told that it was pulled out.
    /// </summary>
    /// <param name="operation">For the failure.</param>
    /// <param name="access">Its EFAULT and ENODEV are explained so, while the device is on its way out.</param>
    internal async Task WatchAsync(string operation, Task access)
    {
        try
        {
            await access.ConfigureAwait(false);
        }
        catch (WayleaveException e) when (e.Errno is Errno.EFAULT or Errno.ENODEV && !IsPresent)
        {
            throw Gone(operation, e);
        }
    }

    /// <summary>Lets nothing begin any more. True also for who asks again, as long as it is not gone.</summary>
    internal bool TryLeave()
    {
        lock (_lock)
        {
            if (_state == DevicePresenceState.Gone)
            {
                return false;
            }

            _state = DevicePresenceState.Leaving;
            return true;
        }
    }

    /// <summary>Ends when nothing that began before <see cref="TryLeave"/> is under way.</summary>
    internal Task WhenIdleAsync()
    {
        lock (_lock)
        {
            _idle ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            if (_uses == 0)
            {
                _idle.TrySetResult();
            }

            return _idle.Task;
        }
    }

    internal void HandleGone() => _state = DevicePresenceState.Gone;

    private void End()
    {
        lock (_lock)
        {
            if (--_uses == 0)
            {
                _idle?.TrySetResult();
            }
        }
    }

    private sealed class Hold(DevicePresence presence) : IDisposable
    {
        private DevicePresence? _presence = presence;

        public void Dispose() => Interlocked.Exchange(ref _presence, null)?.End();
    }
}
