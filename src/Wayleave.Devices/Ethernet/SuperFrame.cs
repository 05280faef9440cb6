using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet;

/// <summary>
/// A frame that is being put together in a buffer of the caller, for the link to send; as a super-packet it is many
/// segments, which the link cuts. Port token held by the caller.
/// </summary>
public ref struct SuperFrame
{
    /// <summary>Enough for every frame: an Ethernet header with a tag, and the longest IP packet.</summary>
    public const int BufferBytes = EthernetHeader.Size + EthernetHeader.TagSize + Ipv6Header.Size + ushort.MaxValue;

    private readonly Span<byte> _buffer;
    private readonly DmaPort? _dma;
    private VirtioNetHeader _link;

    /// <param name="buffer">Of <see cref="BufferBytes"/>; written by the members.</param>
    /// <param name="dma">How device memory is reached; null for a sender that has none.</param>
    public SuperFrame(Span<byte> buffer, DmaPort? dma = null)
    {
        _buffer = buffer;
        _dma = dma;
    }

    /// <summary>Bytes so far.</summary>
    public int LengthBytes { get; private set; }

    /// <summary>The bytes so far, from the Ethernet header on.</summary>
    public readonly ReadOnlySpan<byte> Bytes => _buffer[..LengthBytes];

    /// <summary>What is left to the link.</summary>
    public readonly VirtioNetHeader Link => _link;

    /// <summary>Empties it, for the next frame.</summary>
    public void Clear() => (LengthBytes, _link) = (0, default);

    /// <summary>Room for headers; the caller writes every byte of it.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The buffer ends before.</exception>
    public Span<byte> Reserve(int lengthBytes)
    {
        Span<byte> room = _buffer.Slice(LengthBytes, lengthBytes);
        LengthBytes += lengthBytes;
        return room;
    }

    /// <summary>Payload from host memory; copied.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The buffer ends before.</exception>
    public void Append(ReadOnlySpan<byte> payload) => payload.CopyTo(Reserve(payload.Length));

    /// <summary>
    /// Payload from device memory, copied out of it inside its gate: nothing of it is used after the return.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.ENODEV"/> when the owner has taken the memory back, it was unbound, or it is bound to another
    /// NIC; <see cref="Errno.EFAULT"/> for a range outside it or one that nothing answers; the frame is as before.
    /// </returns>
    public Errno AppendDevice(TransmitBinding binding, ulong offset, int lengthBytes)
    {
        ArgumentNullException.ThrowIfNull(binding);
        if (offset > binding.LengthBytes || (ulong)lengthBytes > binding.LengthBytes - offset)
        {
            return Errno.EFAULT;
        }

        if (_dma is null
            || !ReferenceEquals(_dma.Function, binding.Device)
            || !binding.Memory.TryEnter(out Translation? translation))
        {
            return Errno.ENODEV;
        }

        int before = LengthBytes;
        Errno errno = BoundMemory.Read(_dma, translation, offset, Reserve(lengthBytes));
        binding.Memory.Leave(translation);
        if (errno != Errno.Success)
        {
            LengthBytes = before;
            return errno;
        }

        binding.BytesSent += lengthBytes;
        return Errno.Success;
    }

    /// <summary>
    /// Leaves the checksum to the link: the field holds the folded sum of the pseudo-header, and the link adds the
    /// rest.
    /// </summary>
    /// <param name="start">First byte that is summed, from the start of the frame: the transport header.</param>
    /// <param name="offset">Of the field, from there.</param>
    public void SetPartialChecksum(int start, int offset) => _link = _link with
    {
        Flags = VirtioNetFlags.NeedsChecksum,
        ChecksumStart = (ushort)start,
        ChecksumOffset = (ushort)offset,
    };

    /// <summary>Lets the link cut the payload into segments; the checksum is partial then.</summary>
    /// <param name="type">TCP over IPv4 or IPv6.</param>
    /// <param name="gsoBytes">Payload of each segment but the last; positive.</param>
    /// <param name="headerBytes">From the Ethernet header to the last option.</param>
    /// <param name="hasEcn">CWR belongs to the first segment only.</param>
    public void SetSegmentation(GsoType type, int gsoBytes, int headerBytes, bool hasEcn = false) => _link = _link with
    {
        Gso = type,
        GsoBytes = (ushort)gsoBytes,
        HeaderBytes = (ushort)headerBytes,
        HasEcn = hasEcn,
    };
}
