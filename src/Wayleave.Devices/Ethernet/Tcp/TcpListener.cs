using System.Diagnostics.CodeAnalysis;
using Wayleave.Devices.Ethernet.Tcp.Wire;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

// RFC 9293 3.10.7.2 and, for what is half open, 3.10.7.4 with the changes of RFC 5961.
//
//   SYN --> SynQueue (or a cookie, when it is full) --third packet--> accept queue --TryAccept--> the user

/// <summary>A port that takes connections. Every member is called by whoever holds the endpoint's token.</summary>
public sealed class TcpListener
{
    private readonly TcpEndpoint _endpoint;
    private readonly SynQueue _half;
    private readonly Queue<TcpConnection> _accepted;
    private readonly int _backlog;

    internal TcpListener(TcpEndpoint endpoint, IpAddress? address, ushort port, int backlog)
    {
        (_endpoint, Address, Port, _backlog) = (endpoint, address, port, backlog);
        _half = new SynQueue(endpoint.Options.SynQueueMax, endpoint.Options.SynAckRetries);
        _accepted = new Queue<TcpConnection>(Math.Min(backlog, 1024));
    }

    /// <summary>The address it listens at; null for each of the host's.</summary>
    public IpAddress? Address { get; }

    public ushort Port { get; }

    /// <summary>Connections of which the third packet has not come.</summary>
    public int HalfOpenCount => _half.Count;

    /// <summary>Connections that wait for <see cref="TryAccept"/>.</summary>
    public int AcceptableCount => _accepted.Count;

    /// <summary>An object of the user; the endpoint does not look at it.</summary>
    public object? Tag { get; set; }

    internal SynQueue Half => _half;

    internal bool IsClosed { get; private set; }

    /// <summary>
    /// The connection that waited longest; the caller's from now on. It may be over already, with data to read.
    /// </summary>
    public bool TryAccept([NotNullWhen(true)] out TcpConnection? connection) => _accepted.TryDequeue(out connection);

    /// <summary>Takes no more. Connections that were not accepted are reset.</summary>
    public void Close()
    {
        IsClosed = true;
        _endpoint.Remove(this);
        while (_accepted.TryDequeue(out TcpConnection? connection))
        {
            connection.Abort();
            connection.Close();
        }
    }

    internal void HandleSegment(TimeSpan now, in TcpFlow flow, scoped in TcpSegment segment)
    {
        int place = _half.Find(flow);
        if (place >= 0)
        {
            HandleHalfOpen(now, ref _half[place], segment);
            return;
        }

        if (segment.HasRst)
        {
            return;
        }

        if (segment.HasAck)
        {
            if (segment.HasSyn || !TryAcceptCookie(now, flow, segment))
            {
                _endpoint.Answers.ToStranger(now, flow, segment);
            }

            return;
        }

        if (segment.HasSyn && !segment.HasFin)
        {
            HandleSyn(now, flow, segment);
        }
    }

    internal void HandleTimeout(TimeSpan now) => _half.HandleTimeout(now);

    /// <summary>The next answer to a SYN that is due.</summary>
    internal bool TryBuild(TimeSpan now, ref TcpTransmit transmit)
    {
        if (!_half.TryTakeDue(now, out HalfOpen half))
        {
            return false;
        }

        uint value = _endpoint.TimestampOf(half.Flow, now);
        transmit = MakeAnswer(
            half.Flow, half.InitialSequence, half.PeerSequence, half.Offered, value, half.WindowBytes);
        return true;
    }

    private void HandleSyn(TimeSpan now, in TcpFlow flow, scoped in TcpSegment segment)
    {
        SynCookieMode mode = _endpoint.Options.SynCookies;
        if (_accepted.Count > _backlog)
        {
            _endpoint.Stats.AcceptOverflows++;
            return;
        }

        if (mode == SynCookieMode.Always || (_half.IsFull && mode == SynCookieMode.WhenFull))
        {
            AnswerWithCookie(now, flow, segment);
            return;
        }

        if (_half.IsFull)
        {
            _endpoint.Stats.SynsDropped++;
            return;
        }

        _half.Add(new HalfOpen
        {
            Flow = flow,
            InitialSequence = _endpoint.Secrets.InitialSequence(flow, now),
            PeerSequence = segment.Sequence,
            Offered = segment.Options,
            WindowBytes = _endpoint.FirstWindow(segment.Queue),
            Queue = segment.Queue,
        });
    }

    private void AnswerWithCookie(TimeSpan now, in TcpFlow flow, scoped in TcpSegment segment)
    {
        int size = SegmentSizes.OfPeer(flow, segment.Options.MaximumSegment);
        uint cookie = _endpoint.Cookies.Make(flow, segment.Sequence, size, now);
        uint value = SynCookies.EncodeOptions(_endpoint.TimestampOf(flow, now), segment.Options);
        SegmentOptions offered = segment.Options;
        if (!offered.HasTimestamps || !_endpoint.Options.UsesTimestamps)
        {
            (offered.HasWindowScale, offered.IsSackPermitted) = (false, false);
        }

        _endpoint.Answers.Cookie(
            now,
            MakeAnswer(flow, cookie, segment.Sequence, offered, value, _endpoint.FirstWindow(segment.Queue)));
    }

