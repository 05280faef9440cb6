using System.Text.Json;
using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// What a file says about memory that was taken back: a proof as <c>wayleave revoke --json</c> prints it, several one
/// after the other or in an array, or a report that carries its proofs in a member <c>proof</c>.
/// </summary>
/// <param name="Proofs">In the order of the file; at least one.</param>
/// <param name="LateWriteBytes">
/// Bytes that a report counted as changed after the proofs; null when no report is in the file.
/// </param>
/// <param name="LateReadBytes">Bytes that a report counted as read by the old user after the proofs.</param>
public sealed record ProofFile(IReadOnlyList<ProofDocument> Proofs, long? LateWriteBytes, long? LateReadBytes)
{
    /// <summary>The longest file that is read.</summary>
    public const int BytesMax = 64 << 20;

    private const string Member = "proof";

    /// <summary>Reads a file.</summary>
    /// <param name="utf8">Its bytes.</param>
    /// <param name="source">Its name, for failures.</param>
    /// <exception cref="WayleaveException">
    /// EINVAL: not JSON, or not a proof, or none in it. EPROTO: a version that this program does not know.
    /// </exception>
    public static ProofFile Parse(ReadOnlySpan<byte> utf8, string source)
    {
        string operation = $"read the proof {source}";
        List<ProofDocument> proofs = [];
        long? lateWrites = null, lateReads = null;
        try
        {
            Utf8JsonReader reader = new(utf8, new JsonReaderOptions { AllowMultipleValues = true });
            while (reader.Read())
            {
                using JsonDocument value = JsonDocument.ParseValue(ref reader);
                Collect(value.RootElement);
            }
        }
        catch (JsonException e)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                $"not JSON: line {e.LineNumber + 1}: {ErrnoMap.FirstLine(e.Message.Split(" LineNumber", 2)[0])}",
                innerException: e);
        }

        return proofs.Count > 0
            ? new ProofFile(proofs, lateWrites, lateReads)
            : throw new WayleaveException(
                Errno.EINVAL, operation, "there is no proof in it", "wayleave revoke --json prints one");

        void Collect(JsonElement element)
        {
            if (element.ValueKind == JsonValueKind.Array)
            {
                foreach (JsonElement item in element.EnumerateArray())
                {
                    Collect(item);
                }
            }
            else if (element.ValueKind == JsonValueKind.Object && element.TryGetProperty(Member, out JsonElement inner))
            {
                lateWrites = Add(lateWrites, element, "late_writes");
                lateReads = Add(lateReads, element, "late_reads");
                Collect(inner);
            }
            else
            {
                proofs.Add(ProofDocument.Parse(JsonSerializer.SerializeToUtf8Bytes(
                    element, ControlJson.Default.JsonElement), source));
            }
        }
    }

    private static long? Add(long? sum, JsonElement report, string name) =>
        report.TryGetProperty(name, out JsonElement counter) && counter.TryGetInt64(out long bytes)
            ? (sum ?? 0) + bytes
            : sum;
}
