using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Wayleave.Core;

namespace Wayleave.Devices.Gpu.Compute;

// A kernel runs block by block, so that the engine can be given to somebody else, or stopped, between any two. What is
// between two blocks is a count of what is done and one sum. A block touches at most BlockBytes of each operand, and of
// a matrix makes at most MultiplyAddsMax multiply-adds.

/// <summary>
/// One command while it runs: what is done, and the next block. One for a queue, whose commands run one after the
/// other. Driven by the holder of the engine token.
/// </summary>
internal sealed class KernelRun
{
    private const int MultiplyAddsMax = 1 << 20;
    private const int SpinRounds = 1 << 14;

    private GpuCommand _command;
    private readonly GpuOperand[] _operands = new GpuOperand[3];
    private int _blockBytes;
    private float[] _sums = []; // of a piece of a row; at least as long as it
    private int _rowPiece;
    private ulong _done; // bytes of the target, or for a checksum of the source; blocks of a spin
    private uint _checksum = uint.MaxValue;

    public GpuOpcode Opcode => _command.Opcode;

    /// <summary>A command begins, and what was under way is forgotten.</summary>
    public void Begin(in GpuCommand command, int blockBytes)
    {
        (_command, _blockBytes) = (command, blockBytes & ~3);
        (_done, _checksum) = (0, uint.MaxValue);
        command.TryGetOperands(_operands, out _);
        if (command.Opcode == GpuOpcode.MatrixMultiply)
        {
            _rowPiece = RowPiece();
            _sums = _sums.Length < _rowPiece ? new float[_rowPiece] : _sums;
        }
    }

    /// <summary>Runs one block.</summary>
    /// <param name="memory">Checks every touch.</param>
    /// <param name="hasEnded">The command is done.</param>
    /// <returns>Why the job cannot go on; EAGAIN: the same block can be run again later.</returns>
    public Errno Step(IGpuMemory memory, out bool hasEnded)
    {
        Errno errno = _command.Opcode switch
        {
            GpuOpcode.Nop => Errno.Success,
            GpuOpcode.Fill => Fill(memory),
            GpuOpcode.Copy => Copy(memory),
            GpuOpcode.Checksum => Checksum(memory),
            GpuOpcode.Add => Add(memory),
            GpuOpcode.Gather => Gather(memory),
            GpuOpcode.MatrixMultiply => Multiply(memory),
            GpuOpcode.Release => Release(memory),
            GpuOpcode.Acquire => Acquire(memory),
            GpuOpcode.Spin => Spin(),
            _ => Errno.EINVAL,
        };
        hasEnded = errno == Errno.Success && (_command.Opcode is GpuOpcode.Nop || _done >= Length);
        return errno;
    }

    private ulong Length => _command.Opcode switch
    {
        GpuOpcode.Checksum => _operands[1].LengthBytes,
        GpuOpcode.Spin => _command.Count,
        _ => _operands[0].LengthBytes,
    };

    private int Block => (int)Math.Min((ulong)_blockBytes, Length - _done);

    private Errno Fill(IGpuMemory memory)
    {
        Errno errno = memory.TryWrite(_operands[0], _done, Block, out Span<byte> target);
        if (errno == Errno.Success)
        {
            MemoryMarshal.Cast<byte, uint>(target).Fill(LittleEndian(_command.Value));
            _done += (ulong)target.Length;
        }

        return errno;
    }

    private Errno Copy(IGpuMemory memory)
    {
        Errno errno = memory.TryRead(_operands[1], _done, Block, out ReadOnlySpan<byte> source);
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = memory.TryWrite(_operands[0], _done, source.Length, out Span<byte> target);
        if (errno == Errno.Success)
        {
            source[..target.Length].CopyTo(target);
            _done += (ulong)target.Length;
        }

        return errno;
    }

    private Errno Checksum(IGpuMemory memory)
    {
        Errno errno = memory.TryRead(_operands[1], _done, Block, out ReadOnlySpan<byte> source);
        if (errno != Errno.Success)
        {
            return errno;
        }

        uint checksum = _checksum;
        foreach (uint word in MemoryMarshal.Cast<byte, uint>(source))
        {
            checksum = BitOperations.Crc32C(checksum, word);
        }

        if (_done + (ulong)source.Length == Length)
        {
            errno = Store(memory, ~checksum);
            if (errno != Errno.Success)
            {
                return errno; // nothing has changed: the block runs again as a whole
            }
        }

        (_checksum, _done) = (checksum, _done + (ulong)source.Length);
        return Errno.Success;
    }

    private Errno Add(IGpuMemory memory)
    {
        Errno errno = memory.TryRead(_operands[1], _done, Block, out ReadOnlySpan<byte> a);
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = memory.TryRead(_operands[2], _done, a.Length, out ReadOnlySpan<byte> b);
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = memory.TryWrite(_operands[0], _done, b.Length, out Span<byte> target);
        if (errno != Errno.Success)
        {
            return errno;
        }

        ReadOnlySpan<uint> left = MemoryMarshal.Cast<byte, uint>(a), right = MemoryMarshal.Cast<byte, uint>(b);
        Span<uint> sums = MemoryMarshal.Cast<byte, uint>(target);
        for (int i = 0; i < sums.Length; i++)
        {
            sums[i] = LittleEndian(LittleEndian(left[i]) + LittleEndian(right[i]));
        }

        _done += (ulong)target.Length;
        return Errno.Success;
    }

