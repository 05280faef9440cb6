using System.Globalization;
using Wayleave.Core.Retirement;

namespace Wayleave.Host.Control;

/// <summary>A proof as a story: what happened, in order, with the time since the owner asked.</summary>
public static class ProofStory
{
    /// <summary>Writes it, one event per line, and at the end what it amounts to.</summary>
    public static void Write(ProofDocument proof, TextWriter output)
    {
        ArgumentNullException.ThrowIfNull(proof);
        ArgumentNullException.ThrowIfNull(output);
        output.WriteLine($"{proof.Buffer} of {proof.Exporter}, {ByteSize.Format(proof.SizeBytes)}: {proof.Reason}");
        foreach ((double at, string text) in Tell(proof).OrderBy(e => e.At))
        {
            output.WriteLine(
                string.Create(CultureInfo.InvariantCulture, $"  {at - proof.StartedAtUs,10:F1} us  {text}"));
        }

        foreach (ImporterProofDocument importer in proof.Importers)
        {
            output.WriteLine(
                $"  {importer.Importer} on {importer.Device} ({importer.Kind}): {importer.Grade}{Missing(importer)}");
        }

        foreach (FenceProofDocument fence in proof.Fences.Where(f => f.SignaledAtUs is null || f.Forced))
        {
            output.WriteLine(
                $"  fence {fence.Fence}: {(fence.Forced ? "forced, so it proves nothing" : "still pending")}");
        }

        output.WriteLine(proof.Sufficient
            ? $"  {proof.Grade}: nobody can write to it any more, and it may have a new owner"
            : $"  {proof.Grade}, but {proof.RequiredGrade} is needed: it stays in quarantine{Why(proof.Cause)}");
    }

    private static IEnumerable<(double At, string Text)> Tell(ProofDocument proof)
    {
        yield return (proof.StartedAtUs, "the owner asks for it back; from now on it cannot be mapped");
        if (proof.InvalidatedAtUs is { } invalidated)
        {
            yield return (invalidated, $"{Count(proof.Importers.Count, "importer")} told to stop");
        }

        foreach (ImporterProofDocument importer in proof.Importers)
        {
            if (importer.KeyDeadAtUs is { } dead)
            {
                yield return (dead, $"{importer.Importer}: key 0x{importer.Key:x8} is dead; every use is refused");
            }

            if (importer.GateClosedAtUs is { } closed)
            {
                yield return (
                    closed, $"{importer.Importer}: gate closed with {Count(importer.InsideAtClose, "access")} inside");
            }

            if (importer.DrainedAtUs is { } drained)
            {
                yield return (drained, $"{importer.Importer}: drained; the last access has left");
            }

            if (importer.StoppedAtUs is { } stopped)
            {
                string how = importer.StoppedBy switch
                {
                    StopCause.ProcessDead => "its process is dead",
                    StopCause.EngineReset => "its engine was reset",
                    StopCause.StorageReplaced => "its mapping has other storage",
                    _ => "its device was removed",
                };
                yield return (stopped, $"{importer.Importer}: gone for good, {how}, says {importer.Witness}");
            }

            if (importer.UnmappedAtUs is { } unmapped)
            {
                yield return (unmapped, $"{importer.Importer}: unmapped");
            }
        }

        if (proof.FencesSignaledAtUs is { } signaled)
        {
            yield return (signaled, $"all fences signalled ({proof.Fences.Count} were pending): nobody writes");
        }

        yield return (
            proof.CompletedAtUs, proof.Sufficient ? "retired: nobody reads either" : "the owner stops waiting");
    }

    private static string Why(QuarantineCause? cause) => cause switch
    {
        QuarantineCause.ReservationHeld => ", because somebody kept the reservation and nobody was told",
        QuarantineCause.UserCannotStop => ", because a user that cannot be made to stop still maps it",
        QuarantineCause.WorkPending => ", because work that had started has not ended",
        QuarantineCause.FenceForced => ", because a fence was forced and its owner has not come back",
        QuarantineCause.StillMapped => ", because an importer that was told to stop has not unmapped",
        QuarantineCause.EvidenceMissing => ", because somebody never showed that its gate is empty",
        _ => "",
    };

    private static string Missing(ImporterProofDocument importer) =>
        importer.GateClosedAtUs is not null && importer.DrainedAtUs is null ? ", somebody is still inside its gate"
        : importer.WasMapped && importer.UnmappedAtUs is null ? ", still mapped"
        : "";

    private static string Count(long count, string noun) =>
        string.Create(
            CultureInfo.InvariantCulture, $"{count} {noun}{(count == 1 ? "" : noun.EndsWith('s') ? "es" : "s")}");
}
