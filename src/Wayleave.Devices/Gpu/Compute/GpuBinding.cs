using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// What a handle of a process stands for: a buffer, or memory of the process itself (<c>amdgpu_bo_va</c>). Jobs are
/// submitted with it; it lets go of the memory when the last has ended. Host lock held by the caller.
/// </summary>
public abstract class GpuBinding
{
    private Action? _released;

    private protected GpuBinding(GpuProcess process, uint handle, string what, GpuAccess access)
    {
        (Process, Handle, Access) = (process, handle, access);
        Name = $"{process.Name} on {process.Device.Function.Name} for {what}";
    }

    public GpuProcess Process { get; }

    /// <summary>The number by which the process's commands name it, never zero.</summary>
    public uint Handle { get; }

    /// <summary>What the process's commands may do with the memory at most.</summary>
    public GpuAccess Access { get; }

    /// <summary>For people and proofs.</summary>
    public string Name { get; }

    /// <summary>The buffer; null for memory of the process itself, and once it is released.</summary>
    public abstract SharedBuffer? Buffer { get; }

    public abstract ulong SizeBytes { get; }

    /// <summary>The memory was taken back for good, or let go of.</summary>
    public abstract bool IsGone { get; }

    /// <summary>Jobs that were submitted with it and have not ended; user queues that run count as one.</summary>
    public int Jobs { get; private set; }

    /// <summary>Where the fences of its jobs stand; null once it is released.</summary>
    internal abstract Reservation? Reservation { get; }

    /// <summary>Of the present mapping, or null.</summary>
    internal abstract DmaAddressList? Addresses { get; }

    private protected HostContext Host => Process.Device.Host;

    public override string ToString() => Name;

    /// <summary>
    /// Does what cannot be done with the reservation held: faults pages in, for which the lock of the address space is
    /// taken, and that comes first (dma-resv.c).
    /// </summary>
    /// <param name="prepared">
    /// Runs with the host lock held when it is done, with why it cannot be; not if it is now.
    /// </param>
    /// <returns>True when nothing is left to do.</returns>
    internal virtual bool TryPrepare(Action<Errno> prepared) => true;

    /// <summary>The addresses that the next job uses. Reservation held by the ticket.</summary>
    /// <returns>
    /// MustWait while jobs still use the place from which the memory was moved; Refused with EAGAIN when it has to be
    /// prepared again; otherwise what a map says. KERNEL fences are the job's to wait for.
    /// </returns>
    internal abstract MapOutcome MapLocked(AcquireTicket ticket);

    internal void BeginJob() => Jobs++;

    internal void EndJob()
    {
        Jobs--;
        if (Jobs > 0)
        {
            return;
        }

        HandleIdle();
        if (_released is { } released)
        {
            _released = null;
            Host.Defer(released);
        }
    }

    /// <summary>Lets go of the memory when the last job has ended; on whatever thread that is.</summary>
    internal void Release()
    {
        if (Jobs == 0)
        {
            ReleaseNow();
            return;
        }

        _released = () =>
        {
            using (Host.Enter())
            {
                Release();
            }
        };
    }

    /// <summary>The last job has ended.</summary>
    private protected abstract void HandleIdle();

    private protected abstract void ReleaseNow();
}
