using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Wayleave.Lab.Guests;

/// <summary>The records of a guest program: one JSON object a line in <c>$LAB_SHARE/records.jsonl</c>.</summary>
internal sealed class Records
{
    private static readonly JsonSerializerOptions s_line =
        new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private readonly string _path =
        Path.Combine(Environment.GetEnvironmentVariable("LAB_SHARE") ?? ".", "records.jsonl");

    /// <summary>The machine that it runs on, as <c>test.json</c> names it.</summary>
    internal static string Boot => Environment.GetEnvironmentVariable("LAB_BOOT") ?? "";

    /// <summary>Appends one, and shows it.</summary>
    internal void Add(JsonObject record)
    {
        string line = record.ToJsonString(s_line);
        File.AppendAllText(_path, line + "\n");
        Console.WriteLine(line);
    }
}