    private Errno Gather(IGpuMemory memory)
    {
        // Each element may be in a page of its own, so a block is shorter.
        Errno errno = memory.TryRead(_operands[2], _done, Math.Min(Block, 4096), out ReadOnlySpan<byte> indices);
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = memory.TryWrite(_operands[0], _done, indices.Length, out Span<byte> target);
        for (int at = 0; errno == Errno.Success && at < target.Length; at += 4)
        {
            uint index = BinaryPrimitives.ReadUInt32LittleEndian(indices[at..]);
            if (index >= _command.Rows)
            {
                return Errno.EFAULT;
            }

            errno = memory.TryRead(_operands[1], 4UL * index, 4, out ReadOnlySpan<byte> element);
            if (errno == Errno.Success)
            {
                element.CopyTo(target[at..]);
                _done += 4;
            }
        }

        return errno;
    }

    // A piece of one row of the target: the rows of B one after the other, each times one element of A.
    private Errno Multiply(IGpuMemory memory)
    {
        ulong columns = _command.Count;
        ulong element = _done / 4;
        (ulong row, ulong column) = (element / columns, element % columns);
        int length = (int)Math.Min((ulong)_rowPiece, columns - column);
        Span<float> sums = _sums.AsSpan(0, length);
        sums.Clear();
        for (ulong k = 0; k < _command.Inner; k++)
        {
            ulong offset = 4 * ((row * _command.Inner) + k);
            Errno errno = memory.TryRead(_operands[1], offset, 4, out ReadOnlySpan<byte> a);
            if (errno != Errno.Success)
            {
                return errno;
            }

            float factor = BinaryPrimitives.ReadSingleLittleEndian(a);
            for (int at = 0; at < length;)
            {
                offset = 4 * ((k * columns) + column + (ulong)at);
                errno = memory.TryRead(_operands[2], offset, 4 * (length - at), out ReadOnlySpan<byte> b);
                if (errno != Errno.Success)
                {
                    return errno;
                }

                MultiplyAdd(sums[at..], MemoryMarshal.Cast<byte, float>(b), factor);
                at += b.Length / 4;
            }
        }

        return StoreRow(memory, sums);
    }

    private Errno StoreRow(IGpuMemory memory, ReadOnlySpan<float> sums)
    {
        for (int at = 0; at < sums.Length;)
        {
            Errno errno = memory.TryWrite(
                _operands[0], _done + (4UL * (ulong)at), 4 * (sums.Length - at), out Span<byte> target);
            if (errno != Errno.Success)
            {
                return errno;
            }

            MemoryMarshal.AsBytes(sums.Slice(at, target.Length / 4)).CopyTo(target);
            at += target.Length / 4;
        }

        _done += 4UL * (ulong)sums.Length;
        return Errno.Success;
    }

    private Errno Release(IGpuMemory memory)
    {
        Errno errno = Store(memory, _command.Value);
        _done = errno == Errno.Success ? Length : 0;
        return errno;
    }

    private Errno Acquire(IGpuMemory memory)
    {
        Errno errno = memory.TryRead(_operands[0], 0, 4, out ReadOnlySpan<byte> value);
        if (errno != Errno.Success)
        {
            return errno;
        }

        if ((int)(BinaryPrimitives.ReadUInt32LittleEndian(value) - _command.Value) < 0)
        {
            return Errno.EAGAIN; // not yet
        }

        _done = Length;
        return Errno.Success;
    }

    // About as long as a block of a copy.
    private Errno Spin()
    {
        for (int i = 0; i < SpinRounds; i++)
        {
            _checksum = BitOperations.Crc32C(_checksum, (uint)i);
        }

        _done += _command.Count == ulong.MaxValue ? 0UL : 1UL;
        return Errno.Success;
    }

    private Errno Store(IGpuMemory memory, uint value)
    {
        Errno errno = memory.TryWrite(_operands[0], 0, 4, out Span<byte> target);
        if (errno == Errno.Success)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(target, value);
        }

        return errno;
    }

    private int RowPiece() =>
        (int)Math.Min(_command.Count, Math.Max(1, Math.Min((ulong)_blockBytes / 4, MultiplyAddsMax / _command.Inner)));

    private static void MultiplyAdd(Span<float> sums, ReadOnlySpan<float> values, float factor)
    {
        int i = 0;
        Vector256<float> factors = Vector256.Create(factor);
        for (; i <= values.Length - Vector256<float>.Count; i += Vector256<float>.Count)
        {
            Vector256<float> products = Vector256.Create(values[i..]) * factors;
            (Vector256.Create<float>(sums[i..]) + products).CopyTo(sums[i..]);
        }

        for (; i < values.Length; i++)
        {
            sums[i] += values[i] * factor;
        }
    }

    private static uint LittleEndian(uint value) =>
        BitConverter.IsLittleEndian ? value : BinaryPrimitives.ReverseEndianness(value);
}
