using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Control;
using Device = Wayleave.Devices.Gpu.Compute.GpuCommand;

namespace Wayleave.Cli.Commands;

/// <summary>A kernel as people name it, and the commands that run it.</summary>
/// <param name="Name">On the command line.</param>
/// <param name="Operands">What its objects are, in order; the last is written unless it is a checksum.</param>
/// <param name="Opcode">In a ring.</param>
internal sealed record GpuKernel(string Name, string[] Operands, GpuOpcode Opcode)
{
    public static readonly GpuKernel[] All =
    [
        new("fill", ["TARGET"], GpuOpcode.Fill),
        new("copy", ["SOURCE", "TARGET"], GpuOpcode.Copy),
        new("checksum", ["SOURCE"], GpuOpcode.Checksum),
        new("add", ["A", "B", "TARGET"], GpuOpcode.Add),
        new("gather", ["TABLE", "INDICES", "TARGET"], GpuOpcode.Gather),
        new("matmul", ["A", "B", "TARGET"], GpuOpcode.MatrixMultiply),
    ];

    public bool Writes => Opcode != GpuOpcode.Checksum;

    /// <summary>How many bytes of its last operand the kernel touches when nobody says.</summary>
    public ulong DefaultBytes(GpuRunRequest request, IReadOnlyList<BufferHandleDocument> operands) =>
        Opcode == GpuOpcode.MatrixMultiply
            ? 4UL * request.Rows * request.Columns
            : (Opcode is GpuOpcode.Gather ? operands.Skip(1) : operands).Min(o => o.SizeBytes) & ~3UL;

    /// <summary>The command; operands as the mode of the GPU wants them.</summary>
    public Device ToCommand(
        GpuRunRequest request, GpuCommandMode mode, IReadOnlyList<BufferHandleDocument> operands, ulong bytes)
    {
        Device command = new()
        {
            Opcode = Opcode,
            Value = request.Value,
            Count = Opcode switch
            {
                GpuOpcode.Add or GpuOpcode.Gather => bytes / 4,
                GpuOpcode.MatrixMultiply => request.Columns,
                _ => bytes,
            },
            Rows = Opcode switch
            {
                GpuOpcode.Gather => (uint)Math.Min(operands[0].SizeBytes / 4, uint.MaxValue),
                GpuOpcode.MatrixMultiply => request.Rows,
                _ => 0,
            },
            Inner = Opcode == GpuOpcode.MatrixMultiply ? request.Inner : 0,
        };
        if (Writes)
        {
            command = SetTarget(command, mode, operands[^1], request.Offset);
        }

        ulong sourceOffset = Writes ? 0 : request.Offset;
        int sources = Writes ? operands.Count - 1 : operands.Count;
        command = sources > 0 ? SetA(command, mode, operands[0], sourceOffset) : command;
        return sources > 1
            ? command with
            {
                BHandle = HandleOf(mode, operands[1]),
                B = operands[1].Address,
            }
            : command;
    }

    /// <summary>A checksum of a part of an operand, left in a word of the results.</summary>
    public static Device ToChecksum(
        GpuCommandMode mode, BufferHandleDocument operand, ulong offset, ulong bytes, BufferHandleDocument results) =>
        SetTarget(
            SetA(new Device { Opcode = GpuOpcode.Checksum, Count = bytes }, mode, operand, offset), mode, results, 0);

    private static Device SetTarget(Device command, GpuCommandMode mode, BufferHandleDocument buffer, ulong offset) =>
        command with { TargetHandle = HandleOf(mode, buffer), Target = unchecked(buffer.Address + offset) };

    private static Device SetA(Device command, GpuCommandMode mode, BufferHandleDocument buffer, ulong offset) =>
        command with { AHandle = HandleOf(mode, buffer), A = unchecked(buffer.Address + offset) };

    // Where commands are parsed an address is an offset, and what is opened has none.
    private static uint HandleOf(GpuCommandMode mode, BufferHandleDocument buffer) =>
        mode == GpuCommandMode.Parsed ? buffer.Handle : 0;
}

/// <summary>What the options say.</summary>
internal sealed record GpuRunRequest
{
    public uint Value { get; init; }

    public ulong Offset { get; init; }

    public ulong? Bytes { get; init; }

    public uint Rows { get; init; }

    public uint Inner { get; init; }

    public uint Columns { get; init; }
}
