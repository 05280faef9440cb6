using System.Net;
using Wayleave.Lab.Machine;

namespace Wayleave.Lab.Rdma;

/// <summary>
/// The dialog of the test <c>rxe-up</c>, which both sides know. Each in turn is the active one: it WRITEs
/// <see cref="Bytes"/> of its pattern into the other's memory, READs as many of the other's, and SENDs; the passive one
/// then looks at its memory. At last the host writes by a key that there is not.
/// </summary>
/// <param name="Name">For files and messages.</param>
/// <param name="Host">Our end.</param>
/// <param name="Guest">The kernel's end.</param>
/// <param name="PathMtu">Bytes.</param>
internal sealed record Dialog(string Name, IPAddress Host, IPAddress Guest, int PathMtu)
{
    /// <summary>No multiple of any MTU, and with a pad.</summary>
    internal const int Bytes = 50_001;

    /// <summary>Where in the passive side's memory the active one writes.</summary>
    internal const int WrittenAt = 0;

    /// <summary>Where it reads.</summary>
    internal const int ServedAt = 1 << 17;

    /// <summary>Where a SEND arrives.</summary>
    internal const int ReceivedAt = 2 << 17;

    /// <summary>Where the active side's own data is.</summary>
    internal const int OwnAt = 3 << 17;

    /// <summary>Where it takes what it READs.</summary>
    internal const int ReadAt = 4 << 17;

    internal const int SendBytes = 3_000;

    internal const uint Immediate = 0xcafef00d;

    internal static IReadOnlyList<Dialog> All { get; } =
    [
        Over4("ipv4-1024", 1024), Over4("ipv4-4096", 4096), Over6("ipv6-1024", 1024), Over6("ipv6-4096", 4096),
    ];

    /// <summary>Fills with a side's pattern.</summary>
    internal static void Fill(Span<byte> target, int seed)
    {
        for (int i = 0; i < target.Length; i++)
        {
            target[i] = Pattern(i, seed);
        }
    }

    /// <summary>Whether it is the whole pattern; the first wrong byte is named otherwise.</summary>
    internal static string? Check(ReadOnlySpan<byte> bytes, int seed, string what)
    {
        for (int i = 0; i < bytes.Length; i++)
        {
            if (bytes[i] != Pattern(i, seed))
            {
                return $"{what}: byte {i} is 0x{bytes[i]:x2} and not 0x{Pattern(i, seed):x2}";
            }
        }

        return null;
    }

    private static byte Pattern(int index, int seed) => (byte)((index * 7) + (index >> 8) + seed);

    private static Dialog Over4(string name, int mtu) => new(
        name, IPAddress.Parse(HostNetwork.HostAddress), IPAddress.Parse(HostNetwork.GuestAddress), mtu);

    private static Dialog Over6(string name, int mtu) => new(
        name, IPAddress.Parse(HostNetwork.HostAddress6), IPAddress.Parse(HostNetwork.GuestAddress6), mtu);
}
