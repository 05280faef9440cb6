using System.Buffers.Binary;
using Wayleave.Core;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>What a command does; numbers as in a ring.</summary>
public enum GpuOpcode : ushort
{
    Nop = 0,

    /// <summary>A 32-bit value, <c>Count</c> bytes long.</summary>
    Fill = 1,

    /// <summary><c>Count</c> bytes from A to the target; they do not overlap.</summary>
    Copy = 2,

    /// <summary>CRC-32C of <c>Count</c> bytes of A, stored in the four bytes of the target.</summary>
    Checksum = 3,

    /// <summary>Target[i] = A[i] + B[i], <c>Count</c> 32-bit integers that wrap.</summary>
    Add = 4,

    /// <summary>
    /// Target[i] = A[B[i]], <c>Count</c> elements of 32 bits out of a table of <c>Rows</c>. An index that is not in the
    /// table ends the job.
    /// </summary>
    Gather = 5,

    /// <summary>
    /// Target = A times B, 32-bit floats in rows: A has <c>Rows</c> rows of <c>Inner</c>, B <c>Inner</c> rows of
    /// <c>Count</c>.
    /// </summary>
    MatrixMultiply = 6,

    /// <summary>Stores <c>Value</c> in four bytes of the target: how a user queue says how far it has got.</summary>
    Release = 7,

    /// <summary>
    /// Waits until the 32-bit value at A is not before <c>Value</c>. Nobody promises that it ever is, so a job with a
    /// fence must not have one (dma-buf.rst, indefinite fences): it is a user queue's.
    /// </summary>
    Acquire = 8,

    /// <summary>
    /// Touches nothing, <c>Count</c> blocks long; with the greatest count it never ends. What a program that loops for
    /// ever looks like to an engine, for trying what is done about it.
    /// </summary>
    Spin = 9,
}

/// <summary>One piece of memory that a command names.</summary>
/// <param name="Handle">Of a buffer, where commands are parsed; 0 where they go by page table.</param>
/// <param name="Address">In the buffer, or of the process.</param>
/// <param name="LengthBytes">What the command touches from there on.</param>
/// <param name="Access">How.</param>
public readonly record struct GpuOperand(uint Handle, ulong Address, ulong LengthBytes, GpuAccess Access);

//  0  opcode      2  0           4  value
//  8  handle of the target      12  handle of A      16  handle of B      20  inner
// 24  target                    32  A                40  B
// 48  count                     56  rows             60  0                  all little-endian

