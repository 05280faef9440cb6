using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

// A capture has one order, but its two directions were not locked to each other: rxe may have sent two more packets
// between the arrival of a response and its processing. The PSNs say what rxe knew. While each request follows the one
// before, responses wait, unless the machine has nothing to send without them; where the PSN jumps, they have all been
// seen.

/// <summary>
/// Posts the work requests, gives the machine each captured response once the request that it answers was sent, and
/// compares the requests. Time stands still until nothing else can happen, and then goes to the next timer.
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
    private uint? _followingPsn; // behind the last captured request: what a request has that nothing came in between
    private int _timers;

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
        if (expected.Psn != _followingPsn)
        {
            FeedAll();
        }

        _followingPsn = TryView(expected, out PacketView captured) ? PsnBehind(captured) : null;
        ReadOnlySpan<byte> packet;
        Transmit transmit;
        while (!TryTransmit(out packet, out transmit))
        {
            if (_inbox.Count > 0)
            {
                FeedNext();
            }
            else if (_timers++ == TimersMax || !TryTakeTimer())
            {
                return false;
            }
        }

        Compare(expected, packet, transmit);
        CompareCause(expected, packet);
        return true;
    }

    // A READ takes as many PSNs as its response has packets.
    private uint PsnBehind(in PacketView request)
    {
        uint mtu = (uint)(Side.Qp.PathMtu ?? 1);
        uint packets = request.Opcode == Opcode.RcReadRequest ? Math.Max(1, (request.Reth.Length + mtu - 1) / mtu) : 1;
        return Psn.Add(request.Psn, packets);
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

        // Several requests may have one id: each of them, up to the awaited one, has to have completed.
        VectorWorkRequest? awaited = Side.WorkRequests.FirstOrDefault(r => r.Index == request.Post.WorkRequest);
        return awaited is not null
            && Machine.Completions.Count(c => c.WrId == awaited.WrId)
                >= Side.WorkRequests.Count(r => r.WrId == awaited.WrId && r.Index <= awaited.Index);
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
        _nextPsn = isRepetition ? _nextPsn : PsnBehind(view);
        string wanted = expected.Retransmission ?? "none";
        if (got != wanted)
        {
            AddPacketMismatch(expected, "retransmission", wanted, got);
        }
    }
}
