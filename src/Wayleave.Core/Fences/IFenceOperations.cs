namespace Wayleave.Core.Fences;

/// <summary>
/// What the driver behind a fence is asked (<c>dma_fence_ops</c>). Called with the host lock held; nothing here blocks,
/// calls back into Core, or is called once the fence has signalled: the driver may be gone by then.
/// </summary>
public interface IFenceOperations
{
    /// <summary>For people: <c>gpu0</c>.</summary>
    string DriverName { get; }

    /// <summary>For people: <c>copy ring</c>.</summary>
    string TimelineName { get; }

    /// <summary>
    /// Somebody waits from now on: called at most once. A driver that learns of its work's end only by an interrupt
    /// switches that on here.
    /// </summary>
    /// <returns>False when the work has ended already: the fence is signalled on the spot.</returns>
    bool EnableSignaling(Fence fence) => true;

    /// <summary>Whether the work has ended, for a driver that can look: asked instead of waiting.</summary>
    bool IsSignaled(Fence fence) => false;

    /// <summary>
    /// Somebody wants the fence by then, on the host's clock; a hint, and earlier than those before it.
    /// </summary>
    void SetDeadline(Fence fence, TimeSpan deadline)
    {
    }
}

/// <summary>How the sequence numbers of a context are compared.</summary>
public enum SeqnoWidth
{
    /// <summary>Never wrap (<c>dma_fence_init64</c>).</summary>
    Bits64,

    /// <summary>Wrap: the later is the one ahead by less than 2^31 (<c>dma_fence_init</c>).</summary>
    Bits32,
}
