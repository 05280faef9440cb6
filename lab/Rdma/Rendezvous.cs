using System.Diagnostics;
using System.Text.Json;

namespace Wayleave.Lab.Rdma;

/// <summary>
/// Meets the other side in the folder that host and guest share: each leaves a file and waits for the other's.
/// </summary>
internal static class Rendezvous
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(60);

    internal static string Folder { get; } = Environment.GetEnvironmentVariable("LAB_SHARE") ?? ".";

    /// <summary>Leaves what the other side waits for; it sees the whole of it or nothing.</summary>
    internal static void Leave<T>(string name, T value)
    {
        string path = Path.Combine(Folder, name + ".json");
        File.WriteAllText(path + ".next", JsonSerializer.Serialize(value));
        File.Move(path + ".next", path);
    }

    /// <summary>Whether the other side has left it.</summary>
    internal static bool Has(string name) => File.Exists(Path.Combine(Folder, name + ".json"));

    /// <summary>Waits for what the other side leaves.</summary>
    /// <exception cref="TimeoutException">It does not come.</exception>
    internal static T Await<T>(string name)
    {
        string path = Path.Combine(Folder, name + ".json");
        Stopwatch watch = Stopwatch.StartNew();
        while (!File.Exists(path))
        {
            if (watch.Elapsed > s_limit)
            {
                throw new TimeoutException($"the other side left no {name} in {s_limit.TotalSeconds:F0} s");
            }

            Thread.Sleep(20);
        }

        return JsonSerializer.Deserialize<T>(File.ReadAllBytes(path))!;
    }
}
