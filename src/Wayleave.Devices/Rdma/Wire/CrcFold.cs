using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// CRC-32 by folding with the carry-less multiplication of x86 (Gopal et al., "Fast CRC Computation for Generic
/// Polynomials Using PCLMULQDQ", Intel 2009; <c>lib/crc/x86/crc-pclmul-template.S</c>), 16, 32 or 64 bytes a step, four
/// steps in flight.
/// </summary>
/// <remarks>
/// <para>
/// A block of 128 message bits that stands D bits before another is replaced by a congruent value at the place of the
/// other. With its first 64 bits A and its last 64 bits B, both polynomials,
/// </para>
/// <code>
/// (A x^64 + B) x^D  =  A (x^(D+64) mod P) + B (x^D mod P)   modulo P
/// </code>
/// <para>
/// and both products fit into 128 bits again. Everything is reflected: the lower half of a vector holds A. The product
/// of two reflected words comes out one power of x short, so the factors are x^(D+63) and x^(D-1). They are computed
/// when the class is first used.
/// </para>
/// <para>
/// The copying variant stores each vector that was loaded, so the checksum is that of the copy, whatever happens to the
/// source.
/// </para>
/// </remarks>
internal static class CrcFold
{
    /// <summary>The shortest run each width takes: four vectors.</summary>
    public const int Minimum128 = 4 * 16;
    public const int Minimum256 = 4 * 32;
    public const int Minimum512 = 4 * 64;

    // Factors to fold over that many bits.
    private static readonly Vector128<ulong> s_over128 = Factors(128);
    private static readonly Vector128<ulong> s_over512 = Factors(512);
    private static readonly Vector256<ulong> s_over256 = Vector256.Create(Factors(256));
    private static readonly Vector256<ulong> s_over1024 = Vector256.Create(Factors(1024));
    private static readonly Vector512<ulong> s_over512Wide = Vector512.Create(Vector256.Create(Factors(512)));
    private static readonly Vector512<ulong> s_over1024Wide = Vector512.Create(Vector256.Create(Factors(1024)));
    private static readonly Vector512<ulong> s_over1536Wide = Vector512.Create(Vector256.Create(Factors(1536)));
    private static readonly Vector512<ulong> s_over2048 = Vector512.Create(Vector256.Create(Factors(2048)));

    // One factor a lane: each folds to the place of the last lane, which stays.
    private static readonly Vector256<ulong> s_lanes256 = Vector256.Create(Factors(128), default);
    private static readonly Vector512<ulong> s_lanes512 =
        Vector512.Create(Vector256.Create(Factors(384), Factors(256)), Vector256.Create(Factors(128), default));

    // x^63, to bring 128 bits down to 64, and what stays of them.
    private static readonly Vector128<ulong> s_over64 = Vector128.CreateScalar(Factor(64));
    private static readonly Vector128<ulong> s_upperHalf = Vector128.Create(0, ulong.MaxValue);

    // x^96 / P without its last bit, which has no part in the upper half; and P without x^32, one place up.
    private static readonly Vector128<ulong> s_division =
        Vector128.Create(CrcPolynomial.QuotientOfX96(), (ulong)CrcTable.Polynomial << 1);

    /// <summary>
    /// Whether a pass over bytes stores something too; a type, so that the compiler makes several loops of one text.
    /// </summary>
    internal interface IMode
    {
        /// <summary>Something is stored at the destination.</summary>
        static abstract bool Copies { get; }

        /// <summary>It is not what is fed, but as many other bytes.</summary>
        static abstract bool CopiesOthers { get; }
    }

    /// <summary>What a register amounts to in the first bytes behind it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<ulong> Head(uint register) => Vector128.CreateScalar((ulong)register);

    /// <summary>
    /// What a register and twelve bytes fed into it amount to in the sixteen bytes behind them: no table is looked up.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<ulong> Head(uint register, ulong eightBytes, uint fourBytes)
    {
        eightBytes ^= register;
        return Fold(Vector128.Create(eightBytes << 32, eightBytes >> 32 | (ulong)fourBytes << 32), s_over128);
    }

    /// <summary>
    /// Feeds the whole 16-byte blocks of at least <see cref="Minimum128"/> bytes; the rest is the caller's.
    /// </summary>
    public static uint Append128<TMode>(
        Vector128<ulong> head, ref byte source, ref byte copied, ref byte destination, int lengthBytes)
        where TMode : struct, IMode
    {
        Vector128<ulong> over512 = s_over512;
        Vector128<ulong> x0 = Load128<TMode>(ref source, ref copied, ref destination, 0) ^ head;
        Vector128<ulong> x1 = Load128<TMode>(ref source, ref copied, ref destination, 16);
        Vector128<ulong> x2 = Load128<TMode>(ref source, ref copied, ref destination, 32);
        Vector128<ulong> x3 = Load128<TMode>(ref source, ref copied, ref destination, 48);
        int offset = 64;
        for (; offset <= lengthBytes - 64; offset += 64)
        {
            x0 = Fold(x0, over512) ^ Load128<TMode>(ref source, ref copied, ref destination, offset);
            x1 = Fold(x1, over512) ^ Load128<TMode>(ref source, ref copied, ref destination, offset + 16);
            x2 = Fold(x2, over512) ^ Load128<TMode>(ref source, ref copied, ref destination, offset + 32);
            x3 = Fold(x3, over512) ^ Load128<TMode>(ref source, ref copied, ref destination, offset + 48);
        }

        Vector128<ulong> over128 = s_over128;
        x1 ^= Fold(x0, over128);
        x2 ^= Fold(x1, over128);
        x3 ^= Fold(x2, over128);
        return Finish<TMode>(x3, ref source, ref copied, ref destination, offset, lengthBytes);
    }

