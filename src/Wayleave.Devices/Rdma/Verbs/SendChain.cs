using Wayleave.Core;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// As <see cref="SendPost"/>, for a chain that is made in several calls and cannot stay on a stack
/// (<c>ibv_wr_start</c> to <c>ibv_wr_complete</c>). One for each queue pair that wants it, used again and again;
/// between <see cref="Begin"/> and its end it belongs to the thread that began.
/// </summary>
/// <param name="pair">Whose send queue.</param>
public sealed class SendChain(QueuePair pair)
{
    private int _count;

    /// <summary>
    /// Begins; other threads that post to this queue pair wait until <see cref="End"/> or <see cref="Abort"/>.
    /// </summary>
    public void Begin()
    {
        pair.Sends.Begin();
        _count = 0;
    }

    /// <summary>As <see cref="SendPost.Add"/>. Begun.</summary>
    public Errno Add(in SendWorkRequest request, ReadOnlySpan<Sge> sges) =>
        Note(pair.MaySend ? pair.Sends.TryAdd(request, sges) : Errno.EINVAL);

    /// <summary>As <see cref="SendPost.AddInline"/>. Begun.</summary>
    public Errno AddInline(in SendWorkRequest request, ReadOnlySpan<byte> data) =>
        Note(pair.MaySend ? pair.Sends.TryAddInline(request, data) : Errno.EINVAL);

    /// <summary>As <see cref="SendPost.AddBind"/>, under a key that the caller chose. Begun.</summary>
    public Errno AddBind(MemoryWindow window, in WindowBind bind, ulong wrId, SendFlags flags, uint key)
    {
        ArgumentNullException.ThrowIfNull(window);
        SendWorkRequest request = new() { WrId = wrId, Flags = flags };
        Errno errno = Note(pair.MaySend ? pair.Sends.TryAddBind(request, window, bind, key) : Errno.EINVAL);
        if (errno == Errno.Success)
        {
            window.NotePosted(key);
        }

        return errno;
    }

    /// <summary>Hands the chain over and rings the doorbell (<c>ibv_wr_complete</c>).</summary>
    public void End()
    {
        pair.Sends.End();
        if (_count > 0)
        {
            pair.Port.RingDoorbell(pair);
        }
    }

    /// <summary>Forgets the whole chain (<c>ibv_wr_abort</c>).</summary>
    public void Abort() => pair.Sends.Abort();

    private Errno Note(Errno errno)
    {
        _count += errno == Errno.Success ? 1 : 0;
        return errno;
    }
}
