using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet;

/// <summary>
/// One entry of a receive ring: a frame that was parsed, steered and placed (<c>struct sk_buff</c>, as far as it gets
/// here). Made once and used again; valid from <see cref="NicPort.PollReceive"/> to <see cref="NicPort.Recycle"/>. Port
/// token held by the caller.
/// </summary>
public sealed class ReceivedFrame
{
    private readonly Memory<byte> _head;
    private readonly PayloadFragment[] _payload;
    private int _headBytes;
    private int _payloadCount;
    private PayloadFragment _whole; // of a frame that is too long for the head
    private bool _isWhole;
    private FrameLayout _layout;

    internal ReceivedFrame(RxQueue queue, Memory<byte> head, int fragmentsMax)
    {
        (RxQueue, _head) = (queue, head);
        _payload = new PayloadFragment[fragmentsMax];
    }

    /// <summary>Where things are, and what the headers say.</summary>
    public ref readonly FrameLayout Layout => ref _layout;

    public FrameKind Kind => _layout.Kind;

    /// <summary>
    /// Of TCP, the headers up to the last option; of all else, the whole frame, padding included.
    /// </summary>
    public ReadOnlySpan<byte> Bytes => _isWhole
        ? _whole.Pool.Bytes(_whole.Chunk, _whole.Offset, _whole.LengthBytes)
        : _head.Span[.._headBytes];

    /// <summary>The options of a TCP segment, padding included; empty for all else.</summary>
    public ReadOnlySpan<byte> TcpOptions => _layout.Kind == FrameKind.Tcp
        ? _head.Span[(_layout.TransportOffset + TcpHeader.Size).._layout.PayloadOffset]
        : default;

    /// <summary>Payload of a TCP segment: the lengths of <see cref="Payload"/> add up to it.</summary>
    public int PayloadBytes => _layout.Kind == FrameKind.Tcp ? _layout.PayloadBytes : 0;

    /// <summary>
    /// The payload of a TCP segment, in order. The entry holds one reference of each piece until it is recycled.
    /// </summary>
    public ReadOnlySpan<PayloadFragment> Payload => _payload.AsSpan(0, _payloadCount);

    /// <summary>Payload of each segment of a super-packet but the last; 0 for a single segment.</summary>
    public int GsoBytes { get; private set; }

    /// <summary>The Toeplitz hash, as RSS calculated it.</summary>
    public uint Hash { get; private set; }

    /// <summary>The location of the rule that chose the queue; null when RSS did.</summary>
    public int? Rule { get; private set; }

    /// <summary>When the frame came from the link.</summary>
    public TimeSpan ArrivedAt { get; private set; }

    /// <summary>The queue that it came by.</summary>
    public int Queue => RxQueue.Index;

    /// <summary>
    /// What that queue was bound to when the frame was placed, or null. Payload may be in host memory all the same.
    /// </summary>
    public MemoryBinding? Binding { get; private set; }

    internal RxQueue RxQueue { get; }

    internal int HeadBytesMax => _head.Length;

    internal Span<PayloadFragment> PayloadRoom => _payload;

    /// <summary>Starts an entry with what was found out; the payload follows.</summary>
    internal void Begin(
        in FrameLayout layout, in Classification chosen, int gsoBytes, MemoryBinding? binding, TimeSpan now)
    {
        _layout = layout;
        (Hash, Rule, GsoBytes, Binding, ArrivedAt) = (chosen.Hash, chosen.Rule, gsoBytes, binding, now);
        (_headBytes, _payloadCount, _isWhole) = (0, 0, false);
    }

    internal void SetHead(ReadOnlySpan<byte> bytes)
    {
        bytes.CopyTo(_head.Span);
        _headBytes = bytes.Length;
    }

    /// <summary>A whole frame that does not fit the head; takes over the reference.</summary>
    internal void SetWhole(in PayloadFragment fragment) => (_whole, _isWhole) = (fragment, true);

    /// <summary>How many pieces of <see cref="PayloadRoom"/> are used; takes over their references.</summary>
    internal void SetPayload(int count) => _payloadCount = count;

    /// <summary>Gives every reference back.</summary>
    internal void End()
    {
        foreach (ref readonly PayloadFragment fragment in Payload)
        {
            fragment.Release();
        }

        if (_isWhole)
        {
            _whole.Release();
        }

        (_payloadCount, _isWhole, Binding) = (0, false, null);
    }
}
