using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Compute;

/// <summary>What the numbers of a client's request mean. Host lock held where a context is looked at.</summary>
internal static class ContextRanges
{
    public static ContextBuffer BufferOf(ComputeContext context, uint handle, string operation) =>
        context.Buffers.Skip(1).FirstOrDefault(b => b.Handle == handle) // the first has its results
            ?? throw new WayleaveException(Errno.ENOENT, operation, $"handle {handle} is none that the client opened");

    public static (ulong Address, ulong LengthBytes) RangeOf(
        ContextBuffer buffer, ulong offsetBytes, ulong? lengthBytes, string operation)
    {
        ulong left = offsetBytes < buffer.SizeBytes ? buffer.SizeBytes - offsetBytes : 0;
        ulong length = lengthBytes ?? left;
        if (length == 0 || length > left)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                $"{length} bytes at {offsetBytes} are not inside its {buffer.SizeBytes}");
        }

        return ((buffer.Memory?.Start ?? 0) + offsetBytes, length);
    }

    public static AccessFlags AccessOf(LeaseAccess access) => access switch
    {
        LeaseAccess.Read => AccessFlags.RemoteRead,
        LeaseAccess.Write => AccessFlags.LocalWrite | AccessFlags.RemoteWrite,
        _ => AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
    };
}
