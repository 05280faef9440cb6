using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// What owners of regions have to tell the port, and the port has to do between two packets: keys that die as soon as
/// it stands still, and regions whose memory is gone.
/// </summary>
internal sealed class RegionAnnouncements(RdmaPort port)
{
    private readonly List<MemoryRegion> _quiescing = []; // host lock
    private readonly List<MemoryRegion> _lost = []; // host lock
    private int _attention; // set under the host lock, read by the holder of the token

    /// <summary>The region's key dies as soon as the port stands still. Host lock held.</summary>
    public void RequestQuiesce(MemoryRegion region)
    {
        port.Host.AssertHeld();
        _quiescing.Add(region);
        CallForAttention();
    }

    /// <summary>The owner took a region that did not follow. Host lock held.</summary>
    public void NoteLost(MemoryRegion region)
    {
        port.Host.AssertHeld();
        _lost.Add(region);
        CallForAttention();
    }

    /// <summary>There is something that <see cref="Attend"/> has to do before the next packet.</summary>
    public bool CallsForAttention => Volatile.Read(ref _attention) != 0;

    /// <summary>
    /// Does what was announced. Port token held, between two packets: whoever has it is in none, and nobody else is.
    /// </summary>
    public void Attend()
    {
        if (!CallsForAttention)
        {
            return;
        }

        using (port.Host.Enter())
        {
            Volatile.Write(ref _attention, 0);
            if (_quiescing.Count > 0)
            {
                port.Counters.Quiesces++;
                port.Host.Trace("rdma.quiesced", "port", _quiescing.Count);
            }

            foreach (MemoryRegion region in _quiescing)
            {
                region.HandleQuiesced();
            }

            foreach (MemoryRegion region in _lost)
            {
                port.RaiseEvent(new AsyncEvent(AsyncEventType.MemoryRegionLost, 0, region.Key));
            }

            _quiescing.Clear();
            _lost.Clear();
        }
    }

    private void CallForAttention()
    {
        Volatile.Write(ref _attention, 1);
        port.RegionFaults.NotifyChanged();
        if (port.AttentionNeeded is { } needed)
        {
            port.Host.Defer(needed);
        }
    }
}
