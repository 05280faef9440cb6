using Wayleave.Core;
using Wayleave.Devices.Gpu;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// Pages of a movable buffer, others at each place that it comes to. What it has left is zeroed memory of this process
/// alone before it is anybody else's: who still maps the old pages does no harm, and needs not be believed. Host lock
/// held by the caller.
/// </summary>
internal sealed class FollowingPages(GpuHandle gpu, GpuBuffer buffer) : IPlacementBacking, IDisposable
{
    private readonly Dictionary<GpuPlacement, SharedPages> _pages = [];

    /// <summary>
    /// Off, what the buffer has left is handed on with the pages in it that a program may map: for the test that must
    /// notice.
    /// </summary>
    internal bool ReplacesPages { get; set; } = true;

    /// <summary>Runs when the pages of a place have been taken out.</summary>
    public Action<SharedPages>? Left { get; set; }

    /// <summary>
    /// What programs map: at the place where the bytes are, or will be when the KERNEL fences have signalled.
    /// </summary>
    public SharedPages? Current => _pages.GetValueOrDefault(buffer.Placement);

    public Errno TryBack(GpuPlacement placement)
    {
        ArgumentNullException.ThrowIfNull(placement);
        if (placement.Domain == GpuDomain.HiddenVram)
        {
            return Errno.EOPNOTSUPP;
        }

        try
        {
            _pages.Add(placement, gpu.BackLocked(buffer.Name, placement));
            return Errno.Success;
        }
        catch (LinuxException e)
        {
            return e.Errno;
        }
    }

    public Errno Unback(GpuPlacement placement)
    {
        ArgumentNullException.ThrowIfNull(placement);
        if (!_pages.TryGetValue(placement, out SharedPages? pages))
        {
            return Errno.Success;
        }

        try
        {
            if (ReplacesPages)
            {
                gpu.UnbackLocked(placement);
                pages.Punch(); // nobody keeps a copy of the bytes, nor their memory
            }
        }
        catch (LinuxException e)
        {
            return e.Errno;
        }

        _pages.Remove(placement);
        Left?.Invoke(pages);
        pages.Dispose();
        return Errno.Success;
    }

    public void Dispose()
    {
        foreach (SharedPages pages in _pages.Values)
        {
            pages.Dispose();
        }

        _pages.Clear();
    }
}
