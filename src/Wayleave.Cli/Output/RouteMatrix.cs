using Wayleave.Core.Topology;
using Wayleave.Host.Topology;

namespace Wayleave.Cli.Output;

/// <summary>
/// Two matrices: nearness with the letters of <c>nvidia-smi topo -m</c>, and who reaches whose memory.
/// </summary>
internal static class RouteMatrix
{
    private static readonly string[] s_legend =
    [
        "Legend:",
        "",
        "  X    = Self",
        "  SYS  = Across the interconnect between NUMA nodes",
        "  NODE = Across the host bridges of one NUMA node",
        "  PHB  = Across a PCIe host bridge (typically the CPU)",
        "  PXB  = Across several PCIe bridges, but no host bridge",
        "  PIX  = Across at most one PCIe bridge or switch",
    ];

    private static readonly string[] s_peerLegend =
    [
        "P2P: how the device of a column reaches the memory of the device of a row",
        "",
        "  BUS  = By bus address: the request stays below a common bridge, past every IOMMU",
        "  HOST = Through the host bridge",
        "  NO   = Not at all: wayleave explain ROW COLUMN says why",
        "  BAD  = Allowed, but a probe failed",
        "  -    = It offers no memory to peers",
    ];

    public static void Write(RoutesDocument routes, TextWriter output)
    {
        ArgumentNullException.ThrowIfNull(routes);
        ArgumentNullException.ThrowIfNull(output);
        Dictionary<(string, string), RouteDocument> byPair =
            routes.Routes.ToDictionary(r => (r.Owner, r.Client));
        WriteMatrix(routes.Devices, byPair, r => r.Proximity, output);
        output.WriteLine();
        WriteLines(s_legend, output);
        output.WriteLine();
        WriteMatrix(routes.Devices, byPair, PeerCell, output);
        output.WriteLine();
        WriteLines(s_peerLegend, output);
    }

    private static string PeerCell(RouteDocument route) =>
        route.Obstacle == PeerObstacle.FailedProbe ? "BAD"
        : route.OffersMemory == false ? "-"
        : route.MapType switch
        {
            PeerMapType.BusAddress => "BUS",
            PeerMapType.ThroughHostBridge => "HOST",
            _ => "NO",
        };

    private static void WriteMatrix(
        IReadOnlyList<string> devices,
        Dictionary<(string, string), RouteDocument> byPair,
        Func<RouteDocument, string> cell,
        TextWriter output)
    {
        TablePrinter table = new(["", .. devices]);
        foreach (string row in devices)
        {
            table.Add(
            [
                row,
                .. devices.Select(c => byPair.TryGetValue((row, c), out RouteDocument? route) ? cell(route) : "X"),
            ]);
        }

        table.WriteTo(output);
    }

    private static void WriteLines(string[] lines, TextWriter output)
    {
        foreach (string line in lines)
        {
            output.WriteLine(line);
        }
    }
}
