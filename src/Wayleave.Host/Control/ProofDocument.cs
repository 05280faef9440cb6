using System.Text.Json;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;

namespace Wayleave.Host.Control;

/// <summary>
/// A <see cref="RetirementProof"/> as JSON. Times are microseconds since the owner's host started, with the tenths that
/// its clock counts; a time that never came is absent. A reader refuses versions that it does not know.
/// </summary>
public sealed record ProofDocument
{
    /// <summary>What <see cref="Schema"/> says.</summary>
    public const string SchemaName = "wayleave.proof.v1";

    private const double TimeUsMax = 30.0 * 366 * 24 * 3600 * 1e6;

    public string Schema { get; set; } = SchemaName;

    public int Version { get; set; } = RetirementProof.SchemaVersion;

    public required ulong BufferId { get; init; }

    public required string Buffer { get; init; }

    public required string Exporter { get; init; }

    public required ulong SizeBytes { get; init; }

    public required string Reason { get; init; }

    public required RetirementGrade Grade { get; init; }

    public required RetirementGrade RequiredGrade { get; init; }

    /// <summary>Whether the grade satisfies the required one, so that the memory may have a new owner.</summary>
    public required bool Sufficient { get; init; }

    /// <summary>What the owner still has to hear; absent when the proof suffices, or does not say.</summary>
    public QuarantineCause? Cause { get; init; }

    public required double StartedAtUs { get; init; }

    /// <summary>Until when the owner waits.</summary>
    public double? DeadlineUs { get; init; }

    public double? InvalidatedAtUs { get; init; }

    public double? FencesSignaledAtUs { get; init; }

    public required double CompletedAtUs { get; init; }

    /// <summary>From the owner's request to the proof.</summary>
    public required double DurationUs { get; init; }

    public required IReadOnlyList<ImporterProofDocument> Importers { get; init; }

    public required IReadOnlyList<FenceProofDocument> Fences { get; init; }

    public static ProofDocument From(RetirementProof proof)
    {
        ArgumentNullException.ThrowIfNull(proof);
        return new ProofDocument
        {
            BufferId = proof.BufferId,
            Buffer = proof.Buffer,
            Exporter = proof.Exporter,
            SizeBytes = proof.SizeBytes,
            Reason = proof.Reason,
            Grade = proof.Grade,
            RequiredGrade = proof.RequiredGrade,
            Sufficient = proof.IsSufficient,
            Cause = proof.Cause == QuarantineCause.None ? null : proof.Cause,
            StartedAtUs = ToMicroseconds(proof.StartedAt),
            DeadlineUs = ToMicroseconds(proof.Deadline),
            InvalidatedAtUs = ToMicroseconds(proof.InvalidatedAt),
            FencesSignaledAtUs = ToMicroseconds(proof.FencesSignaledAt),
            CompletedAtUs = ToMicroseconds(proof.CompletedAt),
            DurationUs = ToMicroseconds(proof.CompletedAt - proof.StartedAt),
            Importers = [.. proof.Importers.Select(ImporterProofDocument.From)],
            Fences = [.. proof.Fences.Select(f => FenceProofDocument.From(f))],
        };
    }

    /// <summary>Reads a proof.</summary>
    /// <exception cref="WayleaveException">
    /// EINVAL: not JSON, not a proof. EPROTO: a version that this program does not know.
    /// </exception>
    public static ProofDocument Parse(ReadOnlySpan<byte> utf8, string source)
    {
        string operation = $"read the proof {source}";
        try
        {
            // The version first: what a later one adds is no mistake of its writer.
            ProofDocument? document = JsonSerializer.Deserialize(utf8, ControlJson.Default.ProofDocument);
            if (document is null)
            {
                throw new WayleaveException(Errno.EINVAL, operation, "it is null");
            }

            if (document is not { Schema: SchemaName, Version: RetirementProof.SchemaVersion })
            {
                throw new WayleaveException(
                    Errno.EPROTO,
                    operation,
                    $"{document.Schema} version {document.Version} is not {SchemaName} version "
                    + $"{RetirementProof.SchemaVersion}",
                    "read it with the program that wrote it");
            }

            document = JsonSerializer.Deserialize(utf8, ControlJson.Strict.ProofDocument)!;
            return document.Times().All(t => t is null or (>= 0 and <= TimeUsMax))
                ? document
                : throw new WayleaveException(Errno.EINVAL, operation, "a time is negative or beyond 30 years");
        }
        catch (JsonException e)
        {
            throw new WayleaveException(
                Errno.EINVAL, operation, $"not a proof: {Describe(e)}", "wayleave revoke --json prints one", e);
        }
    }

