using Wayleave.Devices.Gpu.Compute;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Commands of a GPU's compute engine, as they stand in a ring.</summary>
internal static class Commands
{
    public static byte[] Spin(ulong blocks) => Write(new GpuCommand { Opcode = GpuOpcode.Spin, Count = blocks });

    public static byte[] Fill(ulong address, ulong bytes, uint value) =>
        Write(new GpuCommand { Opcode = GpuOpcode.Fill, Target = address, Count = bytes, Value = value });

    /// <summary>
    /// Where commands name handles, with an address in the buffer; where they do not, the handle is 0.
    /// </summary>
    public static byte[] Fill(uint handle, ulong address, ulong bytes, uint value) => Write(
        new GpuCommand
        {
            Opcode = GpuOpcode.Fill,
            TargetHandle = handle,
            Target = address,
            Count = bytes,
            Value = value,
        });

    private static byte[] Write(GpuCommand command)
    {
        byte[] bytes = new byte[GpuCommand.SizeBytes];
        command.Write(bytes);
        return bytes;
    }
}
