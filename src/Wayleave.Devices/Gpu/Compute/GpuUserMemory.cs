namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// What a GPU does when the process's own memory, which its commands reach where it is, is wanted back: the strategies
/// of the argument about fences in notifiers (linux.md 3.9). They live side by side, one for each handle.
/// </summary>
public enum GpuUserMemory
{
    /// <summary>
    /// The notifier waits for the fences of all jobs with the memory, started or not, and for whatever these wait for
    /// on other devices (amdgpu's userptr). User queues are stopped at the next block, and no job is waited for.
    /// </summary>
    WaitForFences,

    /// <summary>
    /// The notifier waits for the job that has begun on this engine and for nothing else: a job that still waits for
    /// another device does so in the engine's own queue, and looks its pages up again when it starts. That is an
    /// allocation between publishing a fence and signalling it, which dma-fence.c forbids; it is reported.
    /// </summary>
    DrainLocally,

    /// <summary>
    /// No notifier: the pages are pinned for long with the first use and stay until the handle is closed. Charged to
    /// the process (<see cref="Core.AddressSpaces.PinLimits"/>).
    /// </summary>
    Pinned,

    /// <summary>
    /// Nothing is held: the notifier takes entries out of the GPU's page table, waits for the block under way, and the
    /// next touch faults (KFD with XNACK, drm_gpusvm). Only for user queues: work that may fault must not stand
    /// behind a <c>dma_fence</c> (dma-buf.rst, recoverable faults).
    /// </summary>
    Fault,
}
