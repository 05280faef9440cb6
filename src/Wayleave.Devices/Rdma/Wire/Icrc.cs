using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The invariant CRC of RoCEv2: CRC-32 over what no router changes (IBTA vol. 1, 7.8 and the RoCEv2 annex), the last
/// four bytes of every packet, least significant first. Registers here are raw: reflected, before the final inversion.
/// </summary>
public static class Icrc
{
    private const int FlushHeaderBytes = Bth.Size + Feth.Size + Reth.Size;

    // Read-only statics of this kind are constants to the second compilation: the switch on it disappears.
    private static readonly CrcPath s_path =
#if NET10_0_OR_GREATER
        Pclmulqdq.V512.IsSupported ? CrcPath.Fold512
        : Pclmulqdq.V256.IsSupported ? CrcPath.Fold256 :
#endif
        Pclmulqdq.IsSupported ? CrcPath.Fold128
        : CrcPath.Table;

    /// <summary>The best path of this processor; every lesser one works too.</summary>
    internal static CrcPath BestPath => s_path;

    /// <summary>Feeds bytes into a register. <see cref="IcrcFlow.Seed"/> makes the first one.</summary>
    public static uint Append(uint register, ReadOnlySpan<byte> bytes)
    {
#if !NET10_0_OR_GREATER
        register = WideFolding.Feed(register, ref bytes, default);
#endif
        return Append(s_path, register, bytes);
    }

    /// <summary>
    /// Copies and feeds in one pass over the source: the destination holds exactly the bytes that the register has
    /// seen, even if the source changes meanwhile. The two may not overlap unless they start at the same byte.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter than the source.</exception>
    public static uint AppendCopy(uint register, ReadOnlySpan<byte> source, Span<byte> destination)
    {
#if !NET10_0_OR_GREATER
        int lengthBytes = source.Length;
        destination = destination[..lengthBytes];
        register = WideFolding.Feed(register, ref source, destination);
        destination = destination[(lengthBytes - source.Length)..];
#endif
        return AppendCopy(s_path, register, source, destination);
    }

    /// <summary>
    /// Feeds a base transport header and then bytes, which are copied as by <see cref="AppendCopy(uint,
    /// ReadOnlySpan{byte}, Span{byte})"/>: a packet without further headers in one pass.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter than the source.</exception>
    public static uint AppendCopy(uint register, in Bth bth, ReadOnlySpan<byte> source, Span<byte> destination)
    {
#if NET10_0_OR_GREATER
        if (source.Length >= CrcFold.Minimum128 && s_path != CrcPath.Table)
        {
            (ulong eightBytes, uint fourBytes) = bth.Covered;
            return FoldCopy(s_path, CrcFold.Head(register, eightBytes, fourBytes), source, destination);
        }
#endif
        return AppendCopy(AppendBth(register, bth), source, destination);
    }

    /// <summary>Feeds a base transport header, as <see cref="AppendBth(uint, ReadOnlySpan{byte})"/>.</summary>
    public static uint AppendBth(uint register, in Bth bth)
    {
        (ulong eightBytes, uint fourBytes) = bth.Covered;
        return CrcTable.AppendUInt32(CrcTable.AppendUInt64(register, eightBytes), fourBytes);
    }

    /// <summary>Feeds a base transport header, its byte 4 (congestion bits, may change on the way) as ones.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Fewer than <see cref="Bth.Size"/> bytes; more are not looked
    /// at.</exception>
    public static uint AppendBth(uint register, ReadOnlySpan<byte> bth)
    {
        (ulong eightBytes, uint fourBytes) = Covered(bth);
        return CrcTable.AppendUInt32(CrcTable.AppendUInt64(register, eightBytes), fourBytes);
    }

    /// <summary>
    /// Writes the final form of a register into the first four bytes of <paramref name="destination"/>.
    /// </summary>
    public static void Finish(uint register, Span<byte> destination) =>
        BinaryPrimitives.WriteUInt32LittleEndian(destination, ~register);

    /// <summary>
    /// Computes the ICRC of a packet and writes it into its last four bytes. <paramref name="identification"/> is the
    /// one the IPv4 header will carry.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">Fewer than <see cref="PacketView.SizeMin"/> bytes.</exception>
    public static void Seal(in IcrcFlow flow, ushort identification, Span<byte> udpPayloadWithRoomForIcrc)
    {
        Span<byte> packet = udpPayloadWithRoomForIcrc;
        ArgumentOutOfRangeException.ThrowIfLessThan(
            packet.Length, PacketView.SizeMin, nameof(udpPayloadWithRoomForIcrc));
        uint register = Register(flow.Seed(packet.Length, identification), packet);
        Finish(register, packet[^PacketView.IcrcSize..]);
    }

