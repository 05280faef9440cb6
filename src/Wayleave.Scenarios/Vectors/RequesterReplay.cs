using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

// A capture has one order, but its two directions were not locked to each other: rxe may have sent two more packets between
// the arrival of a NAK and its processing. What the capture shows decides: a NAK waits until the packet comes that was sent
// again because of it, and everything behind a NAK waits with it.

/// <summary>
/// Posts the work requests, gives the machine each captured response once the request that it answers was sent, and compares
/// the requests. Time stands still until nothing else can happen, and then goes to the next timer.
/// </summary>
internal sealed class RequesterReplay(ReplayInput input) : ReplayRun(input)
{
    // A machine whose timers run without sending anything would keep us here.
    private const int TimersMax = 10_000;

    private readonly Queue<VectorPacket> _inbox = [];
    private bool[] _isPosted = [];
    private string? _cause; // of packets sent again, in the words of the descriptions
    private bool _isReceiverWaitedFor;
    private uint? _nextPsn; // behind everything ever sent

    protected override void Play()
    {
        _isPosted = new bool[Side.WorkRequests.Count];
        PostDueRequests();
        foreach (VectorPacket packet in Packets)
        {
            if (!IsOurs(packet))
            {
                _inbox.Enqueue(packet);
            }
            else if (!TrySend(packet))
            {
                break; // whatever follows would be compared with the wrong packet
            }
        }

        FeedAll();
        Finish();
    }

    /// <summary>Lets the machine send the next packet; false when it never does.</summary>
    private bool TrySend(VectorPacket expected)
    {
        FeedUntilNak();
        if (expected.Retransmission is not null)
        {
            FeedAll();
        }

        if (!TryTransmit(out ReadOnlySpan<byte> packet, out Transmit transmit))
        {
            FeedAll();
            for (int i = 0; !TryTransmit(out packet, out transmit); i++)
            {
                if (i == TimersMax || !TryTakeTimer())
                {
                    return false;
                }
            }
        }

        Compare(expected, packet, transmit);
        CompareCause(expected, packet);
        return true;
    }

    private bool TryTransmit(out ReadOnlySpan<byte> packet, out Transmit transmit)
    {
        PostDueRequests();
        return Machine.TryTransmit(out packet, out transmit);
    }

    // Completions that are due come by timers; what is sent meanwhile is more than the capture has.
    private void Finish()
    {
        for (int i = 0; i < TimersMax; i++)
        {
            PostDueRequests();
            while (Machine.TryTransmit(out ReadOnlySpan<byte> packet, out _))
            {
                if (Silence == TimeSpan.Zero)
                {
                    AddMismatch("end of the capture", "packet", "nothing more", Describe(packet));
                    return;
                }
            }

            // How often a request is repeated in the time of silence is only how long the program was watched.
            bool isDone = Silence == TimeSpan.Zero
                ? Machine.Completions.Count >= ExpectedCompletions.Count
                : Machine.NextDeadline is not { } next || next > Silence;
            if (isDone || !TryTakeTimer())
            {
                break;
            }
        }

        Machine.AdvanceTo(Silence);
    }

    private void PostDueRequests()
    {
        Machine.PollCompletions();
        for (int i = 0; i < _isPosted.Length; i++)
        {
            VectorWorkRequest request = Side.WorkRequests[i];
            if (!_isPosted[i] && IsDue(request))
            {
                _isPosted[i] = true;
                NotePost(Machine.Post(request), $"work request {request.Index}");
            }
        }
    }

    private bool IsDue(VectorWorkRequest request)
    {
        if (request.Post.When == "start")
        {
            return true;
        }

        VectorWorkRequest? awaited = Side.WorkRequests.FirstOrDefault(r => r.Index == request.Post.WorkRequest);
        return awaited is not null && Machine.Completions.Any(c => c.WrId == awaited.WrId);
    }

    private void FeedUntilNak()
    {
        while (_inbox.TryPeek(out VectorPacket? packet) && !IsNak(packet))
        {
            FeedNext();
        }
    }

    private void FeedAll()
    {
        while (_inbox.Count > 0)
        {
            FeedNext();
        }
    }

    private void FeedNext()
    {
        VectorPacket packet = _inbox.Dequeue();
        if (!packet.Dropped && packet.Ignored is null)
        {
            (_cause, _isReceiverWaitedFor) = KindOf(packet) switch
            {
                AethKind.ReceiverNotReady => ("rnr", true),
                AethKind.NegativeAcknowledge => ("nak_psn_sequence", false),
                _ => (_cause, _isReceiverWaitedFor),
            };
        }

        Feed(packet);
    }

    private bool IsNak(VectorPacket packet) => KindOf(packet) is AethKind.NegativeAcknowledge or AethKind.ReceiverNotReady;

    private AethKind? KindOf(VectorPacket packet) =>
        TryView(packet, out PacketView view) && view.Traits.Has(ExtensionHeaders.Aeth) ? view.Aeth.Kind : null;

    private bool TryTakeTimer()
    {
        if (Machine.NextDeadline is not { } deadline)
        {
            return false;
        }

        _cause = _isReceiverWaitedFor ? "rnr" : "timeout";
        _isReceiverWaitedFor = false;
        Machine.AdvanceTo(deadline);
        return true;
    }

    private void CompareCause(VectorPacket expected, ReadOnlySpan<byte> packet)
    {
        if (PacketView.TryParse(packet, out PacketView view) != DropReason.None)
        {
            return;
        }

        bool isRepetition = _nextPsn is { } next && Psn.Compare(view.Psn, next) < 0;
        string got = isRepetition ? _cause ?? "unknown" : "none";
        _nextPsn = isRepetition ? _nextPsn : Psn.Next(view.Psn);
        string wanted = expected.Retransmission ?? "none";
        if (got != wanted)
        {
            AddPacketMismatch(expected, "retransmission", wanted, got);
        }
    }
}
