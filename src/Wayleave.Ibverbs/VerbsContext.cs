using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Linux;

namespace Wayleave.Ibverbs;

/// <summary>An opened device (<c>struct ibv_context</c>): where its async events go.</summary>
/// <param name="device">Shared by all its contexts.</param>
/// <param name="wake">Raised once for each event; a semaphore that C reads.</param>
internal sealed class VerbsContext(VerbsDevice device, EventFd wake)
{
    private readonly Lock _lock = new();
    private readonly Queue<(AsyncEventType Type, nint Element)> _events = [];

    public VerbsDevice Device { get; } = device;

    /// <summary>An event of one of its objects. Any thread; returns at once.</summary>
    public void Raise(AsyncEventType type, nint element)
    {
        lock (_lock)
        {
            _events.Enqueue((type, element));
        }

        wake.Signal();
    }

    /// <summary>The oldest event.</summary>
    public bool TryTake(out AsyncEventType type, out nint element)
    {
        lock (_lock)
        {
            bool found = _events.TryDequeue(out (AsyncEventType Type, nint Element) oldest);
            (type, element) = oldest;
            return found;
        }
    }

    /// <summary>The object is gone: events of it that nobody took are forgotten.</summary>
    public void Forget(nint element)
    {
        lock (_lock)
        {
            for (int i = _events.Count; i > 0; i--)
            {
                (AsyncEventType Type, nint Element) e = _events.Dequeue();
                if (e.Element != element)
                {
                    _events.Enqueue(e);
                }
            }
        }
    }
}
