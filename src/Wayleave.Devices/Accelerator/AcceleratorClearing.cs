using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;

namespace Wayleave.Devices.Accelerator;

/// <summary>
/// The clearing of memory for its next user. What was made of the memory meanwhile is taken back if that fails, before
/// the fence signals. Host lock held by the caller.
/// </summary>
internal sealed class AcceleratorClearing(AcceleratorDevice device, Fence fence)
{
    private readonly List<SharedBuffer> _exported = [];

    /// <summary>What everybody waits for before the first access.</summary>
    public Fence Fence => fence;

    /// <summary>The last user's bytes may be there: nobody reaches the memory until it is somebody else's.</summary>
    public bool HasFailed { get; private set; }

    /// <summary>A buffer was made of the memory before it is clear.</summary>
    public void HandleExported(SharedBuffer buffer) => _exported.Add(buffer);

    /// <summary>It was given up. Before the fence signals.</summary>
    public void Fail()
    {
        if (!device.Options.TakesBackWhatIsLost)
        {
            return;
        }

        HasFailed = true;
        foreach (CopyJob job in device.Engine.Jobs)
        {
            if (job.Waits.Contains(fence))
            {
                job.Cancel();
            }
        }

        // The revokes wait for the fence, and the fence not for them.
        using SignalingSection suspended = SignalingSection.Suspend();
        foreach (SharedBuffer buffer in _exported)
        {
            if (buffer.ReferenceCount > 0)
            {
                RevokeOperation.Start(buffer, new RevokePolicy { Reason = "it could not be cleared" });
            }
        }
    }
}
