using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// Arithmetic in GF(2)[x] modulo the CRC-32 polynomial P. Elements are reflected like the register: bit 31 is the
/// coefficient of 1, bit 0 that of x^31. P is primitive, so the powers of x repeat after 2^32-1 steps and every one has
/// an inverse.
/// </summary>
internal static class CrcPolynomial
{
    /// <summary>The element 1.</summary>
    public const uint One = 1u << 31;

    private const uint Period = uint.MaxValue;

    // s_squares[i] = x^(2^i).
    private static readonly uint[] s_squares = BuildSquares();

    // x^(-8 k) and x^(-8 * 256 k), k = 0..255: one product of the two divides by any number of bytes below 65536.
    private static readonly uint[] s_inverseBytes = BuildInverses(8);
    private static readonly uint[] s_inversePages = BuildInverses(8 * 256);

    /// <summary>The product modulo P.</summary>
    public static uint Multiply(uint left, uint right) =>
        Pclmulqdq.IsSupported ? MultiplyCarryless(left, right) : MultiplyBitwise(left, right);

    /// <summary><see cref="Multiply"/> without the instruction; tests compare the two.</summary>
    internal static uint MultiplyBitwise(uint left, uint right)
    {
        uint product = 0;
        for (int bit = 31; bit >= 0; bit--)
        {
            product ^= right & (uint)-(int)(left >> bit & 1);
            right = right >> 1 ^ (CrcTable.Polynomial & (uint)-(int)(right & 1));
        }

        return product;
    }

    /// <summary>x to that power modulo P.</summary>
    public static uint PowerOfX(uint exponent)
    {
        uint power = One;
        for (int bit = 0; exponent != 0; bit++, exponent >>= 1)
        {
            if ((exponent & 1) != 0)
            {
                power = Multiply(power, s_squares[bit]);
            }
        }

        return power;
    }

    /// <summary>
    /// Takes <paramref name="bytes"/> zero bytes (fewer than 65536) that were fed into a register that was zero before
    /// its value back out of it.
    /// </summary>
    public static uint DivideByXToThe8(uint register, int bytes) =>
        Multiply(Multiply(s_inverseBytes[(byte)bytes], s_inversePages[bytes >> 8]), register);

    /// <summary>
    /// The quotient x^96 / P, of degree 64, without the coefficient of 1: reflected, bit 0 is that of x^64.
    /// </summary>
    public static ulong QuotientOfX96()
    {
        const int Degree = 96;
        ulong quotient = 0;
        uint remainder = 0; // reflected: bit 0 is the coefficient of x^31
        for (int power = Degree; power > 0; power--)
        {
            bool divides = (remainder & 1) != 0;
            remainder = remainder >> 1 ^ (power == Degree ? One : 0) ^ (divides ? CrcTable.Polynomial : 0);
            quotient |= divides ? 1UL << 64 - power : 0;
        }

        return quotient;
    }

    private static uint MultiplyCarryless(uint left, uint right)
    {
        // Of the reflected product the lower word holds the powers from x^32 up, once it is shifted to the place of
        // x^0. The table multiplies what it is fed by x^32.
        Vector128<ulong> factors = Vector128.Create(left, (ulong)right);
        ulong product = Pclmulqdq.CarrylessMultiply(factors, factors, 0x10)[0] << 1;
        return (uint)(product >> 32) ^ CrcTable.AppendUInt32(0, (uint)product);
    }

    private static uint[] BuildSquares()
    {
        uint[] squares = new uint[32];
        squares[0] = One >> 1;
        for (int i = 1; i < squares.Length; i++)
        {
            squares[i] = Multiply(squares[i - 1], squares[i - 1]);
        }

        return squares;
    }

    private static uint[] BuildInverses(uint step)
    {
        uint[] inverses = new uint[256];
        for (uint i = 0; i < inverses.Length; i++)
        {
            inverses[i] = PowerOfX((Period - i * step) % Period);
        }

        return inverses;
    }
}