    /// <summary>
    /// Feeds the whole 16-byte blocks of at least <see cref="Minimum256"/> bytes; the rest is the caller's.
    /// </summary>
    public static uint Append256<TMode>(
        Vector128<ulong> head, ref byte source, ref byte copied, ref byte destination, int lengthBytes)
        where TMode : struct, IMode
    {
        Vector256<ulong> over1024 = s_over1024;
        Vector256<ulong> x0 = Load256<TMode>(ref source, ref copied, ref destination, 0) ^ head.ToVector256();
        Vector256<ulong> x1 = Load256<TMode>(ref source, ref copied, ref destination, 32);
        Vector256<ulong> x2 = Load256<TMode>(ref source, ref copied, ref destination, 64);
        Vector256<ulong> x3 = Load256<TMode>(ref source, ref copied, ref destination, 96);
        int offset = 128;
        for (; offset <= lengthBytes - 128; offset += 128)
        {
            x0 = Fold(x0, over1024) ^ Load256<TMode>(ref source, ref copied, ref destination, offset);
            x1 = Fold(x1, over1024) ^ Load256<TMode>(ref source, ref copied, ref destination, offset + 32);
            x2 = Fold(x2, over1024) ^ Load256<TMode>(ref source, ref copied, ref destination, offset + 64);
            x3 = Fold(x3, over1024) ^ Load256<TMode>(ref source, ref copied, ref destination, offset + 96);
        }

        Vector256<ulong> over256 = s_over256;
        x1 ^= Fold(x0, over256);
        x2 ^= Fold(x1, over256);
        x3 ^= Fold(x2, over256);
        for (; offset <= lengthBytes - 32; offset += 32)
        {
            x3 = Fold(x3, over256) ^ Load256<TMode>(ref source, ref copied, ref destination, offset);
        }

        Vector128<ulong> x = Fold(x3, s_lanes256).GetLower() ^ x3.GetUpper();
        return Finish<TMode>(x, ref source, ref copied, ref destination, offset, lengthBytes);
    }

