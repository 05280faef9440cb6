using System.Globalization;
using System.Text.RegularExpressions;
using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Guests;

/// <summary>
/// Looks into <c>calc_map_type_and_dist</c> of drivers/pci/p2pdma.c by a return probe: its map type and distance appear
/// nowhere else. The kernel calls it once for a pair and then remembers.
/// </summary>
internal static partial class MapTypeProbe
{
    private const string Tracing = "/sys/kernel/tracing";

    private static readonly string[] s_types =
        ["unknown", "none", "not-supported", "bus-address", "through-host-bridge"];

    /// <summary>Sets the probe.</summary>
    /// <exception cref="IOException">The kernel has no such function, or no probes.</exception>
    internal static void Start()
    {
        // The distance is written through the third argument, which is the pointer that the function was entered with.
        File.WriteAllText(
            $"{Tracing}/kprobe_events", "r:p2p calc_map_type_and_dist distance=+0($arg3):s32 type=$retval:u32\n");
        File.WriteAllText($"{Tracing}/events/kprobes/p2p/enable", "1");
    }

    /// <summary>
    /// What the function said since the last call: map type and distance, or null when it was not called.
    /// </summary>
    internal static (string Type, int Distance)? Take()
    {
        Match match = Line().Match(File.ReadAllText($"{Tracing}/trace"));
        // The buffer is emptied by an open that truncates, which the file classes of .NET do not do.
        Libc.close(Libc.open($"{Tracing}/trace", Libc.O_WRONLY | Libc.O_TRUNC | Libc.O_CLOEXEC));
        return match.Success
            ? (s_types[int.Parse(match.Groups[2].Value, CultureInfo.InvariantCulture)],
                int.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture))
            : null;
    }

    [GeneratedRegex(@"distance=(-?\d+) type=(\d+)")]
    private static partial Regex Line();
}
