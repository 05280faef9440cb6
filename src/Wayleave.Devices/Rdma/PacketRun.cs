using System.Runtime.CompilerServices;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// Middles of one message that stand one behind the other in a receive buffer, their headers looked at, and how far
/// they got. Lives while they are taken, under the port token.
/// </summary>
internal ref struct PacketRun
{
    private readonly RegionAnnouncements _announcements;
    private readonly Peer _peer;
    private readonly ushort _sourcePort;
    private readonly int _identification;
    private readonly ReadOnlySpan<byte> _bytes;
    private readonly int _packetBytes;
    private bool _checksAhead; // until it has been in vain
    private int _alone; // checked fully, not while another was copied
    private bool _fits; // the next one does

    /// <param name="announcements">What ends the run.</param>
    /// <param name="peer">Whose packets they are.</param>
    /// <param name="sourcePort">UDP port they came from.</param>
    /// <param name="identification">Of the first; each further one's is one more.</param>
    /// <param name="bytes">All of them, BTH to ICRC.</param>
    /// <param name="packetBytes">The length of each.</param>
    public PacketRun(
        RegionAnnouncements announcements,
        Peer peer,
        ushort sourcePort,
        int identification,
        ReadOnlySpan<byte> bytes,
        int packetBytes)
    {
        _announcements = announcements;
        _peer = peer;
        _sourcePort = sourcePort;
        _identification = identification;
        _bytes = bytes;
        _packetBytes = packetBytes;
        Count = bytes.Length / packetBytes;
        _checksAhead = peer.ExpectsFullCheck(sourcePort);
    }

    /// <summary>How many there are; a taker may want fewer.</summary>
    public int Count { readonly get; private set; }

    /// <summary>How many have been placed.</summary>
    public int Placed { readonly get; private set; }

    /// <summary>The one behind those is damaged, and the run is over.</summary>
    public bool IsDamaged { readonly get; private set; }

    /// <summary>Packets, placed or refused, of whose checksum all 32 bits were checked.</summary>
    public int CheckedFully { readonly get; private set; }

    public readonly int PayloadBytes => _packetBytes - Bth.Size - PacketView.IcrcSize;

    /// <summary>The one behind those that were placed, BTH to ICRC.</summary>
    public readonly ReadOnlySpan<byte> Packet => _bytes.Slice(Placed * _packetBytes, _packetBytes);

    /// <summary>What it carries.</summary>
    public readonly ReadOnlySpan<byte> Payload => Packet[Bth.Size..^PacketView.IcrcSize];

    /// <summary>No more than so many.</summary>
    public void Limit(int count) => Count = Math.Min(Count, count);

    /// <summary>
    /// Whether there is another packet to place, undamaged. Not when an owner has announced something that comes first.
    /// </summary>
    public bool TryVerify()
    {
        if (Placed >= Count || _announcements.CallsForAttention)
        {
            return false;
        }

        if (!_fits)
        {
            return TryVerifyAlone();
        }

        _fits = false;
        CheckedFully++;
        return true;
    }

    /// <summary>
    /// Copies the payload to where it belongs, and computes the checksum of the next packet meanwhile. Inside the gate.
    /// </summary>
    /// <param name="destination">As long as the payload.</param>
    public void CopyAndCheckNext(scoped Span<byte> destination)
    {
        int next = Placed + 1;
        if (next < Count && _checksAhead)
        {
            _fits = Icrc.VerifyWhileCopying(
                _peer.SeedOf(_packetBytes, (ushort)(_identification + next)),
                _bytes.Slice(next * _packetBytes, _packetBytes),
                Payload,
                destination);
            _checksAhead = _fits;
        }
        else
        {
            Payload.CopyTo(destination);
        }
    }

    /// <summary>It was placed.</summary>
    public void NotePlaced() => Placed++;

    /// <summary>Tells the peer's counters what was checked. Once, at the end.</summary>
    public readonly void End() => _peer.CountFullChecks(CheckedFully - _alone);

    // The first, and one that all bits did not fit: perhaps it says less about itself.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private bool TryVerifyAlone()
    {
        IsDamaged = !_peer.Verify(Packet, _sourcePort, _identification + Placed, out bool isFullCheck);
        if (!IsDamaged && isFullCheck)
        {
            CheckedFully++;
            _alone++;
        }

        return !IsDamaged;
    }
}
