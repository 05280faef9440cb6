using System.Text.Json;

namespace Wayleave.Compare;

/// <summary>One line of a comparison: medians of the rounds, and of the rounds' ratios.</summary>
/// <param name="Test">What of ours.</param>
/// <param name="Peer">Beside what, or null.</param>
/// <param name="Unit">Of both figures.</param>
/// <param name="Ours">Median of ours.</param>
/// <param name="Theirs">That of the peer; not a number without one.</param>
/// <param name="Ratio">Median of ours over theirs.</param>
/// <param name="Bar">What was promised, or null.</param>
public sealed record ComparisonRow(
    string Test, string? Peer, string Unit, double Ours, double Theirs, double Ratio, string? Bar);

/// <summary>The report for scripts.</summary>
public static class ComparisonReport
{
    /// <summary>One JSON object on the standard output.</summary>
    /// <param name="schema">Its name and version.</param>
    /// <param name="rows">What was measured.</param>
    /// <param name="rounds">How often.</param>
    /// <param name="sizeBytes">Of each message, where it is the same for all.</param>
    public static void Print(string schema, IEnumerable<ComparisonRow> rows, int rounds, int? sizeBytes = null)
    {
        using Stream output = Console.OpenStandardOutput();
        using Utf8JsonWriter writer = new(output, new JsonWriterOptions { Indented = true });
        writer.WriteStartObject();
        writer.WriteString("schema", schema);
        if (sizeBytes is { } size)
        {
            writer.WriteNumber("size_bytes", size);
        }

        writer.WriteNumber("rounds", rounds);
        writer.WriteStartArray("comparisons");
        foreach (ComparisonRow row in rows)
        {
            Write(writer, row);
        }

        writer.WriteEndArray();
        writer.WriteEndObject();
        writer.Flush();
        output.WriteByte((byte)'\n');
    }

    private static void Write(Utf8JsonWriter writer, ComparisonRow row)
    {
        writer.WriteStartObject();
        writer.WriteString("test", row.Test);
        if (row.Peer is not null)
        {
            writer.WriteString("peer", row.Peer);
        }

        writer.WriteString("unit", row.Unit);
        writer.WriteNumber("median", row.Ours);
        if (row.Peer is not null)
        {
            writer.WriteNumber("peer_median", row.Theirs);
            writer.WriteNumber("median_ratio", row.Ratio);
        }

        if (row.Bar is not null)
        {
            writer.WriteString("bar", row.Bar);
        }

        writer.WriteEndObject();
    }
}
