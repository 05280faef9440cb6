using Wayleave.Core;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;

namespace Wayleave.Host.Ethernet;

//   made --ended from outside: EndAsync--> over --> DisposeAsync by whoever made it --> ended
//     \------------------------------------------------^
//
// Who made it awaits its work and disposes it whatever happens; who ends it from outside waits for that.

/// <summary>
/// Something that uses an Ethernet NIC and device memory for as long as it lasts: a reception, a send. It ends by
/// itself, with its client, or because the NIC or the memory is taken from it.
/// </summary>
public abstract class NetOperation : IAsyncDisposable
{
    private readonly Lock _lock = new();
    private readonly CancellationTokenSource _over = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly IDisposable _use;
    private WayleaveException? _reason;
    private bool _isDisposed;

    /// <exception cref="WayleaveException">ENODEV: the NIC is on its way out.</exception>
    private protected NetOperation(WayleaveHost host, NetNic nic, string what)
    {
        (Host, Nic, What) = (host, nic, what);
        _use = nic.Presence.Use(what);
        nic.Add(this);
    }

    public NetNic Nic { get; }

    /// <summary>For people: <c>receive by queue 2 of nic0</c>.</summary>
    public string What { get; }

    private protected WayleaveHost Host { get; }

    /// <summary>The object whose memory it uses; null before there is one.</summary>
    private protected abstract DeviceObject? Used { get; }

    // Of the two that it uses, the one that is on its way out.
    private DevicePresence? Leaving =>
        !Nic.Presence.IsPresent ? Nic.Presence
        : Used?.Owner.Presence is { IsPresent: false } owner ? owner
        : null;

    /// <summary>Cancelled when it is ended from outside, and by <see cref="DisposeAsync"/>.</summary>
    private protected CancellationToken Over => _over.Token;

    public override string ToString() => What;

    /// <summary>Lets go of everything; what is under way is given up. Twice is fine.</summary>
    public async ValueTask DisposeAsync()
    {
        lock (_lock)
        {
            if (_isDisposed)
            {
                return;
            }

            _isDisposed = true;
            _over.Cancel();
        }

        try
        {
            await CloseAsync().ConfigureAwait(false);
        }
        finally
        {
            Nic.Remove(this);
            _use.Dispose();
            _over.Dispose();
            _ended.SetResult();
            GC.SuppressFinalize(this);
        }
    }

    /// <summary>Whether it uses the memory of that object.</summary>
    internal abstract bool Uses(DeviceObject o);

    /// <summary>Ends it: whoever made it is told <paramref name="reason"/>.</summary>
    /// <returns>Ends when nothing of it is left.</returns>
    internal Task EndAsync(WayleaveException reason)
    {
        lock (_lock)
        {
            if (!_isDisposed)
            {
                _reason ??= reason;
                _over.Cancel();
            }
        }

        return _ended.Task;
    }

    /// <summary>Lets go of everything. Called once; nothing new begins.</summary>
    private protected abstract Task CloseAsync();

    /// <summary>
    /// What is told of memory that was revoked: that a device leaves, if one does; else that it was taken back, in
    /// <paramref name="words"/>.
    /// </summary>
    private protected WayleaveException TakenBack(string words, Exception? inner) =>
        Leaving?.Gone(What, inner) ?? new WayleaveException(Errno.ENODEV, What, words, innerException: inner);

    /// <summary>
    /// What is to be told of a failure: why it was ended, if it was; that a device leaves, where nothing answered at
    /// its addresses before anybody ended it; else the failure.
    /// </summary>
    private protected Exception Explain(Exception failure)
    {
        WayleaveException? reason;
        lock (_lock)
        {
            reason = _reason;
        }

        return reason is not null ? new WayleaveException(reason.Errno, What, reason.Reason, reason.Remedy, failure)
            : failure is WayleaveException { Errno: Errno.EFAULT or Errno.ENODEV } && Leaving is { } leaving
                ? leaving.Gone(What, failure)
            : failure;
    }
}
