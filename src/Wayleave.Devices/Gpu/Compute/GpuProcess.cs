using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// A process's use of a GPU (<c>drm_file</c> with its VM): the buffers it has opened, by numbers that mean nothing to
/// anybody else, its addresses and its queues. Host lock held by the caller.
/// </summary>
public sealed class GpuProcess
{
    private readonly Dictionary<uint, GpuBinding> _bindings = [];
    private readonly List<GpuBinding> _inOrder = []; // of their numbers
    private readonly List<EngineQueue> _queues = [];
    private uint _nextHandle = 1;

    internal GpuProcess(GpuDevice device, string name)
    {
        (Device, Name) = (device, name);
        Memory = new GpuAddressSpace(this);
        Eviction = new GpuEviction(this);
        Faults = new GpuFaults();
    }

    public GpuDevice Device { get; }

    /// <summary>For people and proofs: <c>process 4711</c>.</summary>
    public string Name { get; }

    /// <summary>What its addresses lead to.</summary>
    public GpuAddressSpace Memory { get; }

    /// <summary>In the order in which they were opened.</summary>
    public IReadOnlyList<GpuBinding> Bindings => _inOrder;

    public IReadOnlyList<EngineQueue> Queues => _queues;

    /// <summary>Whether the process's own queues run, and what they do when somebody wants its memory.</summary>
    public GpuEviction Eviction { get; }

    /// <summary>What its user queues touched and the GPU has no entry for: somebody has to serve them.</summary>
    public GpuFaults Faults { get; }

    /// <summary>It has ended, or is about to: nothing more is opened, and nothing submitted.</summary>
    public bool IsClosed { get; private set; }

    /// <summary>Makes a buffer usable by the process's commands (<c>DRM_IOCTL_PRIME_FD_TO_HANDLE</c>).</summary>
    /// <param name="buffer">Of this GPU or of another device.</param>
    /// <param name="access">What commands may do with it at most.</param>
    /// <param name="handle">By which commands and mappings name it.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> without any access, <see cref="Errno.ENODEV"/> after <see cref="Close"/>; otherwise
    /// what <see cref="SharedBuffer.TryAttach"/> returns.
    /// </returns>
    public Errno TryOpen(SharedBuffer buffer, GpuAccess access, out uint handle)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        Device.Host.AssertHeld();
        handle = 0;
        if (access == GpuAccess.None || IsClosed)
        {
            return IsClosed ? Errno.ENODEV : Errno.EINVAL;
        }

        BufferBinding binding = new(this, _nextHandle, buffer.Name, access);
        Errno errno = binding.Attach(buffer, Device.Function);
        if (errno != Errno.Success)
        {
            return errno;
        }

