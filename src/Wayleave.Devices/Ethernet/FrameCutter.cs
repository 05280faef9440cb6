using System.Buffers.Binary;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet;

// What a NIC's hardware does behind a driver, and the kernel behind a TAP (tcp_gso_segment, skb_checksum_help):
//
//   each piece: the headers; IP lengths, identification + i, header checksum; SEQ + what came before;
//   FIN and PSH on the last only, CWR on the first only; the whole checksum
//
// For a link that carries frames as a wire does, where a partial checksum would be a wrong one.

/// <summary>
/// Cuts a super-packet into the frames that travel on a wire, with their checksums finished; a frame that needs neither
/// comes out as it is.
/// </summary>
public ref struct FrameCutter
{
    private readonly ReadOnlySpan<byte> _frame;
    private readonly FrameLayout _layout;
    private readonly int _pieceBytes;
    private readonly bool _isPartial;
    private int _offset; // of the next piece's payload
    private int _index;
    private bool _isOver;

    /// <param name="frame">From the Ethernet header on; used until the last piece.</param>
    /// <param name="link">What was left to the link.</param>
    public FrameCutter(ReadOnlySpan<byte> frame, in VirtioNetHeader link)
    {
        _frame = frame;
        _isOver = FrameParser.Parse(frame, link, out _layout) != FrameDrop.None;
        _isPartial = (link.Flags & VirtioNetFlags.NeedsChecksum) != 0;
        _pieceBytes = link.Gso == GsoType.None ? Math.Max(_layout.PayloadBytes, 1) : link.GsoBytes;
    }

    /// <summary>
    /// The next frame of the wire; false when there is none, or when the frame is none that can be sent.
    /// </summary>
    /// <param name="destination">At least as long as the whole frame.</param>
    /// <param name="lengthBytes">Of this one.</param>
    public bool TryNext(Span<byte> destination, out int lengthBytes)
    {
        lengthBytes = 0;
        if (_isOver)
        {
            return false;
        }

        if (!_isPartial)
        {
            _isOver = true;
            _frame.CopyTo(destination);
            lengthBytes = _frame.Length;
            return true;
        }

        int length = Math.Min(_pieceBytes, _layout.PayloadBytes - _offset);
        bool isLast = _offset + length == _layout.PayloadBytes;
        Span<byte> piece = destination[..(_layout.PayloadOffset + length)];
        _frame[.._layout.PayloadOffset].CopyTo(piece);
        _frame.Slice(_layout.PayloadOffset + _offset, length).CopyTo(piece[_layout.PayloadOffset..]);
        WriteNetworkHeader(piece);
        if (_layout.Kind == FrameKind.Tcp)
        {
            WriteTcpHeader(piece, isLast);
        }

        FinishChecksum(piece);
        lengthBytes = piece.Length;
        _offset += length;
        _index++;
        _isOver = isLast;
        return true;
    }

    private readonly void WriteNetworkHeader(Span<byte> piece)
    {
        Span<byte> network = piece[_layout.NetworkOffset..];
        if (_layout.EtherType == EtherType.IPv6)
        {
            BinaryPrimitives.WriteUInt16BigEndian(network[4..], (ushort)(network.Length - Ipv6Header.Size));
            return;
        }

        ushort identification = BinaryPrimitives.ReadUInt16BigEndian(network[4..]);
        BinaryPrimitives.WriteUInt16BigEndian(network[2..], (ushort)network.Length);
        BinaryPrimitives.WriteUInt16BigEndian(network[4..], (ushort)(identification + _index));
        BinaryPrimitives.WriteUInt16BigEndian(network[10..], 0);
        uint sum = InternetChecksum.Add(network[..Ipv4Header.Size]);
        BinaryPrimitives.WriteUInt16BigEndian(network[10..], InternetChecksum.Finish(sum));
    }

    private readonly void WriteTcpHeader(Span<byte> piece, bool isLast)
    {
        Span<byte> header = piece[_layout.TransportOffset..];
        TcpFlags flags = _layout.Tcp.Flags;
        flags &= isLast ? ~TcpFlags.None : ~(TcpFlags.Fin | TcpFlags.Psh);
        flags &= _index == 0 ? ~TcpFlags.None : ~TcpFlags.Cwr;
        (_layout.Tcp with { Sequence = _layout.Tcp.Sequence + (uint)_offset, Flags = flags }).WriteTo(header);
    }

    private readonly void FinishChecksum(Span<byte> piece)
    {
        Span<byte> segment = piece[_layout.TransportOffset..];
        int at = _layout.Protocol switch
        {
            IpProtocol.Tcp => TcpHeader.ChecksumOffset,
            IpProtocol.Udp => 6,
            _ => 2,
        };
        uint sum = _layout.Protocol == IpProtocol.Icmp
            ? 0
            : InternetChecksum.PseudoHeader(_layout.Source, _layout.Destination, _layout.Protocol, segment.Length);
        BinaryPrimitives.WriteUInt16BigEndian(segment[at..], 0);
        ushort checksum = InternetChecksum.Finish(InternetChecksum.Add(segment, sum));

        // RFC 768: a zero would say that there is none.
        bool isZeroOfUdp = checksum == 0 && _layout.Protocol == IpProtocol.Udp;
        BinaryPrimitives.WriteUInt16BigEndian(segment[at..], isZeroOfUdp ? ushort.MaxValue : checksum);
    }
}
