using System.Globalization;
using System.Text.Json;
using Wayleave.Host.Topology;

namespace Wayleave.Cli.Output;

/// <summary>The links of a tree with their bytes, then the routes, then what was staged.</summary>
internal static class LinkTable
{
    public static void Write(LinksDocument links, TextWriter output)
    {
        ArgumentNullException.ThrowIfNull(links);
        ArgumentNullException.ThrowIfNull(output);
        TablePrinter tree = new("LINK ABOVE", "ADDRESS", ">UP BYTES", ">DOWN BYTES");
        foreach (LinkDocument link in links.Links)
        {
            string name = new string(' ', 2 * link.Depth) + link.Name;
            tree.Add(name, link.Address, ToText(link.UpBytes), ToText(link.DownBytes));
        }

        tree.WriteTo(output);
        WritePaths(links.Paths, output);
        output.WriteLine();
        output.WriteLine($"staging_bytes: {ToText(links.StagingBytes)}");
        output.WriteLine($"iommu_faults: {ToText(links.IommuFaults)}");
    }

    /// <summary>Who moved what over which route; nothing for no path.</summary>
    public static void WritePaths(IReadOnlyList<PathDocument> paths, TextWriter output)
    {
        ArgumentNullException.ThrowIfNull(paths);
        ArgumentNullException.ThrowIfNull(output);
        if (paths.Count == 0)
        {
            return;
        }

        output.WriteLine();
        TablePrinter table = new("CLIENT", "MEMORY OF", "ROUTE", ">READ BYTES", ">WRITTEN BYTES");
        foreach (PathDocument path in paths)
        {
            string route = JsonNamingPolicy.SnakeCaseLower.ConvertName(path.Route.ToString()).Replace('_', ' ');
            table.Add(path.Client, path.Owner ?? "host", route, ToText(path.ReadBytes), ToText(path.WrittenBytes));
        }

        table.WriteTo(output);
    }

    private static string ToText(long bytes) => bytes.ToString(CultureInfo.InvariantCulture);
}