    private TcpTransmit MakeAnswer(
        in TcpFlow flow, uint sequence, uint peerSequence, in SegmentOptions offered, uint timestamp, int windowBytes)
    {
        TcpEndpointOptions ours = _endpoint.Options;
        return new TcpTransmit
        {
            Flow = flow,
            Sequence = sequence,
            Acknowledgement = peerSequence + 1,
            Flags = TcpFlags.Syn | TcpFlags.Ack,
            Window = (ushort)windowBytes,
            Options = new SegmentOptions
            {
                MaximumSegment = (ushort)SegmentSizes.Ours(flow, ours.MtuBytes),
                IsSackPermitted = ours.UsesSack && offered.IsSackPermitted,
                HasTimestamps = ours.UsesTimestamps && offered.HasTimestamps,
                TimestampValue = timestamp,
                TimestampEcho = offered.TimestampValue,
                HasWindowScale = ours.UsesWindowScale && offered.HasWindowScale,
                WindowScale = (byte)_endpoint.WindowShift,
            },
        };
    }

    private bool TryAcceptCookie(TimeSpan now, in TcpFlow flow, scoped in TcpSegment segment)
    {
        if (_endpoint.Options.SynCookies == SynCookieMode.Never || !_endpoint.Answers.HaveCookiesBeenSent(now))
        {
            return false;
        }

        uint sequence = segment.Sequence - 1, cookie = segment.Acknowledgement - 1;
        if (!_endpoint.Cookies.TryCheck(flow, cookie, sequence, now, out ushort size))
        {
            _endpoint.Stats.CookiesRefused++;
            return false;
        }

        SegmentOptions offered = segment.Options.HasTimestamps && _endpoint.Options.UsesTimestamps
            ? SynCookies.DecodeOptions(segment.Options.TimestampEcho)
            : default;
        offered.MaximumSegment = size;
        offered.TimestampValue = segment.Options.TimestampValue;
        HalfOpen half = new()
        {
            Flow = flow,
            InitialSequence = cookie,
            PeerSequence = sequence,
            Offered = offered,
            WindowBytes = _endpoint.FirstWindow(segment.Queue),
            Queue = segment.Queue,
        };
        _endpoint.Stats.CookiesAccepted++;
        Establish(now, half, segment);
        return true;
    }

    private void HandleHalfOpen(TimeSpan now, ref HalfOpen half, scoped in TcpSegment segment)
    {
        int offset = Seq.Distance(half.PeerSequence + 1, segment.Sequence);
        bool isInWindow = offset >= 0 && offset < Math.Max(half.WindowBytes, 1);
        if (segment.HasRst)
        {
            if (offset == 0)
            {
                _endpoint.Stats.ResetsReceived++;
                _half.Remove(half.Flow);
            }
            else if (isInWindow)
            {
                _endpoint.Answers.Challenge(now, half.Flow, half.InitialSequence + 1, half.PeerSequence + 1);
            }

            return;
        }

        if (segment.HasSyn)
        {
            // The answer was lost, or somebody else's SYN meets a handshake: the same answer serves both.
            _half.RequestAnswer(ref half);
            return;
        }

        bool isOld = half.Offered.HasTimestamps && segment.Options.HasTimestamps
            && (int)(segment.Options.TimestampValue - half.Offered.TimestampValue) < 0;
        if (isOld || !isInWindow)
        {
            _endpoint.Answers.Challenge(now, half.Flow, half.InitialSequence + 1, half.PeerSequence + 1);
            return;
        }

        if (!segment.HasAck)
        {
            return;
        }

        if (segment.Acknowledgement != half.InitialSequence + 1)
        {
            _endpoint.Answers.ToStranger(now, half.Flow, segment);
            return;
        }

        HalfOpen complete = half;
        if (_accepted.Count <= _backlog)
        {
            _half.Remove(complete.Flow);
        }

        Establish(now, complete, segment);
    }

    private void Establish(TimeSpan now, in HalfOpen half, scoped in TcpSegment segment)
    {
        // A full queue drops the third packet and not the connection: the peer believes in it and sends again.
        if (_accepted.Count > _backlog || !_endpoint.TryAdd(half.Flow, out TcpConnection? connection))
        {
            _endpoint.Stats.AcceptOverflows++;
            return;
        }

        _endpoint.Stats.PassiveOpens++;
        connection.Accept(now, half);
        _accepted.Enqueue(connection);
        connection.HandleSegment(now, segment);
        _endpoint.Raise(this);
    }
}