    /// <summary>Whether the last four bytes are the packet's ICRC. Anything shorter than a packet is not.</summary>
    public static bool Verify(in IcrcFlow flow, ushort identification, ReadOnlySpan<byte> udpPayload) =>
        Verify(flow.Seed(udpPayload.Length, identification), udpPayload);

    /// <summary>As the other, with the seed that the flow gives for this packet.</summary>
    public static bool Verify(uint seed, ReadOnlySpan<byte> udpPayload) =>
        udpPayload.Length >= PacketView.SizeMin && ~Register(seed, udpPayload) == Received(udpPayload);

    /// <summary>
    /// As the other, and copies as many other bytes in the same pass: those of a packet that was verified before. What
    /// waits for memory and what computes overlap.
    /// </summary>
    /// <param name="seed">Of the packet that is verified.</param>
    /// <param name="udpPayload">BTH, payload and ICRC: no further headers.</param>
    /// <param name="source">As long as the payload; in no place that changes.</param>
    /// <param name="destination">At least as long.</param>
    /// <exception cref="ArgumentOutOfRangeException">The lengths differ.</exception>
    public static bool VerifyWhileCopying(
        uint seed, ReadOnlySpan<byte> udpPayload, ReadOnlySpan<byte> source, Span<byte> destination)
    {
#if NET10_0_OR_GREATER
        ArgumentOutOfRangeException.ThrowIfNotEqual(
            udpPayload.Length, source.Length + Bth.Size + PacketView.IcrcSize, nameof(udpPayload));
        if (s_path != CrcPath.Table && source.Length >= CrcFold.Minimum128)
        {
            (ulong eightBytes, uint fourBytes) = Covered(udpPayload);
            ReadOnlySpan<byte> bytes = udpPayload[Bth.Size..^PacketView.IcrcSize];
            Vector128<ulong> head = CrcFold.Head(seed, eightBytes, fourBytes);
            return ~FoldWhileCopying(s_path, head, bytes, source, destination) == Received(udpPayload);
        }
#endif
        source.CopyTo(destination);
        return Verify(seed, udpPayload);
    }

    /// <summary>
    /// Seals a FLUSH for a kernel rxe, which takes no other: its opcode table gives FLUSH no payload offset, so after
    /// the normal pass over the headers it runs over the whole packet again, BTH included and unmasked (Linux 7.2,
    /// <c>rxe_icrc.c</c>). Standard receivers drop the packet.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">Fewer bytes than the headers of a FLUSH and an ICRC.</exception>
    public static void SealFlushForRxe(in IcrcFlow flow, ushort identification, Span<byte> udpPayloadWithRoomForIcrc)
    {
        Span<byte> packet = udpPayloadWithRoomForIcrc;
        ArgumentOutOfRangeException.ThrowIfLessThan(
            packet.Length, FlushHeaderBytes + PacketView.IcrcSize, nameof(udpPayloadWithRoomForIcrc));
        uint register = FlushRegister(flow.Seed(packet.Length, identification), packet);
        Finish(register, packet[^PacketView.IcrcSize..]);
    }

    /// <summary>Whether a FLUSH carries the ICRC of a kernel rxe; see <see cref="SealFlushForRxe"/>.</summary>
    public static bool VerifyFlushFromRxe(in IcrcFlow flow, ushort identification, ReadOnlySpan<byte> udpPayload) =>
        udpPayload.Length >= FlushHeaderBytes + PacketView.IcrcSize
        && ~FlushRegister(flow.Seed(udpPayload.Length, identification), udpPayload) == Received(udpPayload);

    /// <summary>
    /// Whether the datagram of a frame ends with its ICRC; every header byte is known here, so this is the full check.
    /// </summary>
    public static bool Verify(in FrameView frame) =>
        frame.UdpPayload.Length >= PacketView.SizeMin
        && ~Register(frame.IcrcSeed(), frame.UdpPayload) == Received(frame.UdpPayload);

