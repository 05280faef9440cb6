namespace Wayleave.Cli.Demo;

/// <summary>
/// How many bytes a transfer has moved, as its thread tells it, and a wait for them. One waiter at a time; any threads.
/// </summary>
internal sealed class ByteCount
{
    private readonly Lock _lock = new();
    private ulong _bytes;
    private ulong _wanted;
    private TaskCompletionSource? _reached;

    public ulong Bytes
    {
        get
        {
            lock (_lock)
            {
                return _bytes;
            }
        }
    }

    /// <summary>So many bytes have moved; never fewer than before.</summary>
    public void Tell(ulong bytes)
    {
        lock (_lock)
        {
            _bytes = bytes;
            if (bytes >= _wanted)
            {
                _reached?.TrySetResult();
            }
        }
    }

    /// <summary>Ends when <paramref name="bytes"/> have moved, or when the transfer has ended without.</summary>
    public async Task WaitAsync(ulong bytes, Task transfer, CancellationToken cancellation)
    {
        TaskCompletionSource reached = new(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_lock)
        {
            if (_bytes >= bytes)
            {
                return;
            }

            (_wanted, _reached) = (bytes, reached);
        }

        await Task.WhenAny(reached.Task, transfer).WaitAsync(cancellation).ConfigureAwait(false);
    }
}
