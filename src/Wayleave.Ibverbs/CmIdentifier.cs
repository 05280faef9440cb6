using Wayleave.Devices.Rdma.Connections;
using Wayleave.Linux;

namespace Wayleave.Ibverbs;

/// <summary>Something that a program finds in an event channel.</summary>
/// <param name="Subject">Whose it is; of a request the listener.</param>
/// <param name="Kind">As <c>enum rdma_cm_event_type</c> has it.</param>
/// <param name="Status">0, a negative errno, or the reason of a rejection.</param>
/// <param name="PrivateData">Of the peer.</param>
/// <param name="Request">The connection that a peer asks for.</param>
internal sealed record CmNote(
    CmIdentifier Subject,
    uint Kind,
    int Status,
    ReadOnlyMemory<byte> PrivateData = default,
    CmIdentifier? Request = null);

/// <summary><c>struct rdma_event_channel</c>: events of several identifiers, in order.</summary>
/// <param name="wake">A semaphore that C reads.</param>
internal sealed class CmChannel(EventFd wake)
{
    private readonly Lock _lock = new();
    private readonly Queue<CmNote> _notes = [];

    /// <summary>Any thread; returns at once.</summary>
    public void Raise(CmNote note)
    {
        lock (_lock)
        {
            _notes.Enqueue(note);
            wake.Signal(); // inside: whoever removes the event finds its count too
        }
    }

    /// <summary>The oldest event; null when there is none.</summary>
    public CmNote? Take()
    {
        lock (_lock)
        {
            return _notes.TryDequeue(out CmNote? note) ? note : null;
        }
    }

    /// <summary>Takes the events of an identifier out, for another channel or for nobody.</summary>
    /// <param name="subject">Whose.</param>
    /// <param name="which">Null for all of them.</param>
    public List<CmNote> Remove(CmIdentifier subject, Predicate<CmNote>? which = null)
    {
        List<CmNote> removed = [];
        lock (_lock)
        {
            for (int i = _notes.Count; i > 0; i--)
            {
                CmNote note = _notes.Dequeue();
                if (ReferenceEquals(note.Subject, subject) && (which is null || which(note)))
                {
                    removed.Add(note);
                }
                else
                {
                    _notes.Enqueue(note);
                }
            }
        }

        return removed;
    }
}

/// <summary><c>struct rdma_cm_id</c>: a listener, or one side of a connection.</summary>
internal sealed class CmIdentifier(CmChannel channel, nint structure)
{
    /// <summary>Where its events go.</summary>
    public CmChannel Channel { get; set; } = channel;

    /// <summary>0 until C has made one for a request.</summary>
    public nint Structure { get; set; } = structure;

    /// <summary>Set with the first command.</summary>
    public ConnectionSwitch? Switch { get; set; }

    public CmListener? Listener { get; set; }

    public CmConnection? Connection { get; set; }
}