    /// <summary>
    /// Finds the IPv4 identification that makes the packet's ICRC valid: a UDP socket hides the identification of what
    /// it receives, yet the ICRC covers it. False when there is none, when the packet is too short, and for IPv6. The
    /// 32 check bits determine 16 unknown ones, so 16 bits of checking remain: a damaged packet passes with probability
    /// 2^-16.
    /// </summary>
    /// <remarks>
    /// The CRC is linear over GF(2). Computed with identification zero, it differs from the received one by the
    /// contribution of the identification alone: id(x) * x^(8n+32) mod P with n bytes behind the field. Multiplied by
    /// the inverse power of x, that difference is id(x) itself, a polynomial below x^16, and anything else is damage.
    /// </remarks>
    public static bool TrySolveIdentification(
        in IcrcFlow flow, ReadOnlySpan<byte> udpPayload, out ushort identification)
    {
        identification = 0;
        if (!flow.IsIPv4 || udpPayload.Length < PacketView.SizeMin)
        {
            return false;
        }

        uint difference = ~Received(udpPayload) ^ Register(flow.Seed(udpPayload.Length, identification: 0), udpPayload);
        return TrySolve(difference, udpPayload.Length - PacketView.IcrcSize, out identification);
    }

    /// <summary>
    /// As <see cref="TrySolveIdentification"/>, for a FLUSH with the ICRC of a kernel rxe (<see
    /// cref="SealFlushForRxe"/>).
    /// </summary>
    public static bool TrySolveFlushFromRxe(
        in IcrcFlow flow, ReadOnlySpan<byte> udpPayload, out ushort identification)
    {
        identification = 0;
        if (!flow.IsIPv4 || udpPayload.Length < FlushHeaderBytes + PacketView.IcrcSize)
        {
            return false;
        }

        uint difference = ~Received(udpPayload)
            ^ FlushRegister(flow.Seed(udpPayload.Length, identification: 0), udpPayload);
        int payloadBytes = FlushHeaderBytes + udpPayload.Length - PacketView.IcrcSize;
        return TrySolve(difference, payloadBytes, out identification);
    }

    /// <summary>
    /// Changes the ICRC of a packet of IPv4 to what it is with another identification, by the difference that the two
    /// make: a damaged packet stays as damaged as it was.
    /// </summary>
    /// <param name="udpPayload">BTH to ICRC.</param>
    /// <param name="from">The identification that it has been sealed for.</param>
    /// <param name="to">The one that it is to leave with.</param>
    /// <param name="isFlushForRxe">Its ICRC is that of <see cref="SealFlushForRxe"/>.</param>
    internal static void Reidentify(Span<byte> udpPayload, ushort from, ushort to, bool isFlushForRxe)
    {
        int fedBytes = udpPayload.Length - PacketView.IcrcSize + (isFlushForRxe ? FlushHeaderBytes : 0);
        uint difference = CrcPolynomial.Multiply(
            IcrcFlow.DifferenceOf((ushort)(from ^ to)), CrcPolynomial.PowerOfX(8 * (uint)fedBytes));
        Span<byte> icrc = udpPayload[^PacketView.IcrcSize..];
        BinaryPrimitives.WriteUInt32LittleEndian(icrc, Received(udpPayload) ^ difference);
    }

    private static bool TrySolve(uint difference, int payloadBytes, out ushort identification)
    {
        identification = 0;
        if (difference == 0)
        {
            return true;
        }

        // Behind the field: 14 bytes of IPv4 header, 8 of UDP, and the payload up to the ICRC, as often as it was fed.
        // Four more undo the register's x^32.
        uint solved = CrcPolynomial.DivideByXToThe8(difference, 14 + 8 + payloadBytes + 4);
        if ((solved & 0xFFFF) != 0)
        {
            return false;
        }

        // The first byte of the field holds the higher powers, which a reflected register keeps in its lower bits.
        identification = BinaryPrimitives.ReverseEndianness((ushort)(solved >> 16));
        return true;
    }

    private static uint Received(ReadOnlySpan<byte> udpPayload) =>
        BinaryPrimitives.ReadUInt32LittleEndian(udpPayload[^PacketView.IcrcSize..]);

    private static uint FlushRegister(uint seed, ReadOnlySpan<byte> udpPayload)
    {
        uint headers = Append(AppendBth(seed, udpPayload), udpPayload[Bth.Size..FlushHeaderBytes]);
        return Append(headers, udpPayload[..^PacketView.IcrcSize]);
    }

    private static uint Register(uint seed, ReadOnlySpan<byte> udpPayload)
    {
        ReadOnlySpan<byte> bytes = udpPayload[Bth.Size..^PacketView.IcrcSize];
#if NET10_0_OR_GREATER
        if (bytes.Length >= CrcFold.Minimum128 && s_path != CrcPath.Table)
        {
            (ulong eightBytes, uint fourBytes) = Covered(udpPayload);
            return Fold(s_path, CrcFold.Head(seed, eightBytes, fourBytes), bytes);
        }
#endif
        return Append(AppendBth(seed, udpPayload), bytes);
    }