    /// <summary>
    /// Feeds the whole 16-byte blocks of at least <see cref="Minimum512"/> bytes; the rest is the caller's.
    /// </summary>
    public static uint Append512<TMode>(
        Vector128<ulong> head, ref byte source, ref byte copied, ref byte destination, int lengthBytes)
        where TMode : struct, IMode
    {
        Vector512<ulong> over2048 = s_over2048;
        Vector512<ulong> x0 =
            Load512<TMode>(ref source, ref copied, ref destination, 0) ^ head.ToVector256().ToVector512();
        Vector512<ulong> x1 = Load512<TMode>(ref source, ref copied, ref destination, 64);
        Vector512<ulong> x2 = Load512<TMode>(ref source, ref copied, ref destination, 128);
        Vector512<ulong> x3 = Load512<TMode>(ref source, ref copied, ref destination, 192);
        int offset = 256;
        for (; offset <= lengthBytes - 256; offset += 256)
        {
            x0 = Fold(x0, over2048) ^ Load512<TMode>(ref source, ref copied, ref destination, offset);
            x1 = Fold(x1, over2048) ^ Load512<TMode>(ref source, ref copied, ref destination, offset + 64);
            x2 = Fold(x2, over2048) ^ Load512<TMode>(ref source, ref copied, ref destination, offset + 128);
            x3 = Fold(x3, over2048) ^ Load512<TMode>(ref source, ref copied, ref destination, offset + 192);
        }

        // The four meet in one step: one behind the other would cost three times the delay of a multiplication.
        Vector512<ulong> over512 = s_over512Wide;
        x3 ^= Fold(x0, s_over1536Wide) ^ Fold(x1, s_over1024Wide) ^ Fold(x2, over512);
        for (; offset <= lengthBytes - 64; offset += 64)
        {
            x3 = Fold(x3, over512) ^ Load512<TMode>(ref source, ref copied, ref destination, offset);
        }

        Vector512<ulong> folded = Fold(x3, s_lanes512);
        Vector256<ulong> pairs = folded.GetLower() ^ folded.GetUpper();
        Vector128<ulong> x = pairs.GetLower() ^ pairs.GetUpper() ^ x3.GetUpper().GetUpper();
        return Finish<TMode>(x, ref source, ref copied, ref destination, offset, lengthBytes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Finish<TMode>(
        Vector128<ulong> x, ref byte source, ref byte copied, ref byte destination, int offset, int lengthBytes)
        where TMode : struct, IMode
    {
        Vector128<ulong> over128 = s_over128;
        for (; offset <= lengthBytes - 16; offset += 16)
        {
            x = Fold(x, over128) ^ Load128<TMode>(ref source, ref copied, ref destination, offset);
        }

        // 128 bits become 95 and then 64: each time what stands above 64 bits is multiplied by x^64 mod P.
        Vector128<ulong> over64 = s_over64;
        x = Pclmulqdq.CarrylessMultiply(x, over64, 0x00) ^ (x & s_upperHalf);
        x = Pclmulqdq.CarrylessMultiply(x, over64, 0x00) ^ (x & s_upperHalf);

        // The last 64 are multiplied by x^32 and divided by P (Barrett): the upper half of the product with x^96 / P is
        // the quotient, and of quotient times P the lowest 32 bits are the remainder.
        Vector128<ulong> quotient = Pclmulqdq.CarrylessMultiply(x, s_division, 0x01);
        return (uint)Pclmulqdq.CarrylessMultiply(quotient, s_division, 0x10)[1];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<ulong> Fold(Vector128<ulong> x, Vector128<ulong> factors) =>
        Pclmulqdq.CarrylessMultiply(x, factors, 0x00) ^ Pclmulqdq.CarrylessMultiply(x, factors, 0x11);

    // .NET 9 has no name for the wide instructions, and CrcPath never chooses them there: two halves are as right.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<ulong> Fold(Vector256<ulong> x, Vector256<ulong> factors) =>
#if NET10_0_OR_GREATER
        Pclmulqdq.V256.CarrylessMultiply(x, factors, 0x00) ^ Pclmulqdq.V256.CarrylessMultiply(x, factors, 0x11);
#else
        Vector256.Create(Fold(x.GetLower(), factors.GetLower()), Fold(x.GetUpper(), factors.GetUpper()));
#endif

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<ulong> Fold(Vector512<ulong> x, Vector512<ulong> factors) =>
#if NET10_0_OR_GREATER
        Pclmulqdq.V512.CarrylessMultiply(x, factors, 0x00) ^ Pclmulqdq.V512.CarrylessMultiply(x, factors, 0x11);
#else
        Vector512.Create(Fold(x.GetLower(), factors.GetLower()), Fold(x.GetUpper(), factors.GetUpper()));
#endif

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<ulong> Load128<TMode>(ref byte source, ref byte copied, ref byte destination, int offset)
        where TMode : struct, IMode
    {
        Vector128<byte> vector = Vector128.LoadUnsafe(ref source, (nuint)offset);
        if (TMode.Copies)
        {
            Vector128<byte> stored = TMode.CopiesOthers ? Vector128.LoadUnsafe(ref copied, (nuint)offset) : vector;
            stored.StoreUnsafe(ref destination, (nuint)offset);
        }

        return vector.AsUInt64();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<ulong> Load256<TMode>(ref byte source, ref byte copied, ref byte destination, int offset)
        where TMode : struct, IMode
    {
        Vector256<byte> vector = Vector256.LoadUnsafe(ref source, (nuint)offset);
        if (TMode.Copies)
        {
            Vector256<byte> stored = TMode.CopiesOthers ? Vector256.LoadUnsafe(ref copied, (nuint)offset) : vector;
            stored.StoreUnsafe(ref destination, (nuint)offset);
        }

        return vector.AsUInt64();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<ulong> Load512<TMode>(ref byte source, ref byte copied, ref byte destination, int offset)
        where TMode : struct, IMode
    {
        Vector512<byte> vector = Vector512.LoadUnsafe(ref source, (nuint)offset);
        if (TMode.Copies)
        {
            Vector512<byte> stored = TMode.CopiesOthers ? Vector512.LoadUnsafe(ref copied, (nuint)offset) : vector;
            stored.StoreUnsafe(ref destination, (nuint)offset);
        }

        return vector.AsUInt64();
    }

    private static Vector128<ulong> Factors(uint bits) => Vector128.Create(Factor(bits + 64), Factor(bits));

    // Reflected in 64 bits: the coefficient of 1 is the top bit.
    private static ulong Factor(uint bits) => (ulong)CrcPolynomial.PowerOfX(bits - 1) << 32;

    /// <summary>Only reads.</summary>
    internal readonly struct Reading : IMode
    {
        public static bool Copies => false;

        public static bool CopiesOthers => false;
    }

    /// <summary>Stores every byte it has read.</summary>
    internal readonly struct Copying : IMode
    {
        public static bool Copies => true;

        public static bool CopiesOthers => false;
    }

    /// <summary>Reads, and copies something else as long meanwhile.</summary>
    internal readonly struct CopyingOthers : IMode
    {
        public static bool Copies => true;

        public static bool CopiesOthers => true;
    }
}