/// <summary>
/// A command of 64 bytes as it stands in a ring. What a program wrote is not to be trusted: <see cref="TryRead"/> and
/// <see cref="TryGetOperands"/> refuse what makes no sense, whoever has to check the addresses.
/// </summary>
public readonly record struct GpuCommand
{
    public const int SizeBytes = 64;

    /// <summary>The most memory that an operand covers.</summary>
    public const ulong OperandBytesMax = 1UL << 40;

    /// <summary>The most rows and columns of a matrix.</summary>
    public const uint MatrixSideMax = 1 << 16;

    public GpuOpcode Opcode { get; init; }

    public uint Value { get; init; }

    public uint TargetHandle { get; init; }

    public uint AHandle { get; init; }

    public uint BHandle { get; init; }

    public ulong Target { get; init; }

    public ulong A { get; init; }

    public ulong B { get; init; }

    /// <summary>Bytes, elements or columns: see <see cref="GpuOpcode"/>.</summary>
    public ulong Count { get; init; }

    public uint Rows { get; init; }

    public uint Inner { get; init; }

    /// <summary>Reads one command.</summary>
    /// <returns><see cref="Errno.EINVAL"/> for an unknown opcode, and where a reserved field is not zero.</returns>
    public static Errno TryRead(ReadOnlySpan<byte> bytes, out GpuCommand command)
    {
        command = new GpuCommand
        {
            Opcode = (GpuOpcode)BinaryPrimitives.ReadUInt16LittleEndian(bytes),
            Value = BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]),
            TargetHandle = BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]),
            AHandle = BinaryPrimitives.ReadUInt32LittleEndian(bytes[12..]),
            BHandle = BinaryPrimitives.ReadUInt32LittleEndian(bytes[16..]),
            Inner = BinaryPrimitives.ReadUInt32LittleEndian(bytes[20..]),
            Target = BinaryPrimitives.ReadUInt64LittleEndian(bytes[24..]),
            A = BinaryPrimitives.ReadUInt64LittleEndian(bytes[32..]),
            B = BinaryPrimitives.ReadUInt64LittleEndian(bytes[40..]),
            Count = BinaryPrimitives.ReadUInt64LittleEndian(bytes[48..]),
            Rows = BinaryPrimitives.ReadUInt32LittleEndian(bytes[56..]),
        };
        bool isReservedZero = BinaryPrimitives.ReadUInt16LittleEndian(bytes[2..]) == 0
            && BinaryPrimitives.ReadUInt32LittleEndian(bytes[60..]) == 0;
        return isReservedZero && command.Opcode <= GpuOpcode.Spin ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>Writes it as it stands in a ring.</summary>
    public void Write(Span<byte> bytes)
    {
        bytes[..SizeBytes].Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, (ushort)Opcode);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[4..], Value);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[8..], TargetHandle);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[12..], AHandle);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[16..], BHandle);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[20..], Inner);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[24..], Target);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[32..], A);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[40..], B);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[48..], Count);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[56..], Rows);
    }

    /// <summary>
    /// What the command touches, as far as its own fields say: the target first, then A, then B.
    /// </summary>
    /// <param name="operands">Room for three.</param>
    /// <param name="count">How many there are.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for nothing to do, too much, or an address that is no multiple of four or wraps.
    /// </returns>
    public Errno TryGetOperands(Span<GpuOperand> operands, out int count)
    {
        count = 0;
        if (Opcode == GpuOpcode.Nop)
        {
            return Errno.Success;
        }

        if (!TryMeasure(out ulong target, out ulong a, out ulong b))
        {
            return Errno.EINVAL;
        }

        bool isValid = TryAdd(operands, ref count, TargetHandle, Target, target, GpuAccess.Write)
            && TryAdd(operands, ref count, AHandle, A, a, GpuAccess.Read)
            && TryAdd(operands, ref count, BHandle, B, b, GpuAccess.Read);
        return isValid ? Errno.Success : Errno.EINVAL;
    }

    // In bytes; 0 where the command has no such operand.
    private bool TryMeasure(out ulong target, out ulong a, out ulong b)
    {
        (target, a, b) = (0, 0, 0);
        if (Opcode is GpuOpcode.Release or GpuOpcode.Acquire)
        {
            (target, a) = Opcode == GpuOpcode.Release ? (4UL, 0UL) : (0UL, 4UL);
            return true;
        }

        if (Opcode == GpuOpcode.Spin)
        {
            return Count > 0;
        }

        if (Count is 0 or > OperandBytesMax / 4)
        {
            return false;
        }

        switch (Opcode)
        {
            case GpuOpcode.Fill:
                target = Count;
                return Count % 4 == 0;
            case GpuOpcode.Copy:
                (target, a) = (Count, Count);
                return Count % 4 == 0;
            case GpuOpcode.Checksum:
                (target, a) = (4, Count);
                return Count % 4 == 0;
            case GpuOpcode.Add:
                (target, a, b) = (4 * Count, 4 * Count, 4 * Count);
                return true;
            case GpuOpcode.Gather:
                (target, a, b) = (4 * Count, 4UL * Rows, 4 * Count);
                return Rows > 0;
            default:
                (target, a, b) = (4 * Rows * Count, 4UL * Rows * Inner, 4 * Inner * Count);
                return Count <= MatrixSideMax && Rows is > 0 and <= MatrixSideMax
                    && Inner is > 0 and <= MatrixSideMax;
        }
    }

    private static bool TryAdd(
        Span<GpuOperand> operands, ref int count, uint handle, ulong address, ulong lengthBytes, GpuAccess access)
    {
        if (lengthBytes == 0)
        {
            return true;
        }

        operands[count++] = new GpuOperand(handle, address, lengthBytes, access);
        return address % 4 == 0 && lengthBytes <= OperandBytesMax && address <= ulong.MaxValue - lengthBytes;
    }
}
