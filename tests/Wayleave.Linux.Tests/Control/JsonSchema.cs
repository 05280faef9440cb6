using System.Text.Json;

namespace Wayleave.Linux.Tests.Control;

/// <summary>
/// The part of JSON Schema that our schemas use; a keyword that is not known here is a failure of the test.
/// </summary>
internal static class JsonSchema
{
    private static readonly string[] s_annotations = ["$schema", "$defs", "title", "description"];

    /// <summary>What in <paramref name="value"/> is against <paramref name="schema"/>, each with its path.</summary>
    public static IEnumerable<string> FindProblems(JsonElement schema, JsonElement value) =>
        FindProblems(schema, schema, value, "$");

    private static IEnumerable<string> FindProblems(
        JsonElement root, JsonElement schema, JsonElement value, string path)
    {
        foreach (JsonProperty keyword in schema.EnumerateObject().Where(k => !s_annotations.Contains(k.Name)))
        {
            IEnumerable<string> problems = keyword.Name switch
            {
                "$ref" => FindProblems(root, Resolve(root, keyword.Value.GetString()!), value, path),
                "type" => Say(IsOfType(keyword.Value.GetString()!, value), path, $"is no {keyword.Value}"),
                "const" => Say(JsonElement.DeepEquals(keyword.Value, value), path, $"is not {keyword.Value}"),
                "enum" => Say(
                    keyword.Value.EnumerateArray().Any(e => JsonElement.DeepEquals(e, value)),
                    path,
                    "is none of these"),
                "minimum" => Say(
                    !IsNumber(value) || value.GetDouble() >= keyword.Value.GetDouble(), path, "is too small"),
                "maximum" => Say(
                    !IsNumber(value) || value.GetDouble() <= keyword.Value.GetDouble(), path, "is too large"),
                "required" => keyword.Value.EnumerateArray().Select(r => r.GetString()!)
                    .Where(r => !value.TryGetProperty(r, out _)).Select(r => $"{path}: lacks {r}"),
                "additionalProperties" => value.EnumerateObject()
                    .Where(p => !schema.GetProperty("properties").TryGetProperty(p.Name, out _))
                    .Select(p => $"{path}: has {p.Name}"),
                "properties" => keyword.Value.EnumerateObject()
                    .Where(p => value.TryGetProperty(p.Name, out _))
                    .SelectMany(p => FindProblems(root, p.Value, value.GetProperty(p.Name), $"{path}.{p.Name}")),
                "items" => value.EnumerateArray()
                    .SelectMany((item, i) => FindProblems(root, keyword.Value, item, $"{path}[{i}]")),
                _ => throw new NotSupportedException($"keyword {keyword.Name}"),
            };
            foreach (string problem in problems)
            {
                yield return problem;
            }
        }
    }

    public static JsonElement Resolve(JsonElement root, string reference) =>
        reference.Split('/')[1..].Aggregate(root, (at, name) => at.GetProperty(name));

    private static IEnumerable<string> Say(bool holds, string path, string problem) =>
        holds ? [] : [$"{path}: {problem}"];

    private static bool IsNumber(JsonElement value) => value.ValueKind == JsonValueKind.Number;

    private static bool IsOfType(string type, JsonElement value) => type switch
    {
        "object" => value.ValueKind == JsonValueKind.Object,
        "array" => value.ValueKind == JsonValueKind.Array,
        "string" => value.ValueKind == JsonValueKind.String,
        "boolean" => value.ValueKind is JsonValueKind.True or JsonValueKind.False,
        "number" => value.ValueKind == JsonValueKind.Number,
        "integer" => value.ValueKind == JsonValueKind.Number && value.GetDouble() % 1 == 0,
        _ => throw new NotSupportedException($"type {type}"),
    };
}
