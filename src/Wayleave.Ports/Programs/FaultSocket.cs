using System.Globalization;

namespace Wayleave.Ports.Programs;

/// <summary>
/// Where a program of libibverbs takes faults from outside while it runs: an abstract Unix socket of whole messages, in
/// the network namespace of the process, that comes with its first queue pair and goes with it. One request and one
/// answer, both UTF-8; the answer begins with <see cref="Done"/> or <see cref="Refused"/>. Only the same user and root
/// are heard.
/// </summary>
public static class FaultSocket
{
    /// <summary>Begins a good answer; what was asked for follows.</summary>
    public const string Done = "ok ";

    /// <summary>Begins a refusal; the reason follows.</summary>
    public const string Refused = "no ";

    /// <summary>Requests that are no faults: what there is to disturb, and the end of all disturbance.</summary>
    public const string List = "list";

    /// <summary>See <see cref="List"/>.</summary>
    public const string Clear = "clear";

    /// <summary>The longest message, either way.</summary>
    public const int MessageBytesMax = 128 << 10;

    private const string Prefix = "wayleave-verbs-";

    /// <summary>Its name, with the zero that makes it abstract.</summary>
    public static string NameOf(int processId) =>
        string.Create(CultureInfo.InvariantCulture, $"\0{Prefix}{processId}");

    /// <summary>The processes of this network namespace that have one, as the kernel lists sockets.</summary>
    /// <exception cref="IOException">There is no <c>/proc</c>.</exception>
    public static IReadOnlyList<int> Processes()
    {
        SortedSet<int> found = [];
        foreach (string line in File.ReadLines("/proc/net/unix"))
        {
            int at = line.LastIndexOf("@" + Prefix, StringComparison.Ordinal);
            if (at >= 0 && int.TryParse(
                line.AsSpan(at + 1 + Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out int id))
            {
                found.Add(id);
            }
        }

        return [.. found];
    }
}