    // The runtime's words name types of ours, which nobody knows.
    private static string Describe(JsonException e)
    {
        const string Missing = "including: ";
        string message = ErrnoMap.FirstLine(e.Message);
        int at = message.IndexOf(Missing, StringComparison.Ordinal);
        string where = e.Path is null or "$" ? "" : $" in {e.Path}";
        return at >= 0 ? $"it lacks {message[(at + Missing.Length)..].Split(" Path: ", 2)[0].TrimEnd('.')}{where}"
            : where.Length > 0 ? $"a value that it cannot have{where}"
            : "its form is another one";
    }

    private IEnumerable<double?> Times() =>
        Importers.SelectMany(i => i.Times())
            .Concat(Fences.Select(f => f.SignaledAtUs))
            .Concat([StartedAtUs, DeadlineUs, InvalidatedAtUs, FencesSignaledAtUs, CompletedAtUs, DurationUs]);

    /// <summary>The same proof as the value that Core makes.</summary>
    public RetirementProof ToProof() => new()
    {
        Version = Version,
        BufferId = BufferId,
        Buffer = Buffer,
        Exporter = Exporter,
        SizeBytes = SizeBytes,
        Reason = Reason,
        Grade = Grade,
        RequiredGrade = RequiredGrade,
        Cause = Cause ?? QuarantineCause.None,
        StartedAt = FromMicroseconds(StartedAtUs),
        Deadline = FromMicroseconds(DeadlineUs),
        InvalidatedAt = FromMicroseconds(InvalidatedAtUs),
        FencesSignaledAt = FromMicroseconds(FencesSignaledAtUs),
        CompletedAt = FromMicroseconds(CompletedAtUs),
        Importers = [.. Importers.Select(i => i.ToProof())],
        Fences = [.. Fences.Select(f => f.ToProof())],
    };

    // A tick is a tenth of a microsecond: exact in a double for the first 28 years of a host.
    internal static double ToMicroseconds(TimeSpan time) => time.Ticks / 10.0;

    internal static double? ToMicroseconds(TimeSpan? time) => time is { } value ? ToMicroseconds(value) : null;

    internal static TimeSpan FromMicroseconds(double microseconds) => new((long)Math.Round(microseconds * 10));

    internal static TimeSpan? FromMicroseconds(double? microseconds) =>
        microseconds is { } value ? FromMicroseconds(value) : null;
}

/// <summary>One importer's part of a proof.</summary>
public sealed record ImporterProofDocument
{
    public required string Importer { get; init; }

    public required string Device { get; init; }

    /// <summary>On whose behalf: what a quarantine counts by.</summary>
    public string? Holder { get; init; }

    public required ImporterKind Kind { get; init; }

    public required RetirementGrade Grade { get; init; }

    public required bool WasMapped { get; init; }

    /// <summary>When it answered that it stops.</summary>
    public double? AcknowledgedAtUs { get; init; }

    /// <summary>The remote key that died, if there was one.</summary>
    public uint? Key { get; init; }

    public double? KeyDeadAtUs { get; init; }

    public double? GateClosedAtUs { get; init; }

    /// <summary>Accesses that were under way when the gate closed.</summary>
    public required long InsideAtClose { get; init; }

    public double? DrainedAtUs { get; init; }

    public double? UnmappedAtUs { get; init; }

