using Wayleave.Core;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// The GPU addresses of one process (<c>amdgpu_vm</c>): which buffer is where, and with which rights. Commands that go
/// by page table reach what is mapped here and nothing else. Host lock held by the caller.
/// </summary>
public sealed class GpuAddressSpace
{
    /// <summary>Mappings are whole pages of this size.</summary>
    public const ulong PageBytes = 4096;

    /// <summary>Where addresses end.</summary>
    public const ulong AddressEnd = 1UL << 48;

    private readonly GpuProcess _process;
    private readonly List<GpuMapping> _mappings = []; // by address

    internal GpuAddressSpace(GpuProcess process) => _process = process;

    /// <summary>By address; they never overlap.</summary>
    public IReadOnlyList<GpuMapping> Mappings => _mappings;

    /// <summary>
    /// Maps a part of a buffer (<c>DRM_IOCTL_AMDGPU_GEM_VA</c>). Jobs that are submitted later see it.
    /// </summary>
    /// <param name="address">Whole pages.</param>
    /// <param name="handle">Of the process.</param>
    /// <param name="offset">In the buffer, whole pages.</param>
    /// <param name="lengthBytes">
    /// Whole pages, or up to the end of the buffer in whole words: the rest of that page faults.
    /// </param>
    /// <param name="access">At most what the handle allows.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for what is not whole pages, for no access, and for a range outside the buffer or the
    /// addresses; <see cref="Errno.ENOENT"/> for a handle that is not the process's; <see cref="Errno.EACCES"/> for
    /// more than the handle allows; <see cref="Errno.EEXIST"/> where something is mapped.
    /// </returns>
    public Errno TryMap(ulong address, uint handle, ulong offset, ulong lengthBytes, GpuAccess access)
    {
        _process.Device.Host.AssertHeld();
        if (_process.Find(handle) is not { } binding)
        {
            return Errno.ENOENT;
        }

        bool isWhole = ((address | offset) & (PageBytes - 1)) == 0
            && (lengthBytes % PageBytes == 0 || lengthBytes == ((binding.SizeBytes - offset) & ~3UL));
        if (!isWhole || lengthBytes == 0 || access == GpuAccess.None
            || address >= AddressEnd || lengthBytes > AddressEnd - address
            || offset >= binding.SizeBytes || lengthBytes > binding.SizeBytes - offset)
        {
            return Errno.EINVAL;
        }

        if ((binding.Access & access) != access)
        {
            return Errno.EACCES;
        }

        if (_mappings.Exists(m => address < m.Start + m.LengthBytes && m.Start < address + lengthBytes))
        {
            return Errno.EEXIST;
        }

        int place = _mappings.FindIndex(m => m.Start > address);
        GpuMapping mapping = new(address, lengthBytes, binding, offset, access);
        _mappings.Insert(place < 0 ? _mappings.Count : place, mapping);
        return Errno.Success;
    }

    /// <summary>
    /// Ends a mapping, all of it. Jobs that were submitted before go on with it; their fences say when they are done.
    /// </summary>
    /// <returns><see cref="Errno.ENOENT"/> when none begins there.</returns>
    public Errno TryUnmap(ulong address)
    {
        _process.Device.Host.AssertHeld();
        return _mappings.RemoveAll(m => m.Start == address) > 0 ? Errno.Success : Errno.ENOENT;
    }

    internal bool IsMapped(GpuBinding binding) => _mappings.Exists(m => m.Binding == binding);

    internal void Clear() => _mappings.Clear();
}
