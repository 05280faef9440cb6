using Wayleave.Core;
using Wayleave.Core.Fences;

namespace Wayleave.Host.Broker;

/// <summary>
/// The fences of what a ring's commands have begun and that has not ended, by the tags that the program gave them: as
/// many as the ring has slots at most. Of two with one tag the later is found. Any thread.
/// </summary>
internal sealed class RingFences(HostContext context)
{
    private readonly Dictionary<ulong, Fence> _underWay = []; // host lock

    public void AddLocked(ulong tag, Fence fence)
    {
        context.AssertHeld();
        _underWay[tag] = fence;
    }

    /// <summary>It has ended. Takes the host lock.</summary>
    public void Remove(ulong tag, Fence fence)
    {
        using (context.Enter())
        {
            if (ReferenceEquals(_underWay.GetValueOrDefault(tag), fence))
            {
                _underWay.Remove(tag);
            }
        }
    }

    /// <summary>Null when nothing with that tag is under way. Takes the host lock.</summary>
    public Fence? Find(ulong tag)
    {
        using (context.Enter())
        {
            return _underWay.GetValueOrDefault(tag);
        }
    }
}