    /// <summary>The fence by which it reports its drain, if it needed one.</summary>
    public string? DrainFence { get; init; }

    /// <summary>What had become of that fence; absent without one.</summary>
    public DrainState? Drain { get; init; }

    /// <summary>How it is known that it is gone for good, if it is.</summary>
    public StopCause? StoppedBy { get; init; }

    public double? StoppedAtUs { get; init; }

    /// <summary>Who says that it is gone.</summary>
    public string? Witness { get; init; }

    internal IEnumerable<double?> Times() =>
        [AcknowledgedAtUs, KeyDeadAtUs, GateClosedAtUs, DrainedAtUs, UnmappedAtUs, StoppedAtUs];

    internal static ImporterProofDocument From(ImporterProof proof) => new()
    {
        Importer = proof.Importer,
        Device = proof.Device,
        Holder = proof.Holder,
        Kind = proof.Kind,
        Grade = proof.Grade,
        WasMapped = proof.WasMapped,
        AcknowledgedAtUs = ProofDocument.ToMicroseconds(proof.AcknowledgedAt),
        Key = proof.Key,
        KeyDeadAtUs = ProofDocument.ToMicroseconds(proof.KeyDeadAt),
        GateClosedAtUs = ProofDocument.ToMicroseconds(proof.GateClosedAt),
        InsideAtClose = proof.InsideAtClose,
        DrainedAtUs = ProofDocument.ToMicroseconds(proof.DrainedAt),
        UnmappedAtUs = ProofDocument.ToMicroseconds(proof.UnmappedAt),
        DrainFence = proof.DrainFence,
        Drain = proof.Drain == DrainState.None ? null : proof.Drain,
        StoppedBy = proof.StoppedBy,
        StoppedAtUs = ProofDocument.ToMicroseconds(proof.StoppedAt),
        Witness = proof.Witness,
    };

    internal ImporterProof ToProof() => new()
    {
        Importer = Importer,
        Device = Device,
        Holder = Holder,
        Kind = Kind,
        Grade = Grade,
        WasMapped = WasMapped,
        AcknowledgedAt = ProofDocument.FromMicroseconds(AcknowledgedAtUs),
        Key = Key,
        KeyDeadAt = ProofDocument.FromMicroseconds(KeyDeadAtUs),
        GateClosedAt = ProofDocument.FromMicroseconds(GateClosedAtUs),
        InsideAtClose = InsideAtClose,
        DrainedAt = ProofDocument.FromMicroseconds(DrainedAtUs),
        UnmappedAt = ProofDocument.FromMicroseconds(UnmappedAtUs),
        DrainFence = DrainFence,
        Drain = Drain ?? DrainState.None,
        StoppedBy = StoppedBy,
        StoppedAt = ProofDocument.FromMicroseconds(StoppedAtUs),
        Witness = Witness,
    };
}

/// <summary>One fence that the revoke waited for.</summary>
public sealed record FenceProofDocument
{
    /// <summary>Name, context and sequence number.</summary>
    public required string Fence { get; init; }

    /// <summary>Absent while it is pending.</summary>
    public double? SignaledAtUs { get; init; }

    /// <summary>Signalled by somebody else than its owner; no evidence.</summary>
    public required bool Forced { get; init; }

    /// <summary>Its owner said that the work has ended, in time or after it was forced.</summary>
    public required bool Ended { get; init; }

    /// <summary>Why the work failed, as a number of errno.h; absent when it did not.</summary>
    public int? Error { get; init; }

    internal static FenceProofDocument From(FenceProof proof) => new()
    {
        Fence = proof.Fence,
        SignaledAtUs = ProofDocument.ToMicroseconds(proof.SignaledAt),
        Forced = proof.IsForced,
        Ended = proof.HasEnded,
        Error = proof.Error == Errno.Success ? null : (int)proof.Error,
    };

    internal FenceProof ToProof() => new(Fence, ProofDocument.FromMicroseconds(SignaledAtUs), Forced, Ended)
    {
        Error = (Errno)(Error ?? 0),
    };
}
