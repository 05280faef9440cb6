using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Wayleave.Lab.Tests;

/// <summary>
/// What the kernel was seen to do, as data under <c>tests</c>: <c>schema</c>, <c>kernel</c> and one line for each
/// record, so that a difference between two kernels reads as a difference between two lines.
/// </summary>
internal static class RecordFile
{
    private static readonly JsonSerializerOptions s_line =
        new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>The records that a guest wrote, one JSON object a line, in a canonical form.</summary>
    /// <exception cref="JsonException">A line is no JSON.</exception>
    internal static IReadOnlyList<string> ReadLines(string path) => !File.Exists(path)
        ? []
        : [.. File.ReadLines(path).Where(l => l.Length > 0).Select(l => JsonNode.Parse(l)!.ToJsonString(s_line))];

    /// <summary>The records of a file of the repository, or none when it is not there.</summary>
    internal static IReadOnlyList<string> Read(string path) => !File.Exists(path)
        ? []
        : [.. JsonNode.Parse(File.ReadAllBytes(path))!["records"]!.AsArray().Select(r => r!.ToJsonString(s_line))];

    internal static void Write(string path, string schema, string kernel, IReadOnlyList<string> records)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(
            path,
            $"{{\n  \"schema\": \"{schema}\",\n  \"kernel\": \"{kernel}\",\n  \"records\": [\n    "
            + string.Join(",\n    ", records) + "\n  ]\n}\n");
    }

    /// <summary>What is in one and not in the other, as lines of a diff; empty when they are the same.</summary>
    internal static IReadOnlyList<string> Compare(IReadOnlyList<string> recorded, IReadOnlyList<string> seen)
    {
        if (recorded.SequenceEqual(seen))
        {
            return [];
        }

        List<string> lines =
            [.. recorded.Except(seen).Select(r => "- " + r), .. seen.Except(recorded).Select(r => "+ " + r)];
        return lines.Count > 0 ? lines : ["the same lines in another order or number"];
    }
}