        handle = Add(binding);
        return Errno.Success;
    }

    /// <summary>
    /// Makes memory of a process usable by its commands where it is (<c>DRM_IOCTL_AMDGPU_GEM_USERPTR</c>).
    /// </summary>
    /// <param name="space">Of the process.</param>
    /// <param name="range">Whole pages; they need not be there yet.</param>
    /// <param name="access">With <see cref="GpuAccess.Write"/> the process must be allowed to write there.</param>
    /// <param name="handle">As of <see cref="TryOpen"/>.</param>
    /// <param name="mode">What happens when the process, or whoever is short of memory, wants the pages.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> without any access and for what is not whole pages; <see cref="Errno.ENODEV"/> after
    /// <see cref="Close"/>; <see cref="Errno.EOPNOTSUPP"/> to fault behind an IOMMU that translates; otherwise what
    /// <see cref="AddressSpace.Subscribe"/> returns.
    /// </returns>
    public Errno TryOpenUserPointer(
        AddressSpace space,
        AddressRange range,
        GpuAccess access,
        out uint handle,
        GpuUserMemory mode = GpuUserMemory.WaitForFences)
    {
        ArgumentNullException.ThrowIfNull(space);
        Device.Host.AssertHeld();
        handle = 0;
        if (IsClosed)
        {
            return Errno.ENODEV;
        }

        if (access == GpuAccess.None || range.LengthBytes == 0 || !range.IsPageAligned)
        {
            return Errno.EINVAL;
        }

        Errno errno = Errno.Success;
        GpuBinding binding;
        switch (mode)
        {
            case GpuUserMemory.Pinned:
                binding = new PinnedUserBinding(this, _nextHandle, space, range, access);
                break;
            case GpuUserMemory.Fault when Device.Function.Root is { Iommu: IommuMode.Strict }:
                return Errno.EOPNOTSUPP; // nothing makes addresses per page there
            case GpuUserMemory.Fault:
                MirrorBinding mirror = new(this, _nextHandle, space, range, access);
                errno = mirror.Subscribe();
                binding = mirror;
                break;
            default:
                UserPointerBinding pages =
                    new(this, _nextHandle, space, range, access, mode == GpuUserMemory.DrainLocally);
                errno = pages.Subscribe();
                binding = pages;
                break;
        }

        handle = errno == Errno.Success ? Add(binding) : 0;
        return errno;
    }

    /// <summary>
    /// What others can attach to (<c>DRM_IOCTL_PRIME_HANDLE_TO_FD</c>): the buffer, with one reference more, which is
    /// the caller's.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.ENOENT"/> for a number that is not the process's; <see cref="Errno.EPERM"/> for memory of the
    /// process itself, which nobody else's fences could hold in place.
    /// </returns>
    public Errno TryExport(uint handle, out SharedBuffer? buffer)
    {
        Device.Host.AssertHeld();
        buffer = Find(handle)?.Buffer;
        buffer?.Get();
        return buffer is not null ? Errno.Success : Find(handle) is null ? Errno.ENOENT : Errno.EPERM;
    }

    /// <summary>
    /// Ends a handle (<c>DRM_IOCTL_GEM_CLOSE</c>). The buffer is let go of when the last job that was submitted with it
    /// has ended.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.ENOENT"/> for a number that is not the process's, <see cref="Errno.EBUSY"/> while it is mapped.
    /// </returns>
    public Errno TryClose(uint handle)
    {
        Device.Host.AssertHeld();
        if (Find(handle) is not { } binding)
        {
            return Errno.ENOENT;
        }

        if (Memory.IsMapped(binding))
        {
            return Errno.EBUSY;
        }

        _bindings.Remove(handle);
        _inOrder.Remove(binding);
        Eviction.Request(); // user queues may use it until they have stopped
        binding.Release();
        return Errno.Success;
    }

    /// <summary>Makes a queue of the process, whose jobs end with fences.</summary>
    /// <param name="name">For people: <c>training</c>.</param>
    /// <param name="priority">Beside other queues.</param>
    /// <param name="engine">Who runs it.</param>
    public ComputeQueue CreateQueue(
        string name, GpuPriority priority = GpuPriority.Normal, GpuEngineKind engine = GpuEngineKind.Compute)
    {
        Device.Host.AssertHeld();
        ObjectDisposedException.ThrowIf(IsClosed, this);
        ComputeQueue queue = new(this, name, priority, Device.EngineFor(engine), Device.WaitsForFences);
        _queues.Add(queue);
        queue.Engine.AddQueue(queue);
        return queue;
    }

    /// <summary>
    /// Ends a queue of jobs (<c>drm_sched_entity_flush</c>, without the wait): it takes nothing more, and the engine
    /// forgets it when the last of its jobs has ended. The second call does nothing.
    /// </summary>
    public void CloseQueue(ComputeQueue queue)
    {
        ArgumentNullException.ThrowIfNull(queue);
        Device.Host.AssertHeld();
        queue.IsClosed = true;
        if (!queue.HasWork) // otherwise it stays, so that the end of the process cancels what it has
        {
            _queues.Remove(queue);
            queue.Engine.RemoveQueue(queue);
        }
    }

    internal void Forget(EngineQueue queue) => _queues.Remove(queue);

    /// <summary>
    /// Makes a queue that the process writes itself; it runs while <see cref="GpuEviction"/> lets it.
    /// </summary>
    /// <param name="name">For people.</param>
    /// <param name="ringAddress">Of the process, a multiple of <see cref="GpuCommand.SizeBytes"/>.</param>
    /// <param name="ringCommands">A power of two, at most 65536.</param>
    /// <param name="queue">Null unless Success.</param>
    /// <param name="priority">Beside other queues.</param>
    /// <param name="engine">Who runs it. Nothing of either engine's user queues enters a reservation.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for another address or size, <see cref="Errno.ENODEV"/> after <see cref="Close"/>.
    /// </returns>
    public Errno TryCreateUserQueue(
        string name,
        ulong ringAddress,
        uint ringCommands,
        out UserQueue? queue,
        GpuPriority priority = GpuPriority.Normal,
        GpuEngineKind engine = GpuEngineKind.Compute)
    {
        Device.Host.AssertHeld();
        queue = null;
        if (IsClosed)
        {
            return Errno.ENODEV;
        }

        if (ringAddress % GpuCommand.SizeBytes != 0 || ringAddress >= GpuAddressSpace.AddressEnd
            || !uint.IsPow2(ringCommands) || ringCommands > 1 << 16)
        {
            return Errno.EINVAL;
        }

        queue = new UserQueue(this, name, priority, Device.EngineFor(engine), ringAddress, ringCommands);
        _queues.Add(queue);
        queue.Engine.AddQueue(queue);
        return Errno.Success;
    }

    /// <summary>
    /// The process has ended: its jobs stop at the next block and end with ECANCELED, its mappings are gone, and its
    /// buffers are let go of as the jobs end. The second call does nothing.
    /// </summary>
    public void Close()
    {
        Device.Host.AssertHeld();
        if (IsClosed)
        {
            return;
        }

        IsClosed = true;
        Memory.Clear();
        foreach (EngineQueue queue in _queues.ToArray())
        {
            queue.Lose();
            if (!queue.HasWork)
            {
                queue.Engine.RemoveQueue(queue);
            }
        }

        Eviction.End();

        foreach (GpuBinding binding in _inOrder)
        {
            binding.Release();
        }

        _bindings.Clear();
        _inOrder.Clear();
    }

    public override string ToString() => $"{Name} on {Device.Function.Name}";

    private uint Add(GpuBinding binding)
    {
        _bindings.Add(_nextHandle, binding);
        _inOrder.Add(binding);
        return _nextHandle++;
    }

    internal GpuBinding? Find(uint handle) => _bindings.GetValueOrDefault(handle);

    internal void CancelJobsWith(GpuBinding binding)
    {
        foreach (ComputeQueue queue in _queues.OfType<ComputeQueue>())
        {
            foreach (ComputeJob job in queue.Jobs)
            {
                if (job.Bindings.Contains(binding))
                {
                    job.Cancel();
                }
            }
        }
    }
}
