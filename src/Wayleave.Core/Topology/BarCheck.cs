namespace Wayleave.Core.Topology;

/// <summary>Whether the BARs of a description can be, each and together.</summary>
internal sealed class BarCheck(IReadOnlyList<TopologyNode> nodes, List<TopologyProblem> problems)
{
    // PCI 3.0, 6.2.5.1: a BAR of memory decodes at least 16 bytes; one of ports at least 4 and at most 256.
    private const ulong MemoryBytesMin = 16;
    private const ulong PortBytesMin = 4;
    private const ulong PortBytesMax = 256;
    private const int BridgeBarCount = 2;

    // The largest that a resizable BAR could be for twenty years (PCIe 5.0, 7.8.6.3).
    private const ulong MemoryBytesMax = 1UL << 47;

    private readonly List<PlacedBar> _placed = [];

    public void Run()
    {
        foreach (TopologyNode node in nodes)
        {
            HashSet<int> indexes = [];
            for (int i = 0; i < node.Description.Bars.Count; i++)
            {
                BarDescription bar = node.Description.Bars[i];
                Check(node, bar, bar.Path ?? $"{node.Path}.bars[{i}]", indexes);
            }
        }

        foreach (IGrouping<PciBarKind, PlacedBar> space in _placed.GroupBy(p => p.Kind))
        {
            CheckOverlaps([.. space.OrderBy(p => p.Range.Start.Value)]);
        }
    }

    private void Check(TopologyNode node, BarDescription bar, string path, HashSet<int> indexes)
    {
        int count = node.Kind is null ? PciFunction.BarCountMax : BridgeBarCount;
        if (bar.Index < 0 || bar.Index >= count)
        {
            string what = node.Kind is null ? "a function" : "a bridge";
            Report(path + ".index", $"{bar.Index} is out of range; {what} has the BARs 0 to {count - 1}");
        }
        else if (!indexes.Add(bar.Index))
        {
            Report(path + ".index", $"{node.Name} has a BAR {bar.Index} already");
        }

        bool isMemory = bar.Kind == PciBarKind.Memory;
        if (!ulong.IsPow2(bar.SizeBytes))
        {
            Report(path + ".size_bytes", $"{bar.SizeBytes} is not a power of two");
            return;
        }

        if (bar.SizeBytes < (isMemory ? MemoryBytesMin : PortBytesMin)
            || bar.SizeBytes > (isMemory ? MemoryBytesMax : PortBytesMax))
        {
            string allowed = isMemory ? "memory is 16 bytes to 128 TiB" : "I/O ports are 4 to 256 bytes";
            Report(path + ".size_bytes", $"{bar.SizeBytes} is out of range; {allowed}");
            return;
        }

        if (bar.Start is not ulong start)
        {
            return;
        }

        if (start % bar.SizeBytes != 0)
        {
            Report(path + ".address", $"0x{start:x} is not a multiple of the size, 0x{bar.SizeBytes:x}");
            return;
        }

        DeviceRange range = new(new DeviceAddress(start), bar.SizeBytes);
        _placed.Add(new PlacedBar(bar.Kind, range, path, $"BAR {bar.Index} of {node.Name}"));
    }

    private void CheckOverlaps(List<PlacedBar> bars)
    {
        // An aligned power of two either holds another or is apart from it: the last one that reached farthest will do.
        PlacedBar? farthest = null;
        foreach (PlacedBar bar in bars)
        {
            if (farthest is not null && farthest.Range.Overlaps(bar.Range))
            {
                Report(bar.Path + ".address", $"{bar.Range} overlaps {farthest.Name}, {farthest.Range}");
            }

            if (farthest is null || Last(bar) > Last(farthest))
            {
                farthest = bar;
            }
        }
    }

    private static ulong Last(PlacedBar bar) => bar.Range.Start.Value + (bar.Range.LengthBytes - 1);

    private void Report(string path, string message) => problems.Add(new TopologyProblem(path, message));

    private sealed record PlacedBar(PciBarKind Kind, DeviceRange Range, string Path, string Name);
}
