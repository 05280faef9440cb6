using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>The work requests that need no peer. Port token held by the caller.</summary>
internal static class LocalRequests
{
    /// <summary>Executes one; everything before it in its queue has completed.</summary>
    /// <returns>Success, or what it ends with; then nothing changed.</returns>
    public static WorkCompletionStatus Execute(QueuePair pair, in SendSlot slot)
    {
        if (slot.Opcode == WorkRequestOpcode.LocalInvalidate)
        {
            return pair.Device.InvalidateWindow(pair, slot.Data) == Errno.Success
                ? WorkCompletionStatus.Success
                : WorkCompletionStatus.LocalQpOperationError;
        }

        WindowBind bind = new(slot.Data, slot.RemoteAddress, slot.CompareAdd, (AccessFlags)slot.Swap);
        MemoryWindow window = (MemoryWindow)slot.Target!;
        return window.Bind(pair, bind, pair.Device.FindRegion(bind.LKey), slot.RKey) == Errno.Success
            ? WorkCompletionStatus.Success
            : WorkCompletionStatus.MemoryWindowBindError;
    }
}
