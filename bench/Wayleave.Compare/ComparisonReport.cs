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
/// <param name="IsMet">Whether it is kept; null without a bar or a ratio.</param>
/// <param name="Error">Why figures are missing, all or those of some rounds. Figures that are: not a number.</param>
public sealed record ComparisonRow(
    string Test,
    string? Peer,
    string Unit,
    double Ours,
    double Theirs,
    double Ratio,
    string? Bar,
    bool? IsMet = null,
    string? Error = null);

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
        Write(output, schema, rows, rounds, sizeBytes);
    }

    /// <summary>As <see cref="Print"/>, and with lines for readers.</summary>
    public static void Write(
        Stream output,
        string schema,
        IEnumerable<ComparisonRow> rows,
        int rounds,
        int? sizeBytes = null,
        params IReadOnlyList<string> notes)
    {
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
        if (notes.Count > 0)
        {
            writer.WriteStartArray("notes");
            foreach (string note in notes)
            {
                writer.WriteStringValue(note);
            }

            writer.WriteEndArray();
        }

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
        WriteFigure(writer, "median", row.Ours);
        WriteFigure(writer, "peer_median", row.Theirs);
        WriteFigure(writer, "median_ratio", row.Ratio);
        if (row.Bar is not null)
        {
            writer.WriteString("bar", row.Bar);
        }

        if (row.IsMet is { } isMet)
        {
            writer.WriteBoolean("met", isMet);
        }

        if (row.Error is not null)
        {
            writer.WriteString("error", row.Error);
        }

        writer.WriteEndObject();
    }

    private static void WriteFigure(Utf8JsonWriter writer, string name, double value)
    {
        if (!double.IsNaN(value))
        {
            writer.WriteNumber(name, value);
        }
    }
}
