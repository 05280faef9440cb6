using Wayleave.Core;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// A chain of send requests under way (<see cref="QueuePair.BeginSend"/>). What was added is handed to the port at
/// once, by <see cref="Dispose"/>, in order. A request that is refused leaves those before it in the chain: it is
/// <c>bad_wr</c>, and the caller stops there. Ended by the thread that began it.
/// </summary>
public ref struct SendPost
{
    private readonly QueuePair _pair;
    private readonly SendQueue _queue;
    private int _count;
    private bool _ended;

    internal SendPost(QueuePair pair, SendQueue queue)
    {
        (_pair, _queue) = (pair, queue);
        queue.Begin();
    }

    /// <summary>Requests added so far: the index of the one that was refused, if one was.</summary>
    public readonly int Count => _count;

    /// <summary>As <see cref="QueuePair.PostSend(in SendWorkRequest, ReadOnlySpan{Sge})"/>.</summary>
    public Errno Add(scoped in SendWorkRequest request, scoped ReadOnlySpan<Sge> sges) =>
        Note(_pair.MaySend ? _queue.TryAdd(request, sges) : Errno.EINVAL);

    /// <summary>As <see cref="QueuePair.PostSendInline"/>.</summary>
    public Errno AddInline(scoped in SendWorkRequest request, scoped ReadOnlySpan<byte> data) =>
        Note(_pair.MaySend ? _queue.TryAddInline(request, data) : Errno.EINVAL);

    /// <summary>As <see cref="QueuePair.PostBind"/>.</summary>
    public Errno AddBind(
        MemoryWindow window,
        in WindowBind bind,
        ulong wrId,
        SendFlags flags = SendFlags.Signaled,
        uint? key = null)
    {
        uint chosen = key ?? KeyTag.Next(window.Key);
        SendWorkRequest request = new() { WrId = wrId, Flags = flags };
        Errno errno = Note(_pair.MaySend ? _queue.TryAddBind(request, window, bind, chosen) : Errno.EINVAL);
        if (errno == Errno.Success)
        {
            window.NotePosted(chosen);
        }

        return errno;
    }

    /// <summary>Forgets the whole chain (<c>ibv_wr_abort</c>).</summary>
    public void Abort()
    {
        if (!_ended)
        {
            _ended = true;
            _queue.Abort();
        }
    }

    /// <summary>Hands the chain over and rings the doorbell (<c>ibv_wr_complete</c>).</summary>
    public void Dispose()
    {
        if (_ended)
        {
            return;
        }

        _ended = true;
        _queue.End();
        if (_count > 0)
        {
            _pair.Port.RingDoorbell(_pair);
        }
    }

    private Errno Note(Errno errno)
    {
        _count += errno == Errno.Success ? 1 : 0;
        return errno;
    }
}
