using System.Text.Json;

namespace Wayleave.Tests.Recorded;

/// <summary>What the lab saw a real kernel do: the records of a file of <c>tests/recorded</c> (docs/lab.md).</summary>
internal static class KernelRecord
{
    /// <summary>The records, in the order in which they were made.</summary>
    public static IReadOnlyList<JsonElement> Read(string name)
    {
        using JsonDocument document = JsonDocument.Parse(SourceTree.Read($"tests/recorded/{name}.json"));
        return [.. document.RootElement.GetProperty("records").EnumerateArray().Select(r => r.Clone())];
    }

    /// <summary>Which kernel it was.</summary>
    public static string KernelVersion(string name)
    {
        using JsonDocument document = JsonDocument.Parse(SourceTree.Read($"tests/recorded/{name}.json"));
        return document.RootElement.Text("kernel");
    }

    public static string Text(this JsonElement record, string key) => record.GetProperty(key).GetString()!;
}