    private static (ulong EightBytes, uint FourBytes) Covered(ReadOnlySpan<byte> bth)
    {
        bth = bth[..Bth.Size];
        return (BinaryPrimitives.ReadUInt64LittleEndian(bth) | 0xFFUL << 32,
            BinaryPrimitives.ReadUInt32LittleEndian(bth[8..]));
    }

    /// <summary><see cref="Append(uint, ReadOnlySpan{byte})"/> by one path, which the processor must have.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static uint Append(CrcPath path, uint register, ReadOnlySpan<byte> bytes) =>
        bytes.Length < CrcFold.Minimum128 || path == CrcPath.Table
            ? CrcTable.Append(register, bytes)
            : Fold(path, CrcFold.Head(register), bytes);

    /// <summary>
    /// <see cref="AppendCopy(uint, ReadOnlySpan{byte}, Span{byte})"/> by one path, which the processor must have.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static uint AppendCopy(CrcPath path, uint register, ReadOnlySpan<byte> source, Span<byte> destination)
    {
        if (source.Length >= CrcFold.Minimum128 && path != CrcPath.Table)
        {
            return FoldCopy(path, CrcFold.Head(register), source, destination);
        }

        // What the tables read is the copy.
        destination = destination[..source.Length];
        source.CopyTo(destination);
        return CrcTable.Append(register, destination);
    }

    /// <summary>
    /// <see cref="Append(CrcPath, uint, ReadOnlySpan{byte})"/> that copies as many other bytes in the same pass.
    /// </summary>
    internal static uint AppendWhileCopying(
        CrcPath path, uint register, ReadOnlySpan<byte> bytes, ReadOnlySpan<byte> source, Span<byte> destination)
    {
        if (bytes.Length >= CrcFold.Minimum128 && path != CrcPath.Table)
        {
            return FoldWhileCopying(path, CrcFold.Head(register), bytes, source, destination);
        }

        source.CopyTo(destination);
        return CrcTable.Append(register, bytes);
    }

    // At least CrcFold.Minimum128 bytes, and as many to copy.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint FoldWhileCopying(
        CrcPath path,
        Vector128<ulong> head,
        ReadOnlySpan<byte> bytes,
        ReadOnlySpan<byte> source,
        Span<byte> destination)
    {
        source = source[..bytes.Length];
        destination = destination[..bytes.Length];
        uint register = Fold<CrcFold.CopyingOthers>(
            path,
            head,
            ref MemoryMarshal.GetReference(bytes),
            ref MemoryMarshal.GetReference(source),
            ref MemoryMarshal.GetReference(destination),
            bytes.Length);
        int folded = bytes.Length & ~15;
        if (folded == bytes.Length)
        {
            return register;
        }

        source[folded..].CopyTo(destination[folded..]);
        return CrcTable.Append(register, bytes[folded..]);
    }

    // At least CrcFold.Minimum128 bytes.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Fold(CrcPath path, Vector128<ulong> head, ReadOnlySpan<byte> bytes)
    {
        ref byte source = ref MemoryMarshal.GetReference(bytes);
        uint register = Fold<CrcFold.Reading>(path, head, ref source, ref source, ref source, bytes.Length);
        return CrcTable.Append(register, bytes[(bytes.Length & ~15)..]);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint FoldCopy(
        CrcPath path, Vector128<ulong> head, ReadOnlySpan<byte> source, Span<byte> destination)
    {
        destination = destination[..source.Length];
        ref byte bytes = ref MemoryMarshal.GetReference(source);
        uint register = Fold<CrcFold.Copying>(
            path, head, ref bytes, ref bytes, ref MemoryMarshal.GetReference(destination), source.Length);
        int folded = source.Length & ~15;
        if (folded == source.Length)
        {
            return register;
        }

        source[folded..].CopyTo(destination[folded..]);
        return CrcTable.Append(register, destination[folded..]);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Fold<TMode>(
        CrcPath path, Vector128<ulong> head, ref byte source, ref byte copied, ref byte destination, int lengthBytes)
        where TMode : struct, CrcFold.IMode
    {
        if (path == CrcPath.Fold512 && lengthBytes >= CrcFold.Minimum512)
        {
            return CrcFold.Append512<TMode>(head, ref source, ref copied, ref destination, lengthBytes);
        }

        return path >= CrcPath.Fold256 && lengthBytes >= CrcFold.Minimum256
            ? CrcFold.Append256<TMode>(head, ref source, ref copied, ref destination, lengthBytes)
            : CrcFold.Append128<TMode>(head, ref source, ref copied, ref destination, lengthBytes);
    }
}
